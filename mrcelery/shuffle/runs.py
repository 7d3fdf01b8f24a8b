"""The shuffle: sorted runs, their merge in bounded memory, and the groups passed to a reducer.

A *run* is an iterator of :class:`mrcelery.records.blocks.Block` whose keys are in the order of
:mod:`mrcelery.records.order` over the whole run. Several runs are merged by blocks: all records below the smallest key
that ends a block in memory are taken at once, sorted together (Python's sort finds the runs in them), and passed on, so
a record costs what it costs to sort a few thousand records, and memory holds one block per run. Equal keys are in
order of run, and within a run in its order: the values of a key reach the reducer in order of map task and of emission.

The blocks of a run all consist of lists, or all of Arrow arrays of the same types. Runs of arrays with the same types
are merged as arrays; if the types differ, all become lists.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from mrcelery.errors import CodecError
from mrcelery.records.blocks import BLOCK_RECORDS, Block, BlockWriter, read_blocks
from mrcelery.records.columns import Column, Keys, as_list, concat, is_array, order, take
from mrcelery.records.order import argsort, check_keys, order_key, starts_of_groups

Run = Iterator[Block]

FAN_IN = 128
"""Most runs merged at once: each holds a decoded block, about a megabyte, in memory."""


def sorted_block(keys: list[Any], values: list[Any], sort_values: bool = False) -> Block:
    """Sort records by key, and by value if ``sort_values``; equal ones keep their order.

    Raises :class:`CodecError` for a key, or a value to sort, that has no order.
    """
    check_keys(keys)
    if sort_values:
        try:
            check_keys(values)
        except CodecError as e:
            raise CodecError(f"SORT_VALUES cannot order the values as keys are ordered: {e}") from None
    return _sorted([Block(keys, values)], sort_values)


class _Head:
    """A run's block in memory, its sort column, and the position up to which it was taken."""

    def __init__(self, run: Run, sort_values: bool) -> None:
        self._run = run
        self._sort_values = sort_values
        self.at = 0
        self.block = Block([], [])
        self.by: Sequence[Any] = ()
        self._ordered: list[Any] | None = None

    def load(self) -> bool:
        """Load the next record if none is in memory; return False at the end of the run."""
        while self.at >= len(self.by):
            block = next(self._run, None)
            if block is None:
                return False
            self._hold(block)
        return True

    def _hold(self, block: Block) -> None:
        self.block = block
        if is_array(block.keys):
            self.by = Keys(block.keys)
        else:
            self.by = list(zip(*block, strict=True)) if self._sort_values else block.keys
        self._ordered = None
        self.at = 0

    def unpack(self, convert: Callable[[Column], list[Any]]) -> None:
        """Return lists from now on; ``convert`` makes the lists of values."""
        self._run = as_lists(self._run, convert)
        self._hold(next(as_lists(iter([self.block]), convert)))

    def ordered(self) -> list[Any]:
        """Return the sort column as tuples that can be compared whatever the types are."""
        if self._ordered is None:
            self._ordered = list(map(order_key, self.by))
        return self._ordered

    def below(self, bound: Any) -> int:
        """Find where the records below ``bound`` end."""
        try:
            return bisect_left(self.by, bound, self.at)
        except TypeError:
            return bisect_left(self.ordered(), order_key(bound), self.at)

    def upto(self, bound: Any) -> int:
        """Find where the records up to and including ``bound`` end."""
        try:
            return bisect_right(self.by, bound, self.at)
        except TypeError:
            return bisect_right(self.ordered(), order_key(bound), self.at)

    def take(self, end: int) -> Block:
        at, self.at = self.at, end
        return Block(self.block.keys[at:end], self.block.values[at:end])


def as_lists(run: Run, convert: Callable[[Column], list[Any]] = as_list) -> Run:
    """Turn a run's blocks into blocks of lists; ``convert`` makes the lists of values."""
    for keys, values in run:
        yield Block(as_list(keys), convert(values))


def _alike(blocks: list[Block]) -> bool:
    """Check whether all blocks have lists, or all have arrays of the same types."""
    return len({(b.keys.type, b.values.type) if is_array(b.keys) else None for b in blocks}) < 2


def joined(blocks: list[Block]) -> Block:
    """Join blocks of the same types."""
    if len(blocks) == 1:
        return blocks[0]
    if blocks and is_array(blocks[0].keys):
        return Block(concat([b.keys for b in blocks]), concat([b.values for b in blocks]))
    return Block(list(chain.from_iterable(b.keys for b in blocks)), list(chain.from_iterable(b.values for b in blocks)))


