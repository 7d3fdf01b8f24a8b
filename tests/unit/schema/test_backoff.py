"""Pauses grow to their limit, and no two processes keep step."""

from __future__ import annotations

import random
from itertools import islice

from mrcelery.schema.backoff import pause, pauses


def test_pauses_grow_with_jitter() -> None:
    found = list(islice(pauses(0.1, 2.0), 10))
    for tries, seconds in enumerate(found):
        whole = min(2.0, 0.1 * 2**tries)
        assert whole / 2 <= seconds <= whole
    assert len({pause(3, 1.0, 100.0) for _ in range(20)}) > 1
    assert pause(10_000, 1.0, 30.0) <= 30.0


def test_what_user_code_draws_at_random_stays_as_it_is() -> None:
    random.seed(7)
    before = random.getstate()
    pause(1, 1.0, 2.0)
    assert random.getstate() == before
