"""Whole files as records."""

from __future__ import annotations

import pytest

from mrcelery.errors import RecordTooLongError
from mrcelery.formats import input_format
from tests.support.format_io import blocks


def test_whole_file() -> None:
    (block,) = blocks("whole-file", b"\xef\xbb\xbfa\r\nb\n\xff")
    assert block.keys == [block.file]
    assert block.values == ["a\r\nb\n\udcff"]
    assert block.offset_of(0) == 0
    with pytest.raises(RecordTooLongError):
        blocks("whole-file", b"x" * 11, max_record=10)
    assert input_format("whole-file").splittable is False
