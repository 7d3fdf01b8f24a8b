"""Pauses between two tries: each about twice as long as the one before, and never the same for two processes."""

from __future__ import annotations

from collections.abc import Iterator
from secrets import SystemRandom

_random = SystemRandom()
"""Not Python's global generator: user code may seed that, and depend on its numbers."""


def pause(tries: int, first: float, longest: float) -> float:
    """Return the seconds to wait after ``tries`` tries, from 0: a random share, above half, of a doubling time."""
    whole = min(longest, first * float(2 ** min(tries, 32)))
    share: float = _random.uniform(0.5, 1.0)
    return whole * share


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield the pauses after one try, two, and so on, forever."""
    tries = 0
    while True:
        yield pause(tries, first, longest)
        tries += 1
