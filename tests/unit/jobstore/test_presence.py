"""Which workers are alive, by what they published last."""

from __future__ import annotations

import pytest

from mrcelery.jobstore.presence import SILENT, ailing, listening, of_queue
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Presence


def presence(*queues: str, every: float = 5.0, sick: str = "") -> bytes:
    return encode(Presence(queues=queues, processes=2, every=every, arrow=True, sick=sick))


def test_a_worker_is_alive_until_it_has_missed_its_own_intervals() -> None:
    for every in (1.0, 5.0):
        for since, alive in ((0.0, True), (SILENT * every - 0.1, True), (SILENT * every, False)):
            workers = {"w": (since, presence("q", every=every))}
            assert listening(workers, "q") == (frozenset({"w"}) if alive else frozenset())
            assert set(of_queue(workers, "q")) == {"w"}  # live or silent


def test_only_the_workers_of_the_queue_count() -> None:
    workers = {"a": (0.0, presence("q")), "b": (0.0, presence("other")), "c": (0.0, presence("other", "q"))}
    assert listening(workers, "q") == {"a", "c"}
    assert listening(workers, "nobody's") == frozenset()
    assert listening({}, "q") == frozenset()


def test_those_that_are_sick_listen_and_say_why() -> None:
    workers = {"a": (0.0, presence("q", sick="full")), "b": (0.0, presence("q")), "c": (99.0, presence("q", sick="x"))}
    assert listening(workers, "q") == {"a", "b"}
    assert ailing(workers, "q") == {"a": "full"}
    assert ailing(workers, "other") == {}


@pytest.mark.parametrize("data", [b"", b"{", b'{"v": 999}'])
def test_a_worker_whose_record_cannot_be_read_is_not_counted_on(data: bytes) -> None:
    assert listening({"old": (0.0, data), "new": (0.0, presence("q"))}, "q") == {"new"}
