"""The destination of a step's results: a part file in the output format, or blocks for the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, Protocol
from zlib import crc32

from mrcelery.formats import compressor, output_format
from mrcelery.protocols import LineProtocol
from mrcelery.records.blocks import BlockWriter
from mrcelery.records.columns import Column, as_list, is_array
from mrcelery.schema import object_keys
from mrcelery.schema.structs import JobOptions, Part
from mrcelery.task.context import Task
from mrcelery.task.pace import Encode, Pair, Pairs


class Sink(Protocol):
    """Takes result pairs in order, as columns; if ``encode`` is set, each pair is encoded as it is yielded."""

    @property
    def encode(self) -> Encode | None:
        """Return the function that encodes each pair as it is yielded; None if pairs are taken unencoded."""
        ...

    def add(self, keys: Column, values: Column) -> None:
        """Take a block of pairs, as columns of equal length."""
        ...


def feed(task: Task, pairs: Pairs, sink: Sink) -> None:
    """Run the user code behind ``pairs``, and pass its pairs to the sink."""
    for keys, values in task.batches(pairs, encode=sink.encode):
        sink.add(keys, values)


def output_suffix(options: JobOptions) -> str:
    """Return the file extension of the part files: the format's, then the codec's."""
    return output_format(options.output_format).suffix + compressor(options.compress)[0]


@contextmanager
def results(task: Task, partition: int) -> Iterator[tuple[Sink, list[Part]]]:
    """Open a sink for the results of ``task``; the list contains the written part once the block has ended.

    The object belongs to this attempt; if the block raises, nothing of it remains.
    """
    key = object_keys.part(task.id, partition, task.attempt)
    parts: list[Part] = []
    with task.storage.writer(key) as out:
        sink: _Blocks | _Formatted = _Formatted(task, out) if task.last_step else _Blocks(task, out)
        yield sink, parts
        sink.close()
    if sink.records or not sink.needs_records:
        parts.append(Part(partition, key, sink.bytes, sink.records, sink.crc32))


class _Blocks:
    """Intermediate results as blocks, of native types or a protocol's bytes."""

    needs_records = False

    def __init__(self, task: Task, out: Any) -> None:
        self._task = task
        protocol = task.hooks.output_protocol or task.hooks.internal_protocol
        self.encode = None if protocol is None else encoder(protocol)
        self._writer = BlockWriter(out, compress=task.compress, allow_pickle=task.options.allow_pickle)

    def add(self, keys: Column, values: Column) -> None:
        if is_array(keys) != is_array(values):
            keys, values = as_list(keys), as_list(values)
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
    """Final results in the output format, or as written by the job's output protocol."""

    def __init__(self, task: Task, out: Any) -> None:
        self._task = task
        self._out = out
        self._format = output_format(task.options.output_format, task.job)
        self._arrow = bool(getattr(self._format, "arrow", False))
        self.needs_records = bool(getattr(self._format, "needs_records", False))
        protocol = task.hooks.output_protocol
        self.encode: Encode | None = None
        if protocol is not None:
            write = protocol.write
            self.encode = lambda key, value: (write(key, value), None)  # one line each, without a value
        self._compressor = compressor(task.options.compress)[1]()
        self.bytes = 0
        self.records = 0
        self.crc32 = 0

    def _put(self, data: bytes) -> None:
        if data:
            self._out.write(data)
            self.bytes += len(data)
            self.crc32 = crc32(data, self.crc32)

    def add(self, keys: Column, values: Column) -> None:
        if not self._arrow:
            keys, values = as_list(keys), as_list(values)
        try:
            if self.encode is not None:
                data = b"\n".join([*keys, b""])
            else:
                with self._task.explain():
                    data = self._format.encode(keys, values)
        except (TypeError, ValueError) as e:
            raise self._task.user_error(e) from e
        self._put(self._compressor.write(data))
        self.records += len(keys)

    def close(self) -> None:
        finish = getattr(self._format, "finish", None)
        if finish is not None and self.encode is None:
            with self._task.explain():
                self._put(self._compressor.write(finish()))
        self._put(self._compressor.flush())


def encoder(protocol: LineProtocol) -> Encode:
    """Make a function that encodes pairs as the protocol's ``(key bytes, value bytes)``, cut at the first tab.

    A line without a tab gets None as its value, so that :func:`decode_pair` returns the line.
    """
    write = protocol.write

    def encode(key: Any, value: Any) -> Pair:
        k, tab, v = write(key, value).partition(b"\t")
        return k, v if tab else None

    return encode


def decode_pair(protocol: Any, key: bytes, value: bytes | None) -> Pair:
    """Decode a pair encoded by :func:`encoder`."""
    pair: Pair = protocol.read(key if value is None else key + b"\t" + value)
    return pair


def decoded_groups(protocol: Any, groups: Iterator[tuple[Any, Iterator[Any]]]) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Decode groups of a protocol's bytes, one value at a time."""
    for key, values in groups:
        first = decode_pair(protocol, key, next(values))
        rest = (decode_pair(protocol, key, value)[1] for value in values)
        yield first[0], chain([first[1]], rest)
