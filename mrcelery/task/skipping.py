"""User code called record by record, so that a record that raises can be skipped as if it did not exist.

Slower than the loops of :mod:`mrcelery.task.mapper` and :mod:`mrcelery.task.reducer`, which do not handle failing
records, and used only if a job may skip some. A record's pairs are held until its hook has finished, and so are its
counters: a record that raises half-way contributes nothing. Changes to the job's own attributes cannot be rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mrcelery.errors import CodecError, MRCeleryError, TaskError, UserCodeError
from mrcelery.formats.base import RecordBlock
from mrcelery.records.blocks import Block
from mrcelery.records.order import check_keys
from mrcelery.schema.structs import Counters, add_counters
from mrcelery.task.bad_records import BadRecords
from mrcelery.task.context import Task
from mrcelery.task.memory_limit import give_way
from mrcelery.task.pace import Pair, Pairs, columns, sampled_size

TAKEN = 64
"""Pairs of a record taken at once."""


def guarded(task: Task, function: Callable[..., Pairs], calls: Iterable[tuple[Any, Any]], first: int) -> Iterator[Pair]:
    """Yield the pairs of ``function`` for each of ``calls``, leaving out those for which it raises.

    ``first`` is the number in the task of the first call. The pairs of a call that yields more than a quarter of the
    task's budget are passed on before it has ended, and it cannot be skipped after that.
    """
    bad = _bad(task)
    for number, arguments in enumerate(calls, first):
        if number in bad.killers:
            skip(task, bad.killed())
            continue
        before = task.job.counters
        task.job.counters = {}
        bad.begin(number)
        try:
            pairs = iter(function(*arguments))
            held, ended = _held(task, pairs)
        except BaseException as e:
            if isinstance(e, MemoryError):
                give_way()
            task.job.counters = before
            skip(task, _forgivable(task, e))
            continue
        bad.end()
        _keep(task, before)
        yield from held
        if not ended:
            yield from pairs


def _bad(task: Task) -> BadRecords:
    assert task.bad is not None
    return task.bad


def _held(task: Task, pairs: Iterator[Pair]) -> tuple[list[Pair], bool]:
    """Take a record's pairs; return them and whether these are all of them."""
    held: list[Pair] = []
    size = 0
    checks = task.id.kind == "map" and task.hooks.internal_protocol is None
    while True:
        taken = task.take(pairs, TAKEN)
        if checks:
            check_keys([key for key, _ in taken])
        held += taken
        if len(taken) < TAKEN:
            return held, True
        keys, values = columns(taken)
        size += (sampled_size(keys) + sampled_size(values)) * TAKEN
        if size > task.budget // 4:
            return held, False
        task.poll()


def _keep(task: Task, before: Counters) -> None:
    """Add a record's counters."""
    if task.job.counters:
        add_counters(before, task.job.counters)
    task.job.counters = before


def _forgivable(task: Task, e: BaseException) -> TaskError:
    """Return the error to skip a record with; raise an error that is not the record's fault.

    Exceptions outside :class:`Exception`, such as ``sys.exit()``, are also raised: they are meant for the whole job.
    """
    try:
        task.call(lambda: _raise(e))
    except (UserCodeError, CodecError) as error:
        if error.retryable or not isinstance(e, Exception):
            raise
        return error
    raise AssertionError("an exception raises")


def _raise(e: BaseException) -> None:
    raise e


def skip(task: Task, error: TaskError) -> None:
    """Skip the record at the task's position."""
    task.position.describe(error)
    _bad(task).skip(error)


def guarded_batches(
    task: Task, call: Callable[[Any], Pairs | Block], batch: Any, block: RecordBlock, first: int
) -> Iterator[Pairs | Block]:
    """Call ``call`` for a batch, a list or a table; if it raises, for its halves, down to single records.

    ``first`` is the number of the batch's first record in the task, ``block`` the batch's source.
    """
    bad = _bad(task)
    pieces = [(0, len(block.values))]
    while pieces:
        start, stop = pieces.pop()
        task.position.locate = _locator(block, start)
        if stop - start == 1 and first + start in bad.killers:
            skip(task, bad.killed())
            continue
        halves = [((start + stop) // 2, stop), (start, (start + stop) // 2)] if stop - start > 1 else []
        if halves and bad.suspect(first + start, first + stop):
            pieces += halves
            continue
        before = task.job.counters
        task.job.counters = {}
        bad.begin(first + start, stop - start)
        try:
            out = call(batch.slice(start, stop - start) if hasattr(batch, "slice") else batch[start:stop])
            if not isinstance(out, Block):
                out = [task.kept(pair) for pair in out]
        except BaseException as e:
            if isinstance(e, MemoryError):
                give_way()
            task.job.counters = before
            error = _forgivable(task, e)
            if halves:
                pieces += halves
            else:
                skip(task, error)
            continue
        bad.end()
        _keep(task, before)
        yield out
        task.poll()


def _locator(block: RecordBlock, at: int) -> Callable[[], tuple[str, int | None, Any]]:
    return lambda: (block.file, block.offset_of(at), block.values[at])


def read_guarded(task: Task, read: Callable[[bytes], Pair], block: RecordBlock) -> RecordBlock:
    """Read records through an input protocol from a block of lines, leaving out those it cannot read."""
    keys: list[Any] = []
    values: list[Any] = []
    numbers: list[int] = []
    lines: Sequence[bytes] = block.values
    for number, line in enumerate(lines):
        task.position.locate = _locator(block, number)
        try:
            key, value = read(line)
        except BaseException as e:
            if isinstance(e, MRCeleryError):
                raise
            skip(task, _forgivable(task, e))
            continue
        keys.append(key)
        values.append(value)
        numbers.append(number)
    return RecordBlock(keys, values, block.file, lambda i: block.offset_of(numbers[i]))
