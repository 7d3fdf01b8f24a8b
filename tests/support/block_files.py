"""A file of blocks in memory, written and read."""

from __future__ import annotations

import io
from typing import Any

from mrcelery.records.blocks import (
    BlockWriter,
    read_blocks,
)


def written(keys: list[Any], values: list[Any], **options: bool) -> bytes:
    out = io.BytesIO()
    writer = BlockWriter(out, **options)
    writer.write(keys, values)
    writer.close()
    return out.getvalue()


def read(data: bytes, **options: bool) -> tuple[list[Any], list[Any]]:
    blocks = list(read_blocks([data], "a file", **options))
    return [k for block in blocks for k in block.keys], [v for block in blocks for v in block.values]
