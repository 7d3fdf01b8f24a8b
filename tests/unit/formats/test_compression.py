"""Compressed inputs and outputs: round trips, several members, damage, and bounded memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, RecordTooLongError, UsageError
from mrcelery.formats import compressor, input_format
from mrcelery.formats.compression import BLOCK, check_text, compression_of, decompress, why_unreadable
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage

# Compressed by the reference implementations, not by ours.
REFERENCE: dict[str, Callable[[bytes], bytes]] = {
    "a.gz": gzip.compress,
    "a.bz2": bz2.compress,
    "a.xz": lzma.compress,
    "a.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    "a.ZSTD": zstandard.ZstdCompressor(write_checksum=True).compress,
    "a.bgz": gzip.compress,
}
OPENED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().stream_reader(data).read(),
}
names = st.sampled_from(sorted(REFERENCE))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def unpacked(data: bytes, name: str, size: int = 1 << 16) -> bytes:
    return b"".join(decompress(pieces(data, size), name))


@given(name=names, members=st.lists(st.binary(max_size=200), min_size=1, max_size=4), size=st.integers(1, 50))
def test_members_in_a_row_are_one_file(name: str, members: list[bytes], size: int) -> None:
    packed = b"".join(map(REFERENCE[name], members))
    assert unpacked(packed, name, size) == b"".join(members)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_more_than_a_block(name: str) -> None:
    data = os.urandom(1 << 16) * 20
    out = list(decompress(pieces(REFERENCE[name](data), 1 << 16), name))
    assert b"".join(out) == data
    assert max(map(len, out)) <= 2 * BLOCK


@pytest.mark.parametrize("name", ["none", "gzip", "bz2", "xz", "zstd"])
@pytest.mark.parametrize("writes", [[], [b""], [b"abc\n"], [b"abc\n", b"", b"def\n" * 100_000]])
def test_outputs_open_with_the_usual_tools(name: str, writes: list[bytes]) -> None:
    suffix, factory = compressor(name)
    out, again = factory(), factory()
    data = b"".join(map(out.write, writes)) + out.flush()
    assert OPENED.get(suffix, bytes)(data) == b"".join(writes)
    assert unpacked(data, "part-00000" + suffix) == b"".join(writes)
    assert b"".join(map(again.write, writes)) + again.flush() == data, "the same records give the same bytes"


def test_an_unknown_compression() -> None:
    with pytest.raises(UsageError, match="use one of none, gzip"):
        compressor("rar")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/a/b.gz", "gzip"),
        ("s3://b/k.GZ", "gzip"),
        ("x.bz2", "bz2"),
        ("x.xz", "xz"),
        ("x.lzma", "xz"),
        ("x.zst", "zstd"),
        ("x.gz.txt", ""),
        ("/a.gz/b", ""),
        ("gz", ""),
        ("https://h/x.gz?token=a.b", "gzip"),
        ("https://h/x?file=a.gz", ""),
        ("/a/x.gz?token", ""),
    ],
)
def test_the_name_tells_the_compression(uri: str, name: str) -> None:
    assert compression_of(uri) == name


def test_the_old_lzma_format() -> None:
    assert unpacked(lzma.compress(b"data", format=lzma.FORMAT_ALONE), "a.lzma") == b"data"


def test_padding_after_a_member() -> None:
    packed = gzip.compress(b"a") + bytes(512) + gzip.compress(b"b") + bytes(7)
    assert unpacked(packed, "a.gz", 5) == b"ab"
    assert unpacked(lzma.compress(b"a") + bytes(8), "a.xz") == b"a"


@given(name=names, data=st.binary(min_size=1, max_size=300), where=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early_is_damaged(name: str, data: bytes, where: float) -> None:
    packed = REFERENCE[name](data)
    short = packed[: max(1, int(len(packed) * where))]
    with pytest.raises(CorruptDataError, match=r"is damaged or not in .* format .*it ends early") as caught:
        unpacked(short, name, 20)
    assert caught.value.retryable is False
    assert caught.value.file == name
    assert caught.value.offset is not None and caught.value.offset <= len(data)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_damaged_bytes(name: str) -> None:
    data = os.urandom(100_000)
    packed = bytearray(REFERENCE[name](data))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(CorruptDataError, match="damaged"):
        unpacked(bytes(packed), name)
    with pytest.raises(CorruptDataError, match=r"a\.\w+ is damaged or not in \w+ format"):
        unpacked(b"this is plain text, whatever its name says", name)
    with pytest.raises(CorruptDataError, match="damaged"):
        unpacked(REFERENCE[name](b"a") + b"garbage at the end of the file", name)


def _bomb(name: str, size: int) -> bytes:
    """``size`` zeros, made without having them in memory."""
    zeros = bytes(1 << 20)
    suffix = name.rpartition(".")[2]
    tools: dict[str, Callable[[], Any]] = {
        "gz": lambda: zlib.compressobj(wbits=31),
        "bz2": bz2.BZ2Compressor,
        "xz": lambda: lzma.LZMACompressor(preset=0),
        "zst": lambda: zstandard.ZstdCompressor().compressobj(),
    }
    tool = tools[suffix]()
    return b"".join([*(tool.compress(zeros) for _ in range(size >> 20)), tool.flush()])


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_a_bomb_of_one_line_is_refused_in_bounded_memory(name: str) -> None:
    size = 64 << 20
    uri = f"memory://bombs/{name}"
    packed = _bomb(name, size)
    open_storage("memory://bombs").write(name, packed)
    tracemalloc.start()
    try:
        with pytest.raises(RecordTooLongError):
            list(input_format("text").read(Extent(uri, 0, len(packed), len(packed)), 1 << 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 2


def test_lines_of_a_compressed_file_have_offsets_in_the_uncompressed_one() -> None:
    data = b"first\r\nsecond\n\nlast"
    open_storage("memory://packed").write("a.gz", gzip.compress(data[:8]) + gzip.compress(data[8:]))
    size = open_storage("memory://packed").stat("a.gz").size  # type: ignore[union-attr]
    blocks = list(input_format("text").read(Extent("memory://packed/a.gz", 0, size, size), 100))
    assert [value for block in blocks for value in block.values] == ["first", "second", "", "last"]
    assert [block.offset_of(i) for block in blocks for i in range(len(block.values))] == [0, 7, 14, 15]


# What `printf 'one\\ntwo\\n' | bgzip` writes: a block with its size in an extra field, and the empty block at the end.
BGZIP = bytes.fromhex(
    "1f8b08040000000000ff0600424302002300cbcf4be52a29cfe70200e60bba1208000000"
    "1f8b08040000000000ff0600424302001b0003000000000000000000"
)


def test_the_blocks_of_bgzip_are_one_file() -> None:
    assert unpacked(BGZIP, "a.bgz", 7) == gzip.decompress(BGZIP) == b"one\ntwo\n"
    with pytest.raises(CorruptDataError, match="not in gzip format"):
        unpacked(b"plain text", "a.bgz")


UNREADABLE = {
    "a.zip": "extract it .*whole-file",
    "a.TGZ": "extract it",
    "a.tar": "extract it",
    "a.tar.gz": "extract it",
    "a.tar.zst": "extract it",
    "a.tar.bz2": "extract it",
    "a.tar.lz4": "extract it",
    "a.7z": "extract it",
    "a.rar": "extract it",
    "a.Z": "decompress it, or compress it with gzip",
    "a.lz4": "decompress it",
    "a.snappy": "decompress it",
    "a.parquet": "--input-format parquet",
    "a.xlsx": "save it as CSV",
    "http://h/a.zip?x=a.txt": "extract it",
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_no_format_of_records_reads(name: str) -> None:
    why = why_unreadable(name)
    assert why.startswith(f"input {name} is ")
    assert re.search(UNREADABLE[name], why)
    assert why_unreadable(name, None) == ""


def test_packed_bytes_under_a_plain_name_are_no_text() -> None:
    storage = open_storage("memory://packed")
    for name, compress in REFERENCE.items():
        packed = compress(b"to be or not to be\n" * 9)
        storage.write("log", packed)
        with pytest.raises(CorruptDataError, match=r"would be read as text: .* a name that ends in \.") as caught:
            list(input_format("text").read(Extent("memory://packed/log", 0, len(packed), len(packed)), 1 << 20))
        assert not caught.value.retryable
        storage.write(f"log{name[1:]}", compress(packed))  # packed twice
        with pytest.raises(CorruptDataError, match="would be read as text"):
            list(input_format("text").read(Extent(f"memory://packed/log{name[1:]}", 0, -1, -1), 1 << 20))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("a.txt", "to be")
    storage.write("log", archive.getvalue())
    with pytest.raises(CorruptDataError, match=r"a zip archive, .* extract"):
        list(input_format("lines").read(Extent("memory://packed/log", 0, -1, -1), 1 << 20))


@pytest.mark.parametrize("begin", [b"", b"(a)", b"BZh", b"PK", b"7z", b"Rar!", b"PAR1", b"\x04", b"\x1f"])
def test_texts_that_only_begin_alike(begin: bytes) -> None:
    check_text(begin + b"\n", "a")


@pytest.mark.parametrize("name", ["a", "zip", "a.zip/b", "tar.gz", "a.tar.txt", "http://h/a?x=b.zip", "a.zip "])
def test_names_that_only_resemble_one(name: str) -> None:
    assert why_unreadable(name) == ""
