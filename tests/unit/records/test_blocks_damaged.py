"""Files of blocks that are damaged, cut off or not ours: found, and refused."""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError
from mrcelery.records.blocks import (
    BlockWriter,
    decode_column,
    encode_column,
)
from tests.support.block_files import read, written

SAMPLES: dict[str, tuple[list[Any], list[Any]]] = {
    "constant": ([None] * 5, [1] * 5),
    "typed": (["a", "b", "c"], [1.5, -0.0, 2.0]),
    "tuples": ([("a", 1), ("b", 2)], [(b"x",), (b"y",)]),
    "mixed": ([1, "a", None], [[1], {"k": (2,)}, {3}]),
}


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """At most ``more`` bytes of address space beyond what there is: a MemoryError, and not a machine that swaps."""
    if sys.platform != "linux":
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_flipped_byte_is_found(sample: str, compress: bool) -> None:
    """All bytes, whatever they mean; a size or a count that is huge now must not be believed, either."""
    data = written(*SAMPLES[sample], compress=compress)
    wrong: list[tuple[int, int, object]] = []
    with memory_limit(256 << 20):
        for position in range(len(data)):
            for mask in (0x01, 0x02, 0x80, 0xFF):
                damaged = bytearray(data)
                damaged[position] ^= mask
                try:
                    wrong.append((position, mask, read(bytes(damaged))))
                except CorruptDataError:
                    pass
                except Exception as e:
                    wrong.append((position, mask, repr(e)))
    assert not wrong


@given(st.sampled_from(sorted(SAMPLES)), st.booleans(), st.data())
def test_a_truncated_file_is_found(sample: str, compress: bool, data: st.DataObject) -> None:
    whole = written(*SAMPLES[sample], compress=compress)
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CorruptDataError, match="a file"):
        read(whole[:length])


def test_a_block_that_is_missing_is_found() -> None:
    out = io.BytesIO()
    writer = BlockWriter(out)
    ends = [writer.bytes]
    for i in range(3):
        writer.write([i], [i])
        ends.append(writer.bytes)
    writer.close()
    data = out.getvalue()
    with pytest.raises(CorruptDataError):
        read(data[: ends[1]] + data[ends[2] :])


def test_a_file_of_another_kind_is_refused() -> None:
    for data in (b"", b"MRC", b"key\tvalue\n" * 10, b"MRCBLK2\n" + written([1], [1])[8:]):
        with pytest.raises(CorruptDataError):
            read(data)


class Armed:
    """Does harm when it is unpickled."""

    fired = False

    def __reduce__(self) -> Any:
        return (setattr, (Armed, "fired", True))


def test_nothing_is_unpickled_by_default() -> None:
    data = encode_column([Armed()], allow_pickle=True)
    with pytest.raises(CorruptDataError):
        decode_column(data, 1)
    assert not Armed.fired
    decode_column(data, 1, allow_pickle=True)
    assert Armed.fired


def test_an_unknown_column_type_is_damage() -> None:
    with pytest.raises(CorruptDataError):
        decode_column(b"?abc", 1)


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_random_bytes_after_the_magic_never_are_data(noise: bytes) -> None:
    assume(not noise.startswith(bytes(9)))  # an end mark of no records
    with pytest.raises(CorruptDataError):
        read(b"MRCBLK1\n" + noise)
