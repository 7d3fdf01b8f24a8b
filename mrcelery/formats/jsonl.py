"""JSON lines: each line is one JSON value; blank lines are skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from mrcelery.errors import CorruptDataError, TaskError
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.lines import gathered, line_blocks
from mrcelery.schema.structs import Extent

_decode = msgspec.json.Decoder().decode


class JsonLinesInput:
    """Values are the decoded lines, as by Python's ``json`` (including ``NaN`` and ``Infinity``).

    A line that is not valid JSON raises :class:`CorruptDataError`, or goes to ``on_bad`` and is skipped. ``block`` is
    the minimum number of bytes in a block.
    """

    splittable = True

    def __init__(self, on_bad: Callable[[TaskError], None] | None = None, block: int = 0) -> None:
        self._on_bad = on_bad
        self._block = block

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Decode a block's lines with msgspec; if one fails, decode one by one, with the ``json`` module if needed."""
        for offset, raw in gathered(line_blocks(extent, max_record), min(self._block, max(1, max_record // 2))):
            lines = raw.split(b"\n")
            numbers: Sequence[int]
            try:
                values = list(map(_decode, lines if lines[-1] else lines[:-1]))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                values, numbers = self._one_by_one(extent.uri, offset, lines)
            else:
                numbers = range(len(values))
            if values:
                yield RecordBlock(None, values, extent.uri, _offsets(offset, lines, numbers))

    def _one_by_one(self, uri: str, offset: int, lines: list[bytes]) -> tuple[list[Any], list[int]]:
        values, numbers = [], []
        for number, line in enumerate(lines):
            if not line or line.isspace():
                continue
            try:
                values.append(_lenient(line))
                numbers.append(number)
            except (ValueError, RecursionError) as e:
                error = _bad(uri, _line_offset(offset, lines, number), line, e)
                if self._on_bad is None:
                    raise error from None
                self._on_bad(error)
        return values, numbers


def _lenient(line: bytes) -> Any:
    """Decode what msgspec refuses and the ``json`` module accepts: NaN, 1e999, lone surrogates, broken UTF-8."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return json.loads(line.decode("utf-8", "surrogateescape"))


def _bad(uri: str, offset: int, line: bytes, why: Exception) -> CorruptDataError:
    error = CorruptDataError(
        f"{uri} has a line at byte {offset} that is not JSON ({why}): "
        "correct it, allow --max-bad-records, or use --input-format text",
        file=uri,
        offset=offset,
        record=repr(line[:200]),
    )
    error.retryable = False
    return error


def _line_offset(offset: int, lines: list[bytes], number: int) -> int:
    return offset + sum(map(len, lines[:number])) + number


def _offsets(offset: int, lines: list[bytes], numbers: Sequence[int]) -> Callable[[int], int]:
    return lambda i: _line_offset(offset, lines, numbers[i])
