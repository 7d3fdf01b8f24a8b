"""What a running attempt has at hand, and how user code is called in it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mrcelery import layout
from mrcelery.codec import BlockWriter
from mrcelery.errors import CodecError, MRCeleryError, TaskError, UserCodeError
from mrcelery.job import MRJob, StepHooks
from mrcelery.records import JobOptions, Kind, Part
from mrcelery.storage.base import Storage
from mrcelery.tracebacks import user_traceback

RECORD_REPR = 500
"""Characters of a record shown with an error."""

Pair = tuple[Any, Any]
Pairs = Iterable[Pair]


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

    @property
    def budget(self) -> int:
        """Bytes that buffers may hold: a quarter of the ceiling, since sorting and encoding copy them."""
        return max(1 << 20, self.options.memory // 4)

    @property
    def max_record(self) -> int:
        """Bytes that one record may have."""
        return max(64 << 10, self.options.memory // 8)

    @property
    def compress(self) -> bool:
        """Whether intermediate data is compressed: where it crosses a network."""
        return self.storage.uri.startswith("s3://")

    def scratch_file(self, name: str) -> str:
        os.makedirs(self.scratch, exist_ok=True)
        return os.path.join(self.scratch, name)

    def write_part(self, partition: int, blocks: Iterable[tuple[list[Any], list[Any]]]) -> Part:
        """Write one partition's sorted blocks to an object of this attempt's own."""
        key = layout.part(self.job_id, self.step, self.kind, self.number, partition, self.attempt)
        with self.storage.writer(key) as out, self.explain():
            writer = BlockWriter(out, compress=self.compress, allow_pickle=self.options.allow_pickle)
            for keys, values in blocks:
                writer.write(keys, values)
            writer.close()
        return Part(partition, key, writer.bytes, writer.records, writer.crc32)

    def explain(self) -> _Explain:
        """A ``with`` block that gives errors of codecs a place in the input."""
        return _Explain(self.position)

    def batches(self, pairs: Pairs, *, results: bool = True, most: int = 4096) -> Iterator[list[Pair]]:
        """The pairs that user code yields, in lists of bounded length and size.

        ``results``: they are what the task is there to yield, so count them as its records.
        An exception of the user's becomes a :class:`mrcelery.errors.UserCodeError` with the position.
        """
        iterator = iter(pairs)
        step = 64  # grows while pairs turn out small, so that a few huge ones do not add up
        while True:
            batch = self.call(lambda: list(islice(iterator, step)))  # noqa: B023
            if not batch:
                return
            self.poll()
            if results:
                self.records_out += len(batch)
            yield batch
            size = max(16, sum(map(size_of, batch[:: max(1, len(batch) // 16)])) // min(len(batch), 16))
            step = max(1, min(most, step * 4, self.budget // 16 // size))

    def call(self, function: Callable[[], Any]) -> Any:
        """Call user code; what it raises is raised as a UserCodeError that says where."""
        try:
            return function()
        except (MRCeleryError, KeyboardInterrupt) as e:
            if isinstance(e, TaskError):
                self.position.describe(e)
            raise
        except (Exception, SystemExit) as e:
            raise self.user_error(e) from e

    def user_error(self, e: BaseException) -> UserCodeError:
        error = UserCodeError(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)
        error.traceback = user_traceback(e)
        # A connection that broke may hold at the next attempt; anything else would only fail again.
        error.retryable = isinstance(e, (ConnectionError, TimeoutError))
        self.position.describe(error)
        return error

    def not_a_pair(self, batch: list[Any]) -> UserCodeError:
        """The error for a batch in which something is no ``(key, value)``."""
        for item in batch:
            try:
                _, _ = item
            except (TypeError, ValueError):
                error = UserCodeError(
                    f"the {self.kind}per yielded {item!r:.200}, which is no (key, value) pair: yield key, value"
                    if self.kind == "map"
                    else f"the reducer yielded {item!r:.200}, which is no (key, value) pair: yield key, value"
                )
                self.position.describe(error)
                return error
        raise AssertionError("every item is a pair")


class _Explain:
    def __init__(self, position: Position) -> None:
        self._position = position

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, CodecError):
            self._position.describe(error)


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
        return function(*args) or ()

    return call
