"""Merging declared reducers' accumulators in a sorted run: one per key remains."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import chain, islice
from typing import Any

from mrcelery.ops import Op
from mrcelery.records.blocks import BLOCK_RECORDS, Block
from mrcelery.records.columns import concat, is_array, order, take
from mrcelery.shuffle.runs import Groups, Run, as_lists, packed
from mrcelery.task.arrow_ops import Fold, UnfitError, accumulators, fold_of
from mrcelery.task.context import Task
from mrcelery.task.pace import Pace, columns, sampled_size


def fold_run(task: Task, run: Run, op: Op) -> Run:
    """Merge the run's accumulators by key: in arrays if the run has arrays and these can hold the sums."""
    first = next(run, None)
    if first is None:
        return
    run = chain([first], run)
    fold = fold_of(op)
    if fold is None or not is_array(first.keys):
        yield from _merged(task, run, op)
        return
    last: list[Block] = []  # the last key, which the next block may begin with
    for block in packed(run):
        try:
            keys, values = folded(fold, [*last, block])
        except UnfitError:
            yield from _merged(task, chain(last, [block], run), op)
            return
        yield Block(keys[:-1], values[:-1])
        last = [Block(keys[-1:], values[-1:])]
    yield from last


def folded(fold: Fold, blocks: list[Block]) -> Block:
    """Merge accumulators in arrays into one block in order of key, one per key. Raises :class:`UnfitError`."""
    keys, values = fold.merge(concat([b.keys for b in blocks]), concat([b.values for b in blocks]))
    by = order(keys)
    return Block(take(keys, by), take(values, by))


def _merged(task: Task, run: Run, op: Op) -> Run:
    def pairs() -> Iterator[tuple[Any, Any]]:
        for key, values in Groups(as_lists(run, accumulators)):
            yield key, reduce(op.merge, values)

    # Only the op holds these accumulators, so they need not be copied.
    iterator, pace = pairs(), Pace(task.budget, BLOCK_RECORDS)
    while some := task.call(lambda: list(islice(iterator, pace.step()))):
        keys, values = columns(some)
        pace.took(sampled_size(keys) + sampled_size(values))
        yield Block(keys, values)
