"""Lines in groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import RecordTooLongError
from mrcelery.formats import input_format, source
from mrcelery.schema.structs import Extent
from tests.support.format_io import MAX, read, stored


@given(
    lines=st.lists(st.text(st.sampled_from("ab \ré"), max_size=6), max_size=30),
    n=st.integers(1, 8),
    block=st.integers(1, 30),
    final=st.booleans(),
)
def test_groups_of_lines(lines: list[str], n: int, block: int, final: bool) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    if not final and lines and lines[-1]:
        data = data[:-1]
    uri = stored(data)
    fmt = input_format(f"lines:{n}")
    assert fmt.splittable is False
    # what ends a line is one \n or \r\n, and the last may have none
    expected = [line[:-1] if line.endswith("\r") else line for line in lines]
    if lines and not data.endswith(b"\n"):
        expected[-1] = lines[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "BLOCK", block)
        found = list(fmt.read(Extent(uri, 0, len(data), len(data)), MAX))
    groups = [v for b in found for v in b.values]
    assert groups == [expected[i : i + n] for i in range(0, len(lines), n)]
    begins = [len("".join(f"{line}\n" for line in lines[:i]).encode()) for i in range(0, len(lines), n)]
    assert [b.offset_of(i) for b in found for i in range(len(b.values))] == begins


@pytest.mark.parametrize("block", [4, 1000])
def test_a_group_beyond_the_limit(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(source, "BLOCK", block)
    data = b"a\nb\nc\nd\n" + b"xxxxx\n" * 40
    with pytest.raises(RecordTooLongError) as caught:
        read("lines:4", Extent(stored(data), 0, len(data), len(data)), max_record=19)
    assert caught.value.offset == 8
