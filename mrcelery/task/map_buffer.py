"""The map side's buffer: collects pairs, combines them, and spills sorted runs when it is full.

Implements the paper's sections 4.3 (combiner) and 3.1 (buffered pairs, partitioned into R regions): here a key's
partition is computed when a run is written, once per distinct key of a combined run.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import reduce
from itertools import chain, islice, repeat, starmap
from typing import Any, BinaryIO

from mrcelery.job.tracebacks import raised_by_us
from mrcelery.ops import Op
from mrcelery.records.blocks import Block, BlockWriter
from mrcelery.records.columns import Column, as_list, is_array
from mrcelery.records.order import argsort, check_keys, sorted_keys
from mrcelery.records.snapshot import ATOMS, snapshot
from mrcelery.schema.structs import Part
from mrcelery.shuffle.runs import Groups, Run, joined, packed, read_run_file, sorted_block
from mrcelery.task.arrow_buffer import ArrayBuffer
from mrcelery.task.context import Task, nowhere, yielding
from mrcelery.task.folding import fold_run
from mrcelery.task.pace import Pace, Pair, Pairs, columns, sampled_size, size_of
from mrcelery.task.partitioning import Partitioning
from mrcelery.task.sink import decoded_groups, encoder

ENTRY = 120
"""Overhead in bytes of a distinct key in a dictionary."""

MOST = 512
"""Pairs taken at once: few enough to stay in the processor's cache between their mapper and the dictionary."""

PORTION = 8192
"""Rows of arrays that are converted to objects at once."""

SETTLED = 100_000
"""Counted pairs that may become lists again when counting ends; more are combined first."""

HASHABLE = frozenset({str, int, float, bytes, bool, type(None), date, datetime, Decimal})
"""Key types whose values are always hashable; a tuple is hashable unless it contains a list."""


