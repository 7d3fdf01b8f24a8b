"""The context of a running attempt, and how user code is called in it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mrcelery.config import show_size
from mrcelery.errors import CodecError, RecordTooLongError, TaskError, UserCodeError, safe_repr, writable
from mrcelery.job import raised
from mrcelery.job.base import MRJob
from mrcelery.job.raised import passes
from mrcelery.job.step import StepHooks
from mrcelery.job.tracebacks import in_user_code, raised_by_us
from mrcelery.records.blocks import BlockWriter
from mrcelery.records.columns import Column, as_list
from mrcelery.records.snapshot import ATOMS, snapshot
from mrcelery.schema import object_keys
from mrcelery.schema.structs import JobOptions, Part
from mrcelery.schema.task_id import TaskId
from mrcelery.shuffle.index import IndexedWriter
from mrcelery.shuffle.runs import FAN_IN, Run, merge_many
from mrcelery.storage.base import Storage
from mrcelery.task.arrow_ops import accumulators
from mrcelery.task.bad_records import BadRecords
from mrcelery.task.memory_limit import give_way, lifted
from mrcelery.task.pace import Columns, Encode, Pace, Pair, Pairs, columns, sampled_size

DECODED_BLOCK = 1 << 20
"""Approximate bytes of a block in memory: strings take several times their size on disk."""

RECORD_REPR = 500
"""Characters of a record shown with an error."""


TEXTS = frozenset({str, bytes})


def nowhere() -> tuple[str, int | None, Any]:
    """Locate user code that is not given a record."""
    return "", None, None


@dataclass
class Position:
    """The position of user code in the input; located only if an error occurs."""

    locate: Callable[[], tuple[str, int | None, Any]] = nowhere

    def describe(self, error: TaskError) -> None:
        """Fill in file, offset and record of an error that lacks them."""
        file, offset, record = self.locate()
        error.file = error.file or file
        error.offset = offset if error.offset is None else error.offset
        if not error.record and record is not None:
            error.record = writable(safe_repr(record, RECORD_REPR))


@dataclass
class Task:
    """One attempt at one map or reduce task, with its resources and its counts so far.

    ``poll`` raises :class:`mrcelery.errors.JobStoppedError` once the job has ended; it is cheap to call.
    """

    id: TaskId
    attempt: str
    options: JobOptions
    reducers: int
    """R of the step; 0 for a map-only step."""
    last_step: bool
    storage: Storage
    job: MRJob
    hooks: StepHooks
    scratch: str
    poll: Callable[[], None]
    position: Position = field(default_factory=Position)
    bad: BadRecords | None = None
    """Takes the records to skip; None if records may not be skipped."""
    records_in: int = 0
    records_out: int = 0
    hook: str = ""
    """The hook that yields pairs now; "" for the mapper or the reducer."""
    bytes_in: int = 0

    @property
    def budget(self) -> int:
        """Return the bytes that buffers may hold: a quarter of the ceiling, since sorting and encoding copy them."""
        return max(1 << 20, self.options.memory // 4)

    @property
    def partitions(self) -> int:
        """Return the partitions that a map task writes: R, or in total order one run, which the barrier divides."""
        return 1 if self.hooks.total_order else self.reducers

    @property
    def fan_in(self) -> int:
        """Return how many runs to merge at once: as many as the budget can hold decoded blocks."""
        return max(2, min(FAN_IN, self.budget // DECODED_BLOCK))

    @property
    def max_record(self) -> int:
        """Return the largest allowed size of a record in bytes."""
        return max(64 << 10, self.options.memory // 8)

    @property
    def compress(self) -> bool:
        """Return whether intermediate data is compressed: only if it crosses a network."""
        return self.storage.uri.startswith("s3://")

    def merge(self, runs: list[Callable[[], Run]]) -> Run:
        """Merge sorted runs, given as functions that open them, within the budget."""
        return merge_many(
            runs,
            self.scratch,
            sort_values=self.hooks.sort_values,
            convert=as_list if self.hooks.combine_op is None else accumulators,
            allow_pickle=self.options.allow_pickle,
            fan_in=self.fan_in,
        )

    def scratch_file(self, name: str) -> str:
        """Return a path in the attempt's scratch folder, which is created if necessary."""
        os.makedirs(self.scratch, exist_ok=True)
        return os.path.join(self.scratch, name)

    def write_part(self, partition: int, blocks: Iterable[tuple[Column, Column]]) -> Part:
        """Write one partition's sorted blocks to this attempt's object."""
        if self.hooks.total_order:
            return self._write_run(blocks)
        key = object_keys.part(self.id, partition, self.attempt)
        with self.storage.writer(key) as out, self.explain():
            writer = BlockWriter(out, compress=self.compress, allow_pickle=self.options.allow_pickle)
            for keys, values in blocks:
                writer.write(keys, values)
            writer.close()
        return Part(partition, key, writer.bytes, writer.records, writer.crc32)

    def _write_run(self, blocks: Iterable[tuple[Column, Column]]) -> Part:
        key = object_keys.run(self.id, self.attempt)
        with self.storage.writer(key) as out, self.explain():
            writer = IndexedWriter(out, compress=self.compress, allow_pickle=self.options.allow_pickle)
            for keys, values in blocks:
                writer.write(keys, values)
            writer.close()
        return Part(0, key, writer.bytes, writer.records, writer.crc32, 0, writer.data_end)

    def explain(self) -> _Explain:
        """Return a ``with`` block that adds the input position to codec errors."""
        return _Explain(self.position)

    def batches(
        self, pairs: Pairs, *, encode: Encode | None = None, results: bool = True, most: int = 4096
    ) -> Iterator[Columns]:
        """Yield user code's pairs as columns of keys and of values, bounded in length and size.

        ``encode`` is called with each pair as it is yielded and returns its replacement; without it, mutable objects
        are copied. ``results``: the pairs are the task's output, so count them as its records. A user exception becomes
        a :class:`mrcelery.errors.UserCodeError` with the position.
        """
        iterator = iter(pairs)
        pace = Pace(self.budget, most)
        while True:
            keys, values = columns(self.call(lambda: self.take(iterator, pace.step(), encode)))
            if not keys:
                return
            pace.took(sampled_size(keys) + sampled_size(values))
            self.poll()
            if results:
                self.records_out += len(keys)
            yield keys, values

    def take(self, iterator: Iterator[Pair], most: int, encode: Encode | None = None) -> list[Pair]:
        """Take the next pairs that user code yields, at most ``most``, each in its state when it was yielded."""
        if encode is not None:
            return [encode(*self.checked(pair)) for pair in islice(iterator, most)]
        # Written out for the many pairs of plain types: a call for each would double the cost.
        return [
            pair
            if type(pair) is tuple and len(pair) == 2 and type(pair[0]) in ATOMS and type(pair[1]) in ATOMS
            else self.kept(pair)
            for pair in islice(iterator, most)
        ]

    def kept(self, pair: Any) -> Pair:
        """Copy a pair from user code, so that later changes do not affect it. Raises UserCodeError for a non-pair."""
        key, value = self.checked(pair)
        return snapshot(key), snapshot(value)

    def checked(self, pair: Any) -> Pair:
        """Unpack a yielded pair. Raises UserCodeError if it is not a pair."""
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise self.no_pair(f"{safe_repr(pair, 200)}, which is not a (key, value) pair") from None
        return key, value

    def no_pair(self, what: str) -> UserCodeError:
        """Make the error for a yielded value that is not a pair; ``what`` describes it."""
        who = {"map": "mapper", "reduce": "reducer"}[self.id.kind]
        return UserCodeError(f"the {self.hook or who} yielded {what}: yield key, value")

    def value_size(self, keys: list[Any], values: list[Any]) -> int:
        """Estimate the bytes of one value. Raises RecordTooLongError for one of more than :attr:`max_record`."""
        size = sampled_size(values) + 8
        if set(map(type, values)) <= TEXTS:
            # A sample would miss a few large values among many small ones.
            total = sum(map(len, values))
            if total > self.max_record:
                at = max(range(len(values)), key=lambda i: len(values[i]))
                if len(values[at]) > self.max_record:
                    raise self.too_large(keys[at], len(values[at]))
            size = max(size, total // len(values))
        return size

    def too_large(self, key: Any, size: int) -> RecordTooLongError:
        """Make the error for a value that outgrew :attr:`max_record`."""
        return RecordTooLongError(
            f"a value of {size} bytes for the key {safe_repr(key, 100)} is more than the {self.max_record} "
            "that one may have: raise --memory, or yield it in pieces"
        )

    def call(self, function: Callable[[], Any]) -> Any:
        """Call user code; its exceptions are raised as a UserCodeError with the position in the input."""
        try:
            result = function()
        except BaseException as e:
            if passes(e):
                if isinstance(e, TaskError):
                    self.position.describe(e)
                raise
            if isinstance(e, MemoryError):
                give_way()
            if isinstance(e, OSError) and raised_by_us(e):
                raise  # for example, a merge that feeds user code has no room for its files
            raise self.user_error(e) from e
        if raised.forked:
            raised.leave()
        return result

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Raise user exceptions from outside :meth:`call`, such as comparing or pickling keys, as a UserCodeError."""
        try:
            yield
        except BaseException as e:
            if passes(e) or not in_user_code(e) or (isinstance(e, OSError) and raised_by_us(e)):
                raise
            raise self.user_error(e) from e

    def user_error(self, e: BaseException) -> UserCodeError:
        """Make the error for an exception of user code, with its traceback and position."""
        with lifted() if isinstance(e, MemoryError) else nullcontext():
            return self._user_error(e)

    def _user_error(self, e: BaseException) -> UserCodeError:
        error = raised.user_error(e)
        if isinstance(e, MemoryError):
            error = UserCodeError(
                f"{type(e).__name__}: the job's code holds more memory than a task may: raise --memory from "
                f"{show_size(self.options.memory)}, or hold less at once",
                traceback=error.traceback,
            )
        self.position.describe(error)
        return error


class _Explain:
    def __init__(self, position: Position) -> None:
        self._position = position

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, CodecError):
            self._position.describe(error)


def yielding(function: Callable[..., Any]) -> Callable[..., Pairs]:
    """Wrap ``function`` so that it always returns an iterable: hooks may be plain functions returning None."""
    if inspect.isgeneratorfunction(function):
        return function

    def call(*args: Any) -> Pairs:
        try:
            return function(*args) or ()
        except StopIteration as e:
            # It would end the surrounding loops in C as if there were no more records (as in PEP 479).
            raise RuntimeError("a hook raised StopIteration") from e

    return call
