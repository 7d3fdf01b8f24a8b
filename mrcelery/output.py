"""Where a step's results go: a part file in the output format, or blocks for the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from zlib import crc32

from mrcelery import layout
from mrcelery.codec import BlockWriter
from mrcelery.formats import compressor, output_format
from mrcelery.records import JobOptions, Part
from mrcelery.task import Pair, Task


class Sink(Protocol):
    """Takes result pairs in order."""

    def add(self, batch: list[Pair]) -> None: ...


def output_suffix(options: JobOptions) -> str:
    """Ending of the part files: the format's, then the codec's."""
    return output_format(options.output_format).suffix + compressor(options.compress)[0]


@contextmanager
def results(task: Task, partition: int) -> Iterator[tuple[Sink, list[Part]]]:
    """A sink for the results of ``task`` and a list that holds the written part once the block has ended.

    The object is the attempt's own; nothing is left of it where the block raised.
    """
    key = layout.part(task.job_id, task.step, task.kind, task.number, partition, task.attempt)
    parts: list[Part] = []
    with task.storage.writer(key) as out:
        sink: _Blocks | _Formatted = _Formatted(task, out) if task.last_step else _Blocks(task, out)
        yield sink, parts
        sink.close()
    parts.append(Part(partition, key, sink.bytes, sink.records, sink.crc32))


class _Blocks:
    """Intermediate results as blocks; native types, or a protocol's bytes."""

    def __init__(self, task: Task, out: Any) -> None:
        self._task = task
        self._protocol = task.hooks.output_protocol or task.hooks.internal_protocol
        self._writer = BlockWriter(out, compress=task.compress, allow_pickle=task.options.allow_pickle)

    def add(self, batch: list[Pair]) -> None:
        try:
            if self._protocol is not None:
                batch = encode_pairs(self._protocol, batch)
            keys, values = [k for k, _ in batch], [v for _, v in batch]
        except (TypeError, ValueError) as e:
            raise pair_error(self._task, batch, e) from e
        with self._task.explain():
            self._writer.write(keys, values)

    def close(self) -> None:
        self._writer.close()

    @property
    def bytes(self) -> int:
        return self._writer.bytes

    @property
    def records(self) -> int:
        return self._writer.records

    @property
    def crc32(self) -> int:
        return self._writer.crc32


class _Formatted:
    """Final results in the output format, or as the job's output protocol writes them."""

    def __init__(self, task: Task, out: Any) -> None:
        self._task = task
        self._out = out
        self._format = output_format(task.options.output_format)
        self._protocol = task.hooks.output_protocol
        self._compressor = compressor(task.options.compress)[1]()
        self.bytes = 0
        self.records = 0
        self.crc32 = 0

    def _put(self, data: bytes) -> None:
        if data:
            self._out.write(data)
            self.bytes += len(data)
            self.crc32 = crc32(data, self.crc32)

    def add(self, batch: list[Pair]) -> None:
        try:
            if self._protocol is not None:
                write = self._protocol.write
                lines = [write(k, v) for k, v in batch]
                lines.append(b"")
                data = b"\n".join(lines)
            else:
                with self._task.explain():
                    data = self._format.encode([k for k, _ in batch], [v for _, v in batch])
        except (TypeError, ValueError) as e:
            raise pair_error(self._task, batch, e) from e
        self._put(self._compressor.write(data))
        self.records += len(batch)

    def close(self) -> None:
        self._put(self._compressor.flush())


def encode_pairs(protocol: Any, batch: list[Pair]) -> list[Pair]:
    """Pairs as the protocol's bytes: ``(key bytes, value bytes)``, cut at the first tab.

    A line without a tab has None for its value, so that :func:`decoder` gives the line back.
    """
    encoded: list[Pair] = []
    for key, value in batch:
        k, tab, v = protocol.write(key, value).partition(b"\t")
        encoded.append((k, v if tab else None))
    return encoded


def decode_pair(protocol: Any, key: bytes, value: bytes | None) -> Pair:
    """The pair that :func:`encode_pairs` encoded."""
    pair: Pair = protocol.read(key if value is None else key + b"\t" + value)
    return pair


def pair_error(task: Task, batch: list[Any], e: Exception) -> Exception:
    """What to raise where a batch would not go through: the user's, whichever it is."""
    for item in batch:
        try:
            _, _ = item
        except (TypeError, ValueError):
            return task.not_a_pair(batch)
    return task.user_error(e)
