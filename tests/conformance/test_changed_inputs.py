"""Inputs that changed between plan and read, by every format and on every storage."""

from __future__ import annotations

import bz2
import gzip
import io
import os
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from mrcelery.errors import ChangedInputError, InputError
from mrcelery.formats import input_format
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.custom import OwnInput
from mrcelery.formats.source import in_turn
from mrcelery.planning.listing import list_inputs
from mrcelery.planning.splits import cut
from mrcelery.schema.structs import Extent
from mrcelery.storage import open_storage, readahead
from mrcelery.storage.base import Planned, Version
from mrcelery.storage.transfers import transfers

LINES = b"".join(b"%07d\n" % i for i in range(40_000))


def table(first: int) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"n": range(first, first + 40_000)}), out, row_group_size=4_000, compression="none")
    return out.getvalue()


def csv(data: bytes) -> bytes:
    return b"number\n" + data


def plain(data: bytes) -> bytes:
    return data


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


class Numbers:
    """A reader of a user's own, which reads as it likes."""

    splittable = True

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        yield from input_format("text").read(extent, max_record)


FORMATS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "text": ("a.txt", plain),
    "lines": ("a", plain),
    "lines:3": ("a", plain),
    "jsonl": ("a.jsonl", lambda data: data.replace(b"0", b"1")),
    "csv": ("a.csv", csv),
    "tsv": ("a.tsv", csv),
    "records:8": ("a.bin", plain),
    "whole-file": ("a.txt", plain),
    "text, gzip": ("a.gz", gz),
    "records:8, bz2": ("a.bz2", bz2.compress),
    "whole-file, gzip": ("a.gz", gz),
    "parquet": ("a.parquet", lambda data: table(int(data[:7]))),
    "own": ("a.txt", plain),
}


@pytest.fixture(params=FORMATS)
def planned(request: pytest.FixtureRequest, root: str) -> tuple[str, str, Callable[[], object], bytes]:
    """The URI of an input, its name, a function that reads it as it was planned, and its bytes."""
    name, encode = FORMATS[request.param]
    fmt = OwnInput(True, Numbers) if request.param == "own" else input_format(request.param.partition(",")[0])
    data = encode(LINES)
    open_storage(root).write(name, data)
    splits = list(cut(list_inputs([f"{root}/{name}"], fmt, since=0.0), len(data) // 3))
    extents = [extent for split in splits for extent in split.extents]

    def read() -> object:
        with transfers(), in_turn(extents):
            return [value for extent in extents for block in fmt.read(extent, 8 << 20) for value in block.values]

    return root, name, read, data


def test_other_contents_of_the_same_length(planned: tuple[str, str, Callable[[], object], bytes]) -> None:
    root, name, read, data = planned
    before = read()
    assert read() == before
    changed = bytearray(data)
    middle = len(data) // 2
    changed[middle] = changed[middle] ^ 1
    open_storage(root).write(name, bytes(changed))
    with pytest.raises(
        ChangedInputError, match=r"has changed since it was planned: it had \d+ bytes.*, and now has "
    ) as caught:
        read()
    assert not caught.value.retryable
    assert caught.value.file == f"{root}/{name}"


@pytest.mark.parametrize("change", [lambda data: data[:-9], lambda data: data + data[-8:]])
def test_another_length(
    planned: tuple[str, str, Callable[[], object], bytes], change: Callable[[bytes], bytes]
) -> None:
    root, name, read, data = planned
    open_storage(root).write(name, change(data))
    with pytest.raises(ChangedInputError, match=r"has changed since it was planned: it had \d+ bytes.*, and now has "):
        read()


def test_one_that_is_gone(planned: tuple[str, str, Callable[[], object], bytes]) -> None:
    root, name, read, _ = planned
    open_storage(root).delete([name])
    with pytest.raises(InputError, match="is gone"):
        read()


def test_a_stream_of_what_was_planned(root: str) -> None:
    storage = open_storage(root)
    storage.write("a", LINES)
    (file,) = list_inputs([f"{root}/a"], input_format("text"))
    storage.write("b", LINES[::-1])
    for size, found in ((len(LINES), LINES[100:]), (len(LINES) + 200, None)):
        version = Version(Planned(file.tag, size))
        if found is not None:
            assert b"".join(storage.stream("a", 100, None, 1000, version)) == found
        else:
            with pytest.raises(ChangedInputError):
                list(storage.stream("a", len(LINES) + 10, None, 1000, version))
    with pytest.raises(ChangedInputError):
        list(storage.stream("b", 0, 100, 1000, Version(Planned(file.tag, len(LINES)))))


@pytest.mark.slow
def test_ranges_and_small_objects_that_are_read_ahead(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "RANGE", len(LINES) // 8)
    root = f"s3://{bucket}/{os.urandom(6).hex()}"
    storage = open_storage(root)
    text = input_format("text")
    for name in "abcd":
        storage.write(name, LINES)
    extents = [e for split in cut(list_inputs([root], text), 1 << 30) for e in split.extents]
    with transfers() as moved:
        assert len([v for e in extents for block in text.read(e, 1 << 20) for v in block.values]) == 4 * 40_000
    assert moved.requests == {"GET": 4 * 8}  # conditions are headers, not requests
    monkeypatch.setattr(readahead, "RANGE", 8 << 20)
    for changed in range(4):
        storage.write("abcd"[changed], LINES[::-1])
        with (
            transfers(),
            in_turn(extents),
            pytest.raises(ChangedInputError, match="abcd"[changed] + " has changed since"),
        ):
            for extent in extents:
                list(text.read(extent, 1 << 20))
        storage.write("abcd"[changed], LINES)
