"""Dividing a map task's sorted block among its partitions: R regions, as in the paper's section 3.1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from mrcelery.errors import UserCodeError, safe_repr, writable
from mrcelery.records.blocks import Block
from mrcelery.records.columns import as_list, hashes, is_array, starts, take
from mrcelery.records.hashing import partition_numbers
from mrcelery.records.order import starts_of_groups
from mrcelery.task.context import RECORD_REPR, Task
from mrcelery.task.sink import decode_pair


class Partitioning:
    """Divides a map task's blocks among its partitions: by stable hash, or by the job's ``partition()``."""

    def __init__(self, task: Task, protocol: Any) -> None:
        """Take the protocol in whose bytes the blocks hold keys and values, or None for native types."""
        self._task = task
        self._protocol = protocol

    def divide(self, block: Block) -> Iterator[tuple[int, Block]]:
        """Yield a sorted block as one sorted block per non-empty partition, in order of partition."""
        n = self._task.partitions
        keys, values = block
        if n == 1:
            if len(keys):
                yield 0, block
            return
        if is_array(keys):
            yield from self._partition_arrays(block)
            return
        begins = [0, *starts_of_groups(keys)] if keys else []
        distinct = keys if len(begins) == len(keys) else [keys[i] for i in begins]
        numbers = self._numbers(distinct, (values[i] for i in begins))
        if len(begins) != len(keys):
            ends = [*begins[1:], len(keys)]
            numbers = list(chain.from_iterable([p] * (e - s) for p, s, e in zip(numbers, begins, ends, strict=True)))
        columns: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(n)]
        for p, k, v in zip(numbers, keys, values, strict=True):
            column = columns[p]
            column[0].append(k)
            column[1].append(v)
        for p, (ks, vs) in enumerate(columns):
            if ks:
                yield p, Block(ks, vs)

    def _partition_arrays(self, block: Block) -> Iterator[tuple[int, Block]]:
        import numpy as np  # noqa: PLC0415 - needs numpy

        if self._task.hooks.partition is None:
            numbers = (hashes(block.keys) % self._task.reducers).astype(np.int64)
        else:
            begins = starts(block.keys)
            distinct = as_list(take(block.keys, begins))
            numbers = np.array(self._numbers(distinct, [None] * len(distinct)), np.int64)
            numbers = np.repeat(numbers, np.diff(begins, append=len(block.keys)))
        by = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=self._task.reducers))
        start = 0
        for p, end in enumerate(ends.tolist()):
            if end > start:
                yield p, Block(take(block.keys, by[start:end]), take(block.values, by[start:end]))
            start = end

    def _numbers(self, keys: list[Any], values: Iterable[Any]) -> list[int]:
        """Return the partitions of distinct keys, each given with one of its values: a protocol reads only pairs."""
        n = self._task.reducers
        own = self._task.hooks.partition
        if own is None:
            return list(partition_numbers(keys, n))
        protocol = self._protocol
        numbers = []
        for key, value in zip(keys, values, strict=True):
            plain = key if protocol is None else decode_pair(protocol, key, value)[0]
            try:
                number = self._task.call(lambda: own(plain, n))  # noqa: B023
            except UserCodeError as e:
                e.file, e.offset = "", None  # they are the mapper's present position
                e.record = writable(safe_repr(plain, RECORD_REPR))
                raise
            if type(number) is not int or not 0 <= number < n:
                raise UserCodeError(
                    f"partition({safe_repr(plain, 100)}, {n}) returned {safe_repr(number, 100)}: "
                    f"return an int from 0 to {n - 1}"
                )
            numbers.append(number)
        return numbers
