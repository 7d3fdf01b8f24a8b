"""The map side's buffer: collects pairs, combines them, and spills sorted runs when it is full.

The paper's section 4.3 (combiner) and 3.1 (buffered pairs, partitioned into R regions): here the
partition of a key is computed when a run is written, once per distinct key of a combined run.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import reduce
from itertools import chain, starmap
from typing import Any, BinaryIO

from mrcelery.codec import Block, BlockWriter
from mrcelery.errors import UserCodeError
from mrcelery.ops import Op
from mrcelery.output import decode_pair, encoder
from mrcelery.partition import argsort, check_keys, partition_numbers, starts_of_groups
from mrcelery.records import Part
from mrcelery.shuffle import Groups, Run, packed, read_run_file, sorted_block
from mrcelery.task import Pair, Pairs, Task, sampled_size, size_of, yielding

ENTRY = 120
"""Bytes that a distinct key costs in a dictionary beside itself."""

HASHABLE = frozenset({str, int, float, bytes, bool, type(None), date, datetime, Decimal})
"""Key types of which every value can be in a dictionary; a tuple can unless a list is in it."""


class MapBuffer:
    """Collects a map task's pairs within the task's budget; :meth:`close` writes its partitions."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._protocol = task.hooks.internal_protocol
        self._op: Op | None = None
        self._combiner = task.hooks.combiner
        op = task.hooks.combine_op
        if op is not None and self._protocol is not None and task.hooks.reduce_op is None:
            # The reducer wants the protocol's bytes, so the op works as a combiner on what it reads.
            self._combiner = _as_combiner(op)
        elif op is not None:
            self._op, self._protocol = op, None  # accumulators are ours, whatever the protocol
        self.encode = None if self._protocol is None else encoder(self._protocol)
        self._grouped = self._op is not None or self._combiner is not None
        self._collect: Callable[[list[Any], list[Any]], None] = (
            self._fold if self._op is not None else self._group if self._combiner is not None else self._append
        )
        self._folded: Counter[Any] = Counter()
        self._groups: defaultdict[Any, list[Any]] = defaultdict(list)
        self._keys: list[Any] = []  # in order of arrival; keys that no dictionary takes where pairs are grouped
        self._values: list[Any] = []
        self._bytes = 0
        self._pairs = 0
        self._spills: list[tuple[str, list[tuple[int, int]]]] = []

    def __enter__(self) -> MapBuffer:
        return self

    def __exit__(self, *exc: object) -> None:
        for path, _ in self._spills:
            os.unlink(path)
        self._spills.clear()

    # -- taking pairs ---------------------------------------------------------------------------

    def add(self, keys: list[Any], values: list[Any]) -> None:
        """Take a batch; spills where the budget is used up."""
        before = len(self._groups) + len(self._folded)
        # A sample of the batch stands for it: this is an estimate on the safe side, not an account.
        key, value = sampled_size(keys), sampled_size(values) + 8
        try:
            self._collect(keys, values)
        except (TypeError, ValueError) as e:  # values that a declared reducer cannot take
            raise self._task.user_error(e) from e
        new = len(self._groups) + len(self._folded) - before
        if self._op is None:
            self._bytes += new * (key + ENTRY) + len(keys) * (value if self._grouped else key + value + 8)
        else:
            self._bytes += new * (key + value + ENTRY)
            self._bytes += 0 if self._op.closed else len(keys) * value
        self._pairs += len(keys)
        if self._bytes > self._task.budget:
            self._full()

    def _append(self, keys: list[Any], values: list[Any]) -> None:
        self._keys += keys
        self._values += values

    def _group(self, keys: list[Any], values: list[Any]) -> None:
        groups = self._groups
        for k, v in zip(keys, values, strict=True):
            try:
                groups[k].append(v)
            except TypeError:  # a list, or a tuple that holds one: equal ones meet when they are sorted
                self._keys.append(k)
                self._values.append(v)

    def _fold(self, keys: list[Any], values: list[Any]) -> None:
        op = self._op
        assert op is not None
        if set(map(type, keys)) <= HASHABLE:
            op.fold(self._folded, keys, values)
            return
        for k, v in zip(keys, values, strict=True):
            try:
                hash(k)
            except TypeError:
                self._keys.append(k)
                self._values.append(op.create(v))
            else:
                op.fold(self._folded, [k], [v])

    # -- full, spill, close ---------------------------------------------------------------------

    def _full(self) -> None:
        """Make room: by combining once more where that helps, else by a spill."""
        if self._combiner is not None and self._pairs > 4 * len(self._groups):
            before = self._pairs
            block = self._drain()
            if len(block.keys) * 2 < before:
                self.add_combined(block)
                if self._bytes * 2 < self._task.budget:
                    return
                block = Block(*self._take_groups())
        else:
            block = self._drain()
        self._spill(block)

    def add_combined(self, block: Block) -> None:
        """Take back what the combiner made of the buffer."""
        self._group(block.keys, block.values)
        self._pairs = len(block.keys)
        step = max(1, len(block.keys) // 256)
        sample = list(zip(block.keys[::step], block.values[::step], strict=True))
        each = sum(size_of(k) + size_of(v) for k, v in sample) // max(1, len(sample))
        self._bytes = len(block.keys) * (each + ENTRY)

    def _take_groups(self) -> tuple[list[Any], list[Any]]:
        """The grouped pairs in order of key, uncombined."""
        groups, self._groups = self._groups, defaultdict(list)
        loose_keys, self._keys = self._keys, []
        loose_values, self._values = self._values, []
        keys = list(chain.from_iterable([k] * len(v) for k, v in groups.items())) + loose_keys
        values = list(chain.from_iterable(groups.values())) + loose_values
        return sorted_block(keys, values)

    def _drain(self) -> Block:
        """Everything in the buffer as one sorted block, combined; the buffer is empty afterwards."""
        self._bytes = self._pairs = 0
        with self._task.explain():
            if self._op is not None:
                return self._drain_folded()
            if self._combiner is not None:
                return self._drain_groups()
            keys, values = self._keys, self._values
            self._keys, self._values = [], []
            return sorted_block(keys, values, self._task.hooks.sort_values)

    def _drain_folded(self) -> Block:
        folded, self._folded = self._folded, Counter()
        block = sorted_block(list(folded), list(folded.values()))
        if self._keys:
            loose = sorted_block(self._keys, self._values)
            self._keys, self._values = [], []
            block = sorted_block(block.keys + loose.keys, block.values + loose.values)
            block = _joined(self._merge_op(iter([block])))
        return block

    def _drain_groups(self) -> Block:
        groups, self._groups = self._groups, defaultdict(list)
        keys = list(groups)
        check_keys(keys)
        pairs: Iterator[tuple[Any, Iterator[Any]]]
        if self._keys:
            flat = chain.from_iterable([k] * len(v) for k, v in groups.items())
            loose = sorted_block([*flat, *self._keys], [*chain.from_iterable(groups.values()), *self._values])
            self._keys, self._values = [], []
            pairs = iter(Groups(iter([loose])))
        else:
            pairs = ((keys[i], iter(groups[keys[i]])) for i in argsort(keys))
        return _joined(self._combine(pairs))

    def _combine(self, groups: Iterator[tuple[Any, Iterator[Any]]]) -> Run:
        """The user's combiner over groups in order of key; its output in order of key again."""
        task, hooks, protocol = self._task, self._task.hooks, self._protocol
        if protocol is not None:
            groups = decoded_groups(protocol, groups)
        out: Pairs = starmap(yielding(self._combiner), groups)  # type: ignore[arg-type]
        pairs = chain.from_iterable(out)
        if hooks.combiner_init is not None:
            pairs = chain(yielding(hooks.combiner_init)(), pairs)
        if hooks.combiner_final is not None:
            pairs = chain(pairs, _late(hooks.combiner_final))
        keys: list[Any] = []
        values: list[Any] = []
        for some_keys, some_values in task.batches(pairs, encode=self.encode, results=False):
            keys += some_keys
            values += some_values
        yield sorted_block(keys, values, hooks.sort_values)

    def _merge_op(self, run: Run) -> Run:
        op = self._op
        assert op is not None
        merged = ((k, reduce(op.merge, v)) for k, v in Groups(run))
        for keys, values in self._task.batches(merged, results=False):
            yield Block(keys, values)

    def _partition(self, block: Block) -> Iterator[tuple[int, Block]]:
        """A sorted block as one sorted block per partition that has a record, in order of partition."""
        n = self._task.partitions
        keys, values = block
        if n == 1:
            if keys:
                yield 0, block
            return
        starts = [0, *starts_of_groups(keys)] if keys else []
        distinct = keys if len(starts) == len(keys) else [keys[i] for i in starts]
        numbers = self._numbers(distinct, (values[i] for i in starts))
        if len(starts) != len(keys):
            ends = [*starts[1:], len(keys)]
            numbers = list(chain.from_iterable([p] * (e - s) for p, s, e in zip(numbers, starts, ends, strict=True)))
        columns: list[tuple[list[Any], list[Any]]] = [([], []) for _ in range(n)]
        for p, k, v in zip(numbers, keys, values, strict=True):
            column = columns[p]
            column[0].append(k)
            column[1].append(v)
        for p, (ks, vs) in enumerate(columns):
            if ks:
                yield p, Block(ks, vs)

    def _numbers(self, keys: list[Any], values: Iterable[Any]) -> list[int]:
        """Partitions of distinct keys; with each goes a value of its, since a protocol reads only pairs."""
        n = self._task.reducers
        own = self._task.hooks.partition
        if own is None:
            return list(partition_numbers(keys, n))
        protocol = self._protocol
        numbers = []
        for key, value in zip(keys, values, strict=True):
            plain = key if protocol is None else decode_pair(protocol, key, value)[0]
            number = self._task.call(lambda: own(plain, n))  # noqa: B023
            if type(number) is not int or not 0 <= number < n:
                raise UserCodeError(
                    f"partition({plain!r:.100}, {n}) returned {number!r}: return an int from 0 to {n - 1}"
                )
            numbers.append(number)
        return numbers

    def _spill(self, block: Block) -> None:
        path = self._task.scratch_file(f"spill-{len(self._spills)}")
        sections = [(0, 0)] * self._task.partitions
        with open(path, "wb", buffering=1 << 18) as out:
            self._spills.append((path, sections))
            for p, part in self._partition(block):
                sections[p] = self._section(out, part)

    def _section(self, out: BinaryIO, block: Block) -> tuple[int, int]:
        start = out.tell()
        writer = BlockWriter(out, allow_pickle=self._task.options.allow_pickle)
        writer.write(block.keys, block.values)
        writer.close()
        return start, start + writer.bytes

    def close(self) -> tuple[Part, ...]:
        """Write all partitions to storage and return those that have records."""
        task = self._task
        block = self._drain()
        if not self._spills:
            return tuple(task.write_part(p, [part]) for p, part in self._partition(block))
        if block.keys:
            self._spill(block)
        del block
        parts = []
        for p in range(task.partitions):
            runs = [
                self._opener(path, *sections[p]) for path, sections in self._spills if sections[p][1]
            ]
            if not runs:
                continue
            merged = task.merge(runs)
            if self._op is not None:
                merged = self._merge_op(merged)
            parts.append(task.write_part(p, packed(merged)))
        return tuple(part for part in parts if part.records)

    def _opener(self, path: str, start: int, end: int) -> Callable[[], Run]:
        return lambda: read_run_file(path, start, end, allow_pickle=self._task.options.allow_pickle)


def decoded_groups(
    protocol: Any, groups: Iterator[tuple[Any, Iterator[Any]]]
) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Groups of a protocol's bytes as groups of what it reads from them."""
    for key, values in groups:
        first = decode_pair(protocol, key, next(values))
        rest = (decode_pair(protocol, key, value)[1] for value in values)
        yield first[0], chain([first[1]], rest)


def _as_combiner(op: Op) -> Callable[[Any, Iterator[Any]], Pairs]:
    def combiner(key: Any, values: Iterator[Any]) -> Pairs:
        yield key, op.result(reduce(op.add, values, op.create(next(values))))

    return combiner


def _joined(run: Run) -> Block:
    blocks = list(run)
    if len(blocks) == 1:
        return blocks[0]
    return Block(
        list(chain.from_iterable(b.keys for b in blocks)), list(chain.from_iterable(b.values for b in blocks))
    )


def _late(function: Callable[[], Any]) -> Iterator[Pair]:
    yield from yielding(function)()