class MapBuffer:
    """Collects a map task's pairs within the task's budget; :meth:`close` writes its partitions."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._protocol = task.hooks.internal_protocol
        self._op: Op | None = None
        self._combiner = task.hooks.combiner
        op = task.hooks.combine_op
        if op is not None and self._protocol is not None and task.hooks.reduce_op is None:
            # The reducer needs the protocol's bytes, so the op works as a combiner on decoded values.
            self._combiner = _as_combiner(op)
        elif op is not None:
            self._op, self._protocol = op, None  # accumulators are ours, whatever the protocol
        self._encode = None if self._protocol is None else encoder(self._protocol)
        self._grouped = self._op is not None or self._combiner is not None
        self._collect: Callable[[list[Any], list[Any]], None] = (
            self._fold if self._op is not None else self._group if self._combiner is not None else self._append
        )
        self._begins = True
        self._same: tuple[Any, type] | None = None
        self._counts: Counter[Any] = Counter()
        self._folded: Counter[Any] = Counter()
        self._groups: defaultdict[Any, list[Any]] = defaultdict(list)
        self._keys: list[Any] = []  # in order of arrival; if pairs are grouped, only the unhashable keys
        self._values: list[Any] = []
        self._bytes = 0
        self._pairs = 0
        self._pace = Pace(task.budget, MOST)
        self._arrays = ArrayBuffer(self._op, task.budget // 4)
        # A user's combiner, a protocol and values to be sorted need Python objects.
        self._as_arrays = self._combiner is None and self._protocol is None and not task.hooks.sort_values
        self._partitioning = Partitioning(task, self._protocol)
        self._spills: list[tuple[str, list[tuple[int, int]]]] = []

    def __enter__(self) -> MapBuffer:
        return self

    def __exit__(self, *exc: object) -> None:
        for path, _ in self._spills:
            os.unlink(path)
        self._spills.clear()

    # -- taking pairs ---------------------------------------------------------------------------

    def consume(self, pairs: Pairs) -> None:
        """Run the user code behind ``pairs`` and take its pairs; spill when the budget is used up."""
        task, iterator = self._task, iter(pairs)
        self._before_pairs()
        while taken := task.call(lambda: self._take(iterator)):
            task.poll()
            task.records_out += taken
            if self._bytes > task.budget:
                self._full()

    def consume_columns(self, keys: Column, values: Column) -> None:
        """Take records that user code returned as columns."""
        task = self._task
        task.records_out += len(keys)
        if not (self._as_arrays and is_array(keys)):
            self._before_pairs()
            self._add_objects(Block(keys, values))
            return
        if self._op is None and self._pairs:
            self._spill(self._drain())  # earlier pairs: a key's values stay in their order
        if refused := self._arrays.add(Block(keys, values)):
            self._before_pairs()
        for block in refused:
            self._add_objects(block)
        task.poll()
        # Arrow's grouping takes several times the memory of its input.
        if self._arrays.bytes > (task.budget if self._op is None else task.budget // 2):
            self._spill_arrays()

    def _add_objects(self, block: Block) -> None:
        # In portions: objects take several times the memory of arrays.
        for at in range(0, len(block.keys), PORTION):
            keys, values = (as_list(column[at : at + PORTION]) for column in block)
            self._add([(key, value) for key, value in zip(keys, values, strict=True)])
            self._task.poll()
            if self._bytes > self._task.budget:
                self._full()

    def _before_pairs(self) -> None:
        """Write out earlier columns, so that a key's values stay in their order."""
        if self._op is None:
            self._spill_arrays()

    def _spill_arrays(self) -> None:
        if (arrays := self._drain_arrays()) is not None:
            self._spill(arrays)

    def _drain_arrays(self) -> Block | None:
        """Return the arrays as one sorted block; values that arrays cannot hold become pairs."""
        block, refused = self._arrays.drain()
        for some in refused:
            self._add_objects(some)
        return block

    def _take(self, iterator: Iterator[Pair]) -> int:
        """Take the next pairs, and return their number."""
        if self._same is not None:
            return self._count(iterator, *self._same)
        pairs = self._task.take(iterator, self._pace.step(), self._encode)
        if pairs and self._begins:  # the first call takes a single pair
            self._begins = False
            self._same = self._constant(*pairs[0])
            if self._same is not None:
                return self._count(iter(pairs), *self._same)
        self._add(pairs)
        return len(pairs)

    def _constant(self, key: Any, value: Any) -> tuple[Any, type] | None:
        """Return the value to count and the keys' type, if the first pair may be one of many; else None."""
        if self._grouped and self._encode is None and type(key) in HASHABLE and type(value) in ATOMS:
            return value, type(key)
        return None

    def _count(self, iterator: Iterator[Pair], constant: Any, kind: type) -> int:
        """Take pairs that all have the same value, such as 1, as one number per key.

        Ends counting for good at the first pair with another value.
        """
        others: list[Pair] = []
        other: Any = object()

        def kept(key: Any, value: Any) -> Any:
            others.append((snapshot(key), snapshot(value)))
            return other

        some = islice(iterator, self._pace.step())
        # No call for each pair, and no columns: that would double the cost of counting one.
        try:
            keys = [k if v is constant and type(k) is kind else kept(k, v) for k, v in some]
        except (TypeError, ValueError) as e:
            if raised_by_us(e):
                raise self._task.no_pair(f"what is not a pair ({e})") from None
            raise
        if others:
            rest = iter(others)
            self._add([next(rest) if key is other else (key, constant) for key in keys])
            return len(keys)
        before = len(self._counts)
        self._counts.update(keys)
        self._pairs += len(keys)
        new = len(self._counts) - before
        # If none is new, nothing grew. The sample estimates the present size of keys.
        size = sampled_size(keys, 8) if new else 0
        self._bytes += new * (size + ENTRY)
        self._pace.took(size)
        return len(keys)

    def _settle(self) -> None:
        """Stop counting: move the counted pairs to where pairs with any value go, before those."""
        assert self._same is not None
        counts, constant = self._counts, self._same[0]
        if self._op is None and self._pairs > SETTLED:
            self.add_combined(self._drain())
        elif self._op is None:
            for key, n in counts.items():
                self._groups[key] = [constant] * n
        else:
            for key, n in counts.items():
                self._folded[key] = self._op.create_many(constant, n)
        self._counts, self._same = Counter(), None

    def _add(self, pairs: list[Pair]) -> None:
        """Take pairs that nothing changes any more."""
        if not pairs:
            return
        self._begins = False
        if self._same is not None:
            self._settle()
        keys, values = columns(pairs)
        before = len(self._groups) + len(self._folded)
        # A sample of the keys represents all: this is a safe estimate, not an exact account.
        key, value = sampled_size(keys), self._task.value_size(keys, values)
        try:
            self._collect(keys, values)
        except (TypeError, ValueError) as e:  # values that a declared reducer does not accept
            raise self._task.user_error(e) from e
        new = len(self._groups) + len(self._folded) - before
        if self._op is None:
            self._bytes += new * (key + ENTRY) + len(keys) * (value if self._grouped else key + value + 8)
        else:
            self._bytes += new * (key + value + ENTRY)
            self._bytes += 0 if self._op.closed else len(keys) * value
        self._pairs += len(keys)
        self._pace.took(key + value)

    def _append(self, keys: list[Any], values: list[Any]) -> None:
        self._keys += keys
        self._values += values

    def _group(self, keys: list[Any], values: list[Any]) -> None:
        groups = self._groups
        for k, v in zip(keys, values, strict=True):
            try:
                groups[k].append(v)
            except TypeError:  # a list, or a tuple with a list in it: equal ones are grouped by sorting
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
        """Make room: by combining once more if that helps, else by a spill."""
        if self._combiner is not None and self._same is None and self._pairs > 4 * len(self._groups):
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
        """Put the combiner's output back into the buffer."""
        self._group(block.keys, block.values)
        self._pairs = len(block.keys)
        step = max(1, len(block.keys) // 256)
        sample = list(zip(block.keys[::step], block.values[::step], strict=True))
        each = sum(size_of(k) + size_of(v) for k, v in sample) // max(1, len(sample))
        self._bytes = len(block.keys) * (each + ENTRY)

    def _take_groups(self) -> tuple[list[Any], list[Any]]:
        """Return the grouped pairs in order of key, uncombined."""
        groups, self._groups = self._groups, defaultdict(list)
        loose_keys, self._keys = self._keys, []
        loose_values, self._values = self._values, []
        keys = list(chain.from_iterable([k] * len(v) for k, v in groups.items())) + loose_keys
        values = list(chain.from_iterable(groups.values())) + loose_values
        return sorted_block(keys, values)

    def _drain(self) -> Block:
        """Return everything in the buffer as one sorted block, combined, and empty the buffer."""
        self._bytes = self._pairs = 0
        with self._task.explain():
            if self._same is not None:
                return self._drain_counts(self._same[0])
            if self._op is not None:
                return self._drain_folded(self._op)
            if self._combiner is not None:
                return self._drain_groups()
            keys, values = self._keys, self._values
            self._keys, self._values = [], []
            return sorted_block(keys, values, self._task.hooks.sort_values)

    def _drain_counts(self, constant: Any) -> Block:
        counts, self._counts = self._counts, Counter()
        ordered = sorted_keys(list(counts))
        op = self._op
        if op is not None:
            return Block(ordered, [op.create_many(constant, counts[key]) for key in ordered])
        at = iter(ordered)
        return joined(list(self._combine(((key, repeat(constant, counts[key])) for key in at), _current(ordered, at))))

    def _drain_folded(self, op: Op) -> Block:
        folded, self._folded = self._folded, Counter()
        block = sorted_block(list(folded), list(map(op.shrunk, folded.values())))
        if self._keys:
            loose = sorted_block(self._keys, self._values)
            self._keys, self._values = [], []
            block = sorted_block(block.keys + loose.keys, block.values + loose.values)
            block = joined(list(fold_run(self._task, iter([block]), op)))
        return block

    def _drain_groups(self) -> Block:
        groups, self._groups = self._groups, defaultdict(list)
        keys = list(groups)
        check_keys(keys)
        if self._keys:
            flat = chain.from_iterable([k] * len(v) for k, v in groups.items())
            loose = sorted_block([*flat, *self._keys], [*chain.from_iterable(groups.values()), *self._values])
            self._keys, self._values = [], []
            found = Groups(iter([loose]))
            return joined(list(self._combine(iter(found), lambda: found.key)))
        ordered = [keys[i] for i in argsort(keys)]
        at = iter(ordered)
        return joined(list(self._combine(((key, iter(groups[key])) for key in at), _current(ordered, at))))

    def _combine(self, groups: Iterator[tuple[Any, Iterator[Any]]], key: Callable[[], Any]) -> Run:
        """Run the user's combiner over groups in order of key; its output is again in order of key.

        ``key`` returns the key of the latest group given to it.
        """
        task, hooks, protocol = self._task, self._task.hooks, self._protocol
        if protocol is not None:
            groups = decoded_groups(protocol, groups)
        out: Pairs = starmap(yielding(self._combiner), groups)  # type: ignore[arg-type]
        pairs = chain.from_iterable(out)
        if hooks.combiner_init is not None:
            pairs = chain(task.call(yielding(hooks.combiner_init)), pairs)
        if hooks.combiner_final is not None:
            pairs = chain(pairs, _late(task, hooks.combiner_final))
        keys: list[Any] = []
        values: list[Any] = []
        before, task.position.locate = task.position.locate, lambda: ("", None, key())
        task.hook = "combiner"
        for some_keys, some_values in task.batches(pairs, encode=self._encode, results=False):
            keys += some_keys
            values += some_values
        task.position.locate, task.hook = before, ""
        yield sorted_block(keys, values, hooks.sort_values)

    def _spill(self, block: Block) -> None:
        path = self._task.scratch_file(f"spill-{len(self._spills)}")
        sections = [(0, 0)] * self._task.partitions
        with open(path, "wb", buffering=1 << 18) as out:
            self._spills.append((path, sections))
            for p, part in self._partitioning.divide(block):
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
        arrays = self._drain_arrays()
        block = self._drain()
        if arrays is not None and block.keys:
            self._spill(arrays)
        elif arrays is not None:
            block = arrays
        del arrays
        if not self._spills:
            return tuple(task.write_part(p, [part]) for p, part in self._partitioning.divide(block))
        if len(block.keys):
            self._spill(block)
        del block
        parts = []
        for p in range(task.partitions):
            runs = [self._opener(path, *sections[p]) for path, sections in self._spills if sections[p][1]]
            if not runs:
                continue
            merged = task.merge(runs)
            if self._op is not None:
                merged = fold_run(task, merged, self._op)
            parts.append(task.write_part(p, packed(merged)))
        return tuple(part for part in parts if part.records)

    def _opener(self, path: str, start: int, end: int) -> Callable[[], Run]:
        return lambda: read_run_file(path, start, end, allow_pickle=self._task.options.allow_pickle)


def _as_combiner(op: Op) -> Callable[[Any, Iterator[Any]], Pairs]:
    def combiner(key: Any, values: Iterator[Any]) -> Pairs:
        yield key, op.result(reduce(op.add, values, op.create(next(values))))

    return combiner


def _current(keys: list[Any], at: Any) -> Callable[[], Any]:
    """Make a function that finds the latest key returned by an iterator over ``keys``; None before the first."""

    def current() -> Any:
        number = len(keys) - at.__length_hint__()
        return keys[number - 1] if number else None

    return current


def _late(task: Task, function: Callable[[], Any]) -> Iterator[Pair]:
    task.position.locate = nowhere
    yield from yielding(function)()
