"""Pauses between two tries: each about twice as long as the one before, and never the same for two processes."""

from __future__ import annotations

from collections.abc import Iterator
from secrets import SystemRandom

_random = SystemRandom()
"""Not Python's own generator: user code seeds that, and counts on what it draws."""


def pause(tries: int, first: float, longest: float) -> float:
    """Return how many seconds to wait after so many tries, from 0: of a doubling time, a random share above half."""
    whole = min(longest, first * float(2 ** min(tries, 32)))
    share: float = _random.uniform(0.5, 1.0)
    return whole * share


def pauses(first: float, longest: float) -> Iterator[float]:
    """Yield the pauses after one try, two, and so on, for ever."""
    tries = 0
    while True:
        yield pause(tries, first, longest)
        tries += 1