def _sorted(blocks: list[Block], sort_values: bool) -> Block:
    """Sort blocks of checked keys into one; equal records keep the order of their blocks."""
    keys, values = joined(blocks)
    if is_array(keys):
        by = order(keys)
        return Block(take(keys, by), take(values, by))
    positions = argsort(list(zip(keys, values, strict=True)) if sort_values else keys)
    return Block(list(map(keys.__getitem__, positions)), list(map(values.__getitem__, positions)))


def _lowest_end(heads: list[_Head]) -> Any:
    try:
        return min(head.by[-1] for head in heads)
    except TypeError:
        return min((head.by[-1] for head in heads), key=order_key)


def merge(runs: Iterable[Run], *, sort_values: bool = False, convert: Callable[[Column], list[Any]] = as_list) -> Run:
    """Merge sorted runs of checked keys into one; ``convert`` turns arrays of values into lists if necessary.

    Pass at most :data:`FAN_IN` runs; :func:`merge_many` merges more, in passes.
    """
    heads = [_Head(run, sort_values) for run in runs]
    heads = [head for head in heads if head.load()]
    if not _alike([head.block for head in heads]) or (sort_values and heads and is_array(heads[0].block.keys)):
        for head in heads:
            head.unpack(convert)
    while len(heads) > 1:
        bound = _lowest_end(heads)
        blocks = [head.take(cut) for head in heads if (cut := head.below(bound)) > head.at]
        if len(blocks) > 1:
            yield _sorted(blocks, sort_values)
        elif blocks:
            yield blocks[0]
        # The records at the bound itself may continue in a run's next block: run after run, block by block.
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
    convert: Callable[[Column], list[Any]] = as_list,
    fan_in: int = FAN_IN,
) -> Run:
    """Merge any number of runs, given as functions that open them, ``fan_in`` at a time.

    Passes before the last go through files in the folder ``scratch``, which is created if it is missing; they are
    removed as they are read.
    """
    generation = 0
    while len(runs) > fan_in:
        # Merge only neighbors, and only as many as needed: the order of runs is the order of values.
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
            run = merge([open_run() for open_run in group], sort_values=sort_values, convert=convert)
            write_run_file(path, run, allow_pickle=allow_pickle)
            merged.append(_opener(path, allow_pickle))
        runs = merged
        generation += 1
    yield from merge([open_run() for open_run in runs], sort_values=sort_values, convert=convert)


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
            os.unlink(path)  # removed from the folder now, and from the disk once it is read
        yield from read_blocks(file_chunks(file, start, end), path, allow_pickle=allow_pickle)


def file_chunks(file: Any, start: int = 0, end: int | None = None, size: int = 256 << 10) -> Iterator[bytes]:
    """Yield the bytes ``[start, end)`` of an open file, in pieces."""
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
    """Join small neighboring blocks, so that each is worth its overhead."""
    held: list[Block] = []
    records = 0
    for block in run:
        held.append(block)
        records += len(block.keys)
        if records >= BLOCK_RECORDS:
            yield joined(held)
            held, records = [], 0
    if records:
        yield joined(held)


class Groups:
    """Iterates over a sorted run as ``(key, values)``, one per distinct key.

    ``values`` is an iterator that may span any number of blocks and holds one at a time; values that the consumer
    leaves unread are skipped. ``key`` is the key of the latest group. Blocks consist of lists.
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
            ends = starts_of_groups(keys) if start == 0 else [start + i for i in starts_of_groups(keys[start:])]
            self.groups += len(ends) + 1
            for end in ends:
                self.key = keys[start]
                yield keys[start], iter(values[start:end])
                start = end
            self._at = start
            self.key = key = keys[start]
            yield key, self._rest(key)
            for _ in self._rest(key):
                pass  # values that the reducer left unread

    def _rest(self, key: Any) -> Iterator[Any]:
        """Yield the values of the block's last group and of the blocks in which it continues."""
        while self._load():
            if self._keys[self._at] != key:
                return
            if self._keys[-1] == key:  # sorted: the whole block belongs to the group
                end = len(self._keys)
            else:
                starts = starts_of_groups(self._keys[self._at :])
                end = self._at + starts[0]
            start, self._at = self._at, end
            yield from islice(self._values, start, end)
            if end < len(self._keys):
                return
