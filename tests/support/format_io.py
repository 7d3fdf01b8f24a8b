"""Bytes read by an input format, and pairs written by an output format."""

from __future__ import annotations

import os
from typing import Any

from mrcelery.formats import RecordBlock, input_format, output_format
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage

MAX = 1 << 20


def blocks(name: str, data: bytes, max_record: int = MAX, **more: Any) -> list[RecordBlock]:
    key = os.urandom(6).hex()
    open_storage("memory://formats").write(key, data)
    extent = Extent(f"memory://formats/{key}", 0, len(data), len(data))
    return list(input_format(name, **more).read(extent, max_record))


def values(name: str, data: bytes, **more: Any) -> list[Any]:
    return [value for block in blocks(name, data, **more) for value in block.values]


def offsets(found: list[RecordBlock]) -> list[int]:
    return [block.offset_of(i) for block in found for i in range(len(block.values))]


def encoded(name: str, *pairs: tuple[Any, Any]) -> bytes:
    return output_format(name).encode([k for k, _ in pairs], [v for _, v in pairs])


def stored(data: bytes, suffix: str = "") -> str:
    key = os.urandom(6).hex() + suffix
    open_storage("memory://fixed").write(key, data)
    return f"memory://fixed/{key}"


def read(name: str, extent: Extent, max_record: int = MAX) -> list[RecordBlock]:
    return list(input_format(name).read(extent, max_record))
