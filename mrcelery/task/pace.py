"""How many pairs a task takes at once: few enough to keep slow mappers and huge pairs under control."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

SLICE_SECONDS = 0.1
"""Approximate time that user code runs between two polls of the job; its input and output are cut accordingly."""


Pair = tuple[Any, Any]


Pairs = Iterable[Pair]


Columns = tuple[list[Any], list[Any]]


Encode = Callable[[Any, Any], Pair]


class Pace:
    """How many pairs to take at once, bounded by time and by size.

    Few at first, more if they turn out small and quick: a few huge ones must not add up, and a slow mapper must not
    keep running for long in a job that has ended.
    """

    def __init__(self, budget: int, most: int) -> None:
        self._step = 1
        self._most = most
        self._bytes = budget // 16
        self._began = 0.0

    def step(self) -> int:
        """Return how many to take now, and start the clock."""
        self._began = time.monotonic()
        return self._step

    def took(self, size: int) -> None:
        """Record that pairs were taken, at ``size`` bytes each, and adapt the next step."""
        faster = 4.0 if time.monotonic() - self._began < SLICE_SECONDS else 0.25
        self._step = max(1, min(self._most, int(self._step * faster), self._bytes // max(16, size)))


def columns(pairs: list[Pair]) -> Columns:
    """Split pairs into a column of keys and one of values."""
    return [key for key, _ in pairs], [value for _, value in pairs]


def sampled_size(column: list[Any], most: int = 16) -> int:
    """Estimate the bytes of one object of a column: the mean of a sample, in which each object counts once."""
    sample = column[:: max(1, len(column) // most)]
    return sum(map(size_of, {id(item): item for item in sample}.values())) // max(1, len(sample))


def size_of(item: Any) -> int:
    """Estimate the bytes of an object: itself and, for containers, a sample of their items."""
    total: int = item.__sizeof__()
    if isinstance(item, (tuple, list, set, frozenset)):
        n = len(item)
        if n:
            sample = list(islice(item, 8))
            total += sum(map(size_of, sample)) * n // len(sample)
    elif isinstance(item, dict):
        n = len(item)
        if n:
            pairs = list(islice(item.items(), 8))
            total += sum(size_of(k) + size_of(v) for k, v in pairs) * n // len(pairs)
    return total
