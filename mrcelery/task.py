"""What a running attempt has at hand, and how user code is called in it."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mrcelery import layout
from mrcelery.codec import BlockWriter
from mrcelery.errors import CodecError, MRCeleryError, TaskError, UserCodeError
from mrcelery.index import IndexedWriter
from mrcelery.job import MRJob, StepHooks
from mrcelery.records import JobOptions, Kind, Part
from mrcelery.shuffle import FAN_IN, Run, merge_many
from mrcelery.snapshot import ATOMS, snapshot
from mrcelery.storage.base import Storage
from mrcelery.tracebacks import raised_by_us, user_traceback

DECODED_BLOCK = 1 << 20
"""Bytes of a block in memory, about: strings take several times the room that they have on disk."""

RECORD_REPR = 500
"""Characters of a record shown with an error."""

SLICE_SECONDS = 0.1
"""About how long user code runs until its task looks up: what it yields and reads is cut accordingly."""

Pair = tuple[Any, Any]
Pairs = Iterable[Pair]
Columns = tuple[list[Any], list[Any]]
Encode = Callable[[Any, Any], Pair]


@dataclass
class Position:
    """Where in the input user code is; told only when something goes wrong."""

    locate: Callable[[], tuple[str, int | None, Any]] = field(default=lambda: ("", None, None))

    def describe(self, error: TaskError) -> None:
        """Fill in file, offset and record of an error that does not know them yet."""
        file, offset, record = self.locate()
        error.file = error.file or file
        error.offset = offset if error.offset is None else error.offset
        if not error.record and record is not None:
            text = repr(record)
            error.record = text if len(text) <= RECORD_REPR else text[:RECORD_REPR] + "..."


@dataclass
class Task:
    """One attempt of one map or reduce task, with what it needs and what it has counted so far.

    ``poll`` raises :class:`mrcelery.errors.JobStoppedError` once the job has ended; it is cheap to call.
    """

    job_id: str
    step: int
    kind: Kind
    number: int
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
    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    _step: int = 1

    @property
    def budget(self) -> int:
        """Bytes that buffers may hold: a quarter of the ceiling, since sorting and encoding copy them."""
        return max(1 << 20, self.options.memory // 4)

    @property
    def partitions(self) -> int:
        """Partitions that a map task writes: R, or in total order one run, which the barrier divides."""
        return 1 if self.hooks.total_order else self.reducers

    @property
    def fan_in(self) -> int:
        """Runs to merge at once: as many as the budget has decoded blocks in it."""
        return max(2, min(FAN_IN, self.budget // DECODED_BLOCK))

    @property
    def max_record(self) -> int:
        """Bytes that one record may have."""
        return max(64 << 10, self.options.memory // 8)

    @property
    def compress(self) -> bool:
        """Whether intermediate data is compressed: where it crosses a network."""
        return self.storage.uri.startswith("s3://")

    def merge(self, runs: list[Callable[[], Run]]) -> Run:
        """Merge sorted runs, given as functions that open them, within the budget."""
        return merge_many(
            runs,
            self.scratch,
            sort_values=self.hooks.sort_values,
            allow_pickle=self.options.allow_pickle,
            fan_in=self.fan_in,
        )

    def scratch_file(self, name: str) -> str:
        os.makedirs(self.scratch, exist_ok=True)
        return os.path.join(self.scratch, name)

    def write_part(self, partition: int, blocks: Iterable[tuple[list[Any], list[Any]]]) -> Part:
        """Write one partition's sorted blocks to an object of this attempt's own."""
        if self.hooks.total_order and self.reducers > 1:
            return self._write_run(blocks)
        key = layout.part(self.job_id, self.step, self.kind, self.number, partition, self.attempt)
        with self.storage.writer(key) as out, self.explain():
            writer = BlockWriter(out, compress=self.compress, allow_pickle=self.options.allow_pickle)
            for keys, values in blocks:
                writer.write(keys, values)
            writer.close()
        return Part(partition, key, writer.bytes, writer.records, writer.crc32)

    def _write_run(self, blocks: Iterable[tuple[list[Any], list[Any]]]) -> Part:
        key = layout.run(self.job_id, self.step, self.number, self.attempt)
        with self.storage.writer(key) as out, self.explain():
            writer = IndexedWriter(out, compress=self.compress, allow_pickle=self.options.allow_pickle)
            for keys, values in blocks:
                writer.write(keys, values)
            writer.close()
        return Part(0, key, writer.bytes, writer.records, writer.crc32, 0, writer.data_end)

    def explain(self) -> _Explain:
        """A ``with`` block that gives errors of codecs a place in the input."""
        return _Explain(self.position)

    def batches(
        self, pairs: Pairs, *, encode: Encode | None = None, results: bool = True, most: int = 4096
    ) -> Iterator[Columns]:
        """The pairs that user code yields, as columns of keys and of values of bounded length and size.

        ``encode`` is called with each pair as it is yielded and gives what is taken for it; without it, what
        could still change is copied. ``results``: the pairs are what the task is there to yield, so count
        them as its records. An exception of the user's becomes a :class:`mrcelery.errors.UserCodeError`
        with the position.
        """
        iterator = iter(pairs)
        while True:
            began = time.monotonic()
            step = self._step
            keys, values = self.call(lambda: self._take(iterator, step, encode))  # noqa: B023
            if not keys:
                return
            self.poll()
            if results:
                self.records_out += len(keys)
            size = max(16, sampled_size(keys) + sampled_size(values))
            # Few at first, more where they turn out small and quick: a few huge ones must not add up, and
            # a slow mapper must not go on for long in a job that has ended.
            faster = 4.0 if time.monotonic() - began < SLICE_SECONDS else 0.25
            self._step = max(1, min(most, int(step * faster), self.budget // 16 // size))
            yield keys, values

    def _take(self, iterator: Iterator[Pair], most: int, encode: Encode | None) -> Columns:
        keys: list[Any] = []
        values: list[Any] = []
        add_key, add_value = keys.append, values.append
        for pair in islice(iterator, most):
            try:
                key, value = pair
            except (TypeError, ValueError):
                raise self._not_a_pair(pair) from None
            if encode is not None:
                key, value = encode(key, value)
            elif not (type(value) in ATOMS and type(key) in ATOMS):
                key, value = snapshot(key), snapshot(value)
            add_key(key)
            add_value(value)
        return keys, values

    def call(self, function: Callable[[], Any]) -> Any:
        """Call user code; what it raises is raised as a UserCodeError that says where."""
        try:
            return function()
        except (MRCeleryError, KeyboardInterrupt) as e:
            if isinstance(e, TaskError):
                self.position.describe(e)
            raise
        except (Exception, SystemExit) as e:
            if isinstance(e, OSError) and raised_by_us(e):
                raise  # a merge that user code draws on has no room for its files, say
            raise self.user_error(e) from e

    def user_error(self, e: BaseException) -> UserCodeError:
        error = UserCodeError(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)
        error.traceback = user_traceback(e)
        # A connection that broke may hold at the next attempt; anything else would only fail again.
        error.retryable = isinstance(e, (ConnectionError, TimeoutError))
        self.position.describe(error)
        return error

    def _not_a_pair(self, item: Any) -> UserCodeError:
        who = {"map": "mapper", "reduce": "reducer"}[self.kind]
        return UserCodeError(f"the {who} yielded {item!r:.200}, which is no (key, value) pair: yield key, value")


class _Explain:
    def __init__(self, position: Position) -> None:
        self._position = position

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, CodecError):
            self._position.describe(error)


def sampled_size(column: list[Any]) -> int:
    """Bytes of one object of a column, roughly: the mean of a sample."""
    sample = column[:: max(1, len(column) // 16)]
    return sum(map(size_of, sample)) // max(1, len(sample))


def size_of(item: Any) -> int:
    """Bytes of an object, roughly: itself and, of containers, a sample of what they hold."""
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


def yielding(function: Callable[..., Any]) -> Callable[..., Pairs]:
    """``function`` as one that always returns an iterable: hooks may be plain functions returning None."""
    if inspect.isgeneratorfunction(function):
        return function

    def call(*args: Any) -> Pairs:
        try:
            return function(*args) or ()
        except StopIteration as e:
            # It would end the loops of C around us as if there were no more records (as in PEP 479).
            raise RuntimeError("a hook raised StopIteration") from e

    return call
