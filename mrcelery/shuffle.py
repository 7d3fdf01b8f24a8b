"""The shuffle: sorted runs, their merge in bounded memory, and the groups a reducer sees.

A *run* is an iterator of :class:`mrcelery.codec.Block` whose keys are in the order of
:mod:`mrcelery.partition` over the whole run. Several runs merge by blocks: all records below the
smallest key that ends a block in memory are taken at once, sorted together (Python's sort finds the
runs in them), and handed on, so the cost per record is that of a sort of a few thousand records, and
memory holds one block per run. Equal keys come in order of run, and within a run in its order: the
values of a key reach the reducer in order of map task and of emission.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from mrcelery.codec import BLOCK_RECORDS, Block, BlockWriter, read_blocks
from mrcelery.errors import CodecError
from mrcelery.partition import argsort, check_keys, order_key, starts_of_groups

Run = Iterator[Block]

FAN_IN = 128
"""Runs merged at once at most: each holds a decoded block, a megabyte or so, in memory."""


def sorted_block(keys: list[Any], values: list[Any], sort_values: bool = False) -> Block:
    """The records in order of key, and of value where ``sort_values``; equal ones keep their order.

    Raises :class:`CodecError` for a key, or a value to sort, that has no order.
    """
    check_keys(keys)
    if sort_values:
        try:
            check_keys(values)
        except CodecError as e:
            raise CodecError(f"SORT_VALUES cannot order the values as keys are ordered: {e}") from None
    order = argsort(list(zip(keys, values, strict=True)) if sort_values else keys)
    return Block(list(map(keys.__getitem__, order)), list(map(values.__getitem__, order)))


class _Head:
    """A run's block in memory, its sort column, and how far it was taken."""

    def __init__(self, run: Run, sort_values: bool) -> None:
        self._run = run
        self._sort_values = sort_values
        self.at = 0
        self.keys: list[Any] = []
        self.values: list[Any] = []
        self.by: list[Any] = []
        self._ordered: list[Any] | None = None

    def load(self) -> bool:
        """See to it that a record is in memory; False at the end of the run."""
        while self.at >= len(self.by):
            block = next(self._run, None)
            if block is None:
                return False
            self.keys, self.values = block
            self.by = list(zip(self.keys, self.values, strict=True)) if self._sort_values else self.keys
            self._ordered = None
            self.at = 0
        return True

    def ordered(self) -> list[Any]:
        """The sort column as tuples that compare whatever the types are."""
        if self._ordered is None:
            self._ordered = list(map(order_key, self.by))
        return self._ordered

    def below(self, bound: Any) -> int:
        """Where the records below ``bound`` end."""
        try:
            return bisect_left(self.by, bound, self.at)
        except TypeError:
            return bisect_left(self.ordered(), order_key(bound), self.at)

    def upto(self, bound: Any) -> int:
        """Where the records up to and at ``bound`` end."""
        try:
            return bisect_right(self.by, bound, self.at)
        except TypeError:
            return bisect_right(self.ordered(), order_key(bound), self.at)

    def take(self, end: int) -> Block:
        at, self.at = self.at, end
        return Block(self.keys[at:end], self.values[at:end])


def _lowest_end(heads: list[_Head]) -> Any:
    try:
        return min(head.by[-1] for head in heads)
    except TypeError:
        return min((head.by[-1] for head in heads), key=order_key)


def merge(runs: Iterable[Run], *, sort_values: bool = False) -> Run:
    """Merge sorted runs of checked keys into one.

    Give at most :data:`FAN_IN` runs; :func:`merge_many` merges more, in passes.
    """
    heads = [_Head(run, sort_values) for run in runs]
    heads = [head for head in heads if head.load()]
    while len(heads) > 1:
        bound = _lowest_end(heads)
        keys: list[Any] = []
        values: list[Any] = []
        sources = 0
        for head in heads:
            cut = head.below(bound)
            if cut > head.at:
                block = head.take(cut)
                keys += block.keys
                values += block.values
                sources += 1
        if sources > 1:
            order = argsort(list(zip(keys, values, strict=True)) if sort_values else keys)
            yield Block(list(map(keys.__getitem__, order)), list(map(values.__getitem__, order)))
        elif sources:
            yield Block(keys, values)
        # The records at the bound itself may go on in a run's next block: run after run, block by block.
        for head in heads:
            while head.load():
                cut = head.upto(bound)
                if cut == head.at:
                    break
                yield head.take(cut)
                if cut < len(head.by):
                    break
        heads = [head for head in heads if head.load()]
    for head in heads:
        while head.load():
            yield head.take(len(head.by))


