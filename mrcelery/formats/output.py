"""Output formats: turn a block of pairs into the bytes of a part file.

The bytes of a pair depend only on the pair, however pairs are grouped into blocks.
"""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any

from mrcelery.errors import CodecError
from mrcelery.formats.base import OutputFormat
from mrcelery.formats.json_text import json_lines, shortened
from mrcelery.records.columns import Column, as_list


class JsonOutput:
    """``JSON key TAB JSON value`` lines: mrjob's default."""

    suffix = ""
    arrow = True

    def encode(self, keys: Column, values: Column) -> bytes:
        """Write both columns as JSON; for Arrow arrays without making Python objects."""
        if not (isinstance(keys, list) and isinstance(values, list)):
            from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

            return arrow.joined([arrow.json_column(keys), arrow.json_column(values)], b"\t", b"\n")
        pairs = zip(json_lines(keys), repeat(b"\t"), json_lines(values), repeat(b"\n"))
        return b"".join(chain.from_iterable(pairs))


class JsonLinesOutput:
    """``{"key": key, "value": value}`` lines, or the value alone under a key None."""

    suffix = ".jsonl"
    arrow = True

    def encode(self, keys: Column, values: Column) -> bytes:
        """Write a row per pair; if a key is None, only the value is written on its line."""
        if not (isinstance(keys, list) and isinstance(values, list)):
            from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

            if (data := arrow.json_rows(keys, values)) is not None:
                return data
            keys, values = as_list(keys), as_list(values)
        if all(key is None for key in keys):
            rows = values
        else:
            rows = [
                value if key is None else {"key": key, "value": value} for key, value in zip(keys, values, strict=True)
            ]
        lines = json_lines(rows)
        lines.append(b"")
        return b"\n".join(lines)


class TextOutput:
    """``key TAB value`` lines, written by ``str()``, bytes unchanged.

    If the key or the value is None, it is left out with the tab. Newlines within values are kept, and then start lines.
    """

    suffix = ""
    arrow = True

    def encode(self, keys: Column, values: Column) -> bytes:
        """Write UTF-8, lone surrogates as the bytes they represent; bytes unchanged."""
        if not (isinstance(keys, list) and isinstance(values, list)):
            from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

            if (data := arrow.text_rows(keys, values)) is not None:
                return data
            keys, values = as_list(keys), as_list(values)
        try:
            if bytes not in set(map(type, keys)) | set(map(type, values)):
                return "".join(map(_text_line, keys, values)).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            pass
        return b"".join(map(_bytes_line, keys, values))


def _text_line(key: Any, value: Any) -> str:
    if key is None:
        return "\n" if value is None else f"{value!s}\n"
    return f"{key!s}\n" if value is None else f"{key!s}\t{value!s}\n"


def _bytes_line(key: Any, value: Any) -> bytes:
    return b"\t".join(text_bytes(item) for item in (key, value) if item is not None) + b"\n"


def text_bytes(item: Any) -> bytes:
    """Encode ``str()`` of the item in UTF-8, lone surrogates as the bytes they represent; bytes unchanged."""
    if isinstance(item, bytes):
        return item
    text = str(item)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Surrogates that do not represent a byte, such as JSON's "\ud800".
        return text.encode("utf-8", "surrogatepass")


class RecordsOutput:
    """The values' bytes, concatenated without separators or keys: ``records:N`` reads them if all have N bytes."""

    suffix = ""
    arrow = True

    def encode(self, keys: Column, values: Column) -> bytes:
        """Join the values' bytes; anything but bytes raises :class:`CodecError`."""
        if not isinstance(values, list):
            from mrcelery.formats import arrow  # noqa: PLC0415 - needs pyarrow

            if arrow.is_bytes(values.type) and not values.null_count:
                return bytes(arrow.data_of(values))
            values = as_list(values)
        try:
            return b"".join(values)
        except TypeError:
            bad = next(value for value in values if not isinstance(value, (bytes, bytearray, memoryview)))
            raise CodecError(
                f"{shortened(bad)} is not bytes, as a record must be: yield bytes, or use --output-format text",
                record=shortened(bad),
            ) from None


class NoOutput:
    """Nothing: for a job that is run for its counters or side effects."""

    suffix = ""
    arrow = True

    def encode(self, keys: Column, values: Column) -> bytes:
        """Discard the block."""
        return b""


FORMATS: dict[str, OutputFormat] = {
    "json": JsonOutput(),
    "text": TextOutput(),
    "jsonl": JsonLinesOutput(),
    "records": RecordsOutput(),
    "none": NoOutput(),
}