def merge_many(
    runs: list[Callable[[], Run]],
    scratch: str,
    *,
    sort_values: bool = False,
    allow_pickle: bool = False,
    combine: Callable[[Run], Run] | None = None,
    fan_in: int = FAN_IN,
) -> Run:
    """Merge any number of runs, given as functions that open them, ``fan_in`` at a time.

    Passes before the last go through files in the folder ``scratch``, which is made where it is missing; they are
    removed as they are read.
    """
    generation = 0
    while len(runs) > fan_in:
        # Merge neighbours only, and just as many as needed: the order of runs is the order of values.
        merged: list[Callable[[], Run]] = []
        excess = len(runs) - fan_in
        for i in range(0, len(runs), fan_in):
            group = runs[i : i + fan_in]
            if excess <= 0 or len(group) == 1:
                merged += group
                continue
            excess -= len(group) - 1
            os.makedirs(scratch, exist_ok=True)
            path = os.path.join(scratch, f"merge-{generation}-{i}")
            run = merge([open_run() for open_run in group], sort_values=sort_values)
            write_run_file(path, combine(run) if combine else run, allow_pickle=allow_pickle)
            merged.append(_opener(path, allow_pickle))
        runs = merged
        generation += 1
    yield from merge([open_run() for open_run in runs], sort_values=sort_values)


def _opener(path: str, allow_pickle: bool) -> Callable[[], Run]:
    return lambda: read_run_file(path, allow_pickle=allow_pickle, remove=True)


def write_run_file(path: str, run: Run, *, allow_pickle: bool = False) -> None:
    """Write a run to a local scratch file."""
    with open(path, "wb", buffering=1 << 18) as out:
        writer = BlockWriter(out, allow_pickle=allow_pickle)
        for block in packed(run):
            writer.write(block.keys, block.values)
        writer.close()


def read_run_file(
    path: str, start: int = 0, end: int | None = None, *, allow_pickle: bool = False, remove: bool = False
) -> Run:
    """Read a run from bytes ``[start, end)`` of a local file."""
    with open(path, "rb", buffering=0) as file:
        if remove:
            os.unlink(path)  # gone from the folder now, and from the disk when it is read
        yield from read_blocks(file_chunks(file, start, end), path, allow_pickle=allow_pickle)


def file_chunks(file: Any, start: int = 0, end: int | None = None, size: int = 256 << 10) -> Iterator[bytes]:
    """The bytes ``[start, end)`` of an open file, in pieces."""
    if start:
        file.seek(start)
    left = (1 << 62) if end is None else end - start
    while left > 0:
        chunk = file.read(min(size, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def packed(run: Run) -> Run:
    """The same records in blocks that are worth their overhead: small neighbours joined."""
    keys: list[Any] = []
    values: list[Any] = []
    for block in run:
        if not keys and len(block.keys) >= BLOCK_RECORDS:
            yield block
            continue
        keys += block.keys
        values += block.values
        if len(keys) >= BLOCK_RECORDS:
            yield Block(keys, values)
            keys, values = [], []
    if keys:
        yield Block(keys, values)


class Groups:
    """Iterates over a sorted run as ``(key, values)``, one per distinct key.

    ``values`` is an iterator that may span any number of blocks and holds one at a time; what the
    consumer leaves of it is skipped. ``key`` is the key of the group handed out last.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._at = 0
        self.key: Any = None
        self.records = 0
        self.groups = 0

    def _load(self) -> bool:
        while self._at >= len(self._keys):
            block = next(self._run, None)
            if block is None:
                return False
            self._keys, self._values = block
            self._at = 0
            self.records += len(self._keys)
        return True

    def __iter__(self) -> Iterator[tuple[Any, Iterator[Any]]]:
        while self._load():
            keys, values, start = self._keys, self._values, self._at
            ends = starts_of_groups(keys) if start == 0 else [
                start + i for i in starts_of_groups(keys[start:])
            ]
            self.groups += len(ends) + 1
            for end in ends:
                self.key = keys[start]
                yield keys[start], iter(values[start:end])
                start = end
            self._at = start
            self.key = key = keys[start]
            yield key, self._rest(key)
            for _ in self._rest(key):
                pass  # what the reducer left unread

    def _rest(self, key: Any) -> Iterator[Any]:
        """Values of the block's last group and of the blocks that it goes on in."""
        while self._load():
            if self._keys[self._at] != key:
                return
            if self._keys[-1] == key:  # sorted: all of the block belongs to the group
                end = len(self._keys)
            else:
                starts = starts_of_groups(self._keys[self._at :])
                end = self._at + starts[0]
            start, self._at = self._at, end
            yield from islice(self._values, start, end)
            if end < len(self._keys):
                return
