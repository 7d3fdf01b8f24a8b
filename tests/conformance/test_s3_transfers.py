"""How bytes move to and from S3: read ahead in parallel, written behind, nothing asked for twice."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from botocore.exceptions import ClientError

from mrcelery.errors import ChangedInputError, CorruptDataError, InputError, StorageUnreachableError
from mrcelery.formats import input_format
from mrcelery.formats.source import SLACK, in_turn, read_from, requests_for
from mrcelery.schema.structs import Extent
from mrcelery.storage import Storage, locate, open_storage, s3, s3_clients, s3_uploads
from mrcelery.storage import transfers as module
from mrcelery.storage.base import Version
from mrcelery.storage.readahead import RANGE, SMALL_AT_ONCE, read_ahead
from mrcelery.storage.transfers import MEMORY, transfers
from tests.support.s3_proxy import Asked, Log, proxy

pytestmark = pytest.mark.slow  # an endpoint is started

MIB = 1 << 20
LINE = b"%07d\n"
SIZE = 40 * MIB
BLOCK = 1 << 16
LINES = b"".join(
    # block by block: all lines as objects of their own would be 700 MiB in each process that collects the tests
    b"".join(LINE % number for number in range(start, start + BLOCK))
    for start in range(0, SIZE // len(LINE % 0), BLOCK)
)


@pytest.fixture(scope="module")
def large(bucket: str) -> str:
    """The address of an object of 40 MiB of lines."""
    uri = f"s3://{bucket}/{os.urandom(4).hex()}/large.txt"
    storage, key = locate(uri)
    storage.write(key, LINES)
    return uri


@pytest.fixture
def log(bucket: str) -> Iterator[Log]:
    with proxy() as log:
        yield log


def spans(asked: list[Asked]) -> list[tuple[int, int]]:
    """The byte ranges asked for, in order of their start."""
    found = []
    for one in asked:
        first, _, last = one.range.removeprefix("bytes=").partition("-")
        found.append((int(first), int(last) + 1))
    return sorted(found)


def test_ranges_are_fetched_in_parallel_and_no_byte_twice(large: str, log: Log) -> None:
    log.together = MEMORY // RANGE
    storage, key = locate(large)
    with transfers() as moved:
        chunks = list(read_ahead(storage, key, 3, SIZE))
    assert b"".join(chunks) == LINES[3:]
    assert max(map(len, chunks)) <= MIB
    asked = spans(log.gets())
    assert asked[0][0] == 3
    assert asked[-1][1] == SIZE
    assert all(before[1] == after[0] for before, after in pairwise(asked))
    assert moved.requests == {"GET": len(asked)} == {"GET": 5}
    assert log.most_at_once == MEMORY // RANGE


def test_a_small_extent_is_one_request(large: str, log: Log) -> None:
    storage, key = locate(large)
    assert b"".join(read_ahead(storage, key, 0, 9 * MIB)) == LINES[: 9 * MIB]
    assert len(log.gets()) == 1


def test_with_little_memory_nothing_is_read_ahead(large: str, log: Log) -> None:
    storage, key = locate(large)
    with transfers(memory=RANGE):
        assert b"".join(read_ahead(storage, key, 0, SIZE)) == LINES
    assert len(log.gets()) == 1


def test_no_more_is_held_than_memory_allows(large: str, log: Log) -> None:
    storage, key = locate(large)
    with transfers(memory=2 * RANGE):
        chunks = read_ahead(storage, key, 0, SIZE)
        taken = 0
        for chunk in chunks:
            taken += len(chunk)
            # a slow reader: nobody asks for what there is no room for
            assert spans(log.gets())[-1][1] <= taken + 2 * RANGE + MIB
    assert taken == SIZE


def test_a_reader_that_leaves_early_stops_the_requests(large: str, log: Log) -> None:
    storage, key = locate(large)
    with transfers() as moved:
        chunks = read_ahead(storage, key, 0, SIZE)
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        asked = len(log.gets())
        assert moved.requests == {"GET": asked}
    assert asked <= MEMORY // RANGE
    running = [t for t in threading.enumerate() if t.name.startswith("mrcelery-storage")]
    assert len(running) <= module.THREADS


def test_a_process_ends_that_has_left_requests_under_way(large: str) -> None:
    script = (
        "import sys; from mrcelery.storage import locate; from mrcelery.storage.readahead import read_ahead\n"
        f"left = read_ahead(*locate({large!r}), 0, {SIZE})\n"
        "print(next(left)[:7])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "b'0000000'\n", "")


def test_splits_of_lines_in_parallel_ranges(large: str, log: Log) -> None:
    text = input_format("text")
    cut = 17 * MIB + 3
    extents = [Extent(large, 0, cut, SIZE), Extent(large, cut, SIZE, SIZE)]
    found: list[str] = []
    for extent in extents:
        log.requests.clear()
        found += ["\n".join(block.values) for block in text.read(extent, MIB)]
        assert len(log.gets()) == requests_for(extent) > 1
        assert sum(end - start for start, end in spans(log.gets())) <= extent.end - extent.start + SLACK + 1
    assert "\n".join(found) + "\n" == LINES.decode()


def test_small_files_are_fetched_ahead_one_request_each(bucket: str, log: Log) -> None:
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    for number in range(12):
        open_storage(root).write(f"{number:02d}", b"%d\n" % number * 1000)
    log.requests.clear()
    log.together = 1 + SMALL_AT_ONCE
    extents = [Extent(f"{root}/{n:02d}", 0, size, size) for n in range(12) for size in [1000 * (len(str(n)) + 1)]]
    text = input_format("text")
    with transfers() as moved, in_turn(extents):
        found = [line for extent in extents for block in text.read(extent, MIB) for line in block.values]
    assert found == [str(number) for number in range(12) for _ in range(1000)]
    assert sorted(asked.key[-2:] for asked in log.gets()) == [f"{number:02d}" for number in range(12)]
    assert moved.requests == {"GET": 12}


def test_small_files_are_not_fetched_beyond_memory_or_a_reader_that_leaves(bucket: str, log: Log) -> None:
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    for number in range(6):
        open_storage(root).write(str(number), bytes(MIB))
    log.requests.clear()
    extents = [Extent(f"{root}/{number}", 0, MIB, MIB) for number in range(6)]
    with transfers(memory=5 * MIB) as moved:
        with in_turn(extents):
            next(read_from(extents[3], 0))  # not what comes first: read as ever
            assert len(log.gets()) == 1
            assert b"".join(read_from(extents[0], 0)) == bytes(MIB)
            assert b"".join(read_from(extents[1], 0)) == bytes(MIB)
        asked = [one.key[-1] for one in log.gets()]
        # two have room: 1 and 2, then 2 and 3, which nobody came to take
        assert Counter("013") <= Counter(asked) <= Counter("01233")
        assert moved.requests == {"GET": len(asked)}


def test_a_small_file_that_is_gone_or_was_replaced_after_it_was_fetched(bucket: str) -> None:
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    storage = open_storage(root)
    storage.write("a", b"1\n")
    storage.write("c", bytes(3 * MIB))
    extents = [Extent(f"{root}/a", 0, 2, 2), Extent(f"{root}/b", 0, 2, 2), Extent(f"{root}/c", 0, MIB, 3 * MIB)]
    with in_turn(extents):
        assert list(read_from(extents[0], 0)) == [b"1\n"]
        with pytest.raises(InputError, match="is gone"):
            list(read_from(extents[1], 0))
        line = read_from(extents[2], 0)
        next(line)
        storage.write("c", b"x" * 3 * MIB)
        with pytest.raises(ChangedInputError, match="has changed since it was planned"):
            list(line)


def test_an_object_replaced_between_two_ranges(bucket: str, log: Log) -> None:
    uri = f"s3://{bucket}/{os.urandom(4).hex()}"
    storage, key = locate(uri)
    storage.write(key, LINES)
    version = Version()
    for end in (SIZE // 2, SIZE):
        first = read_ahead(storage, key, 0, end, version=version)
        assert next(first) == LINES[:MIB]
        storage.write(key, LINES[::-1])
        with pytest.raises(CorruptDataError, match="was replaced while it was read"):
            list(read_ahead(storage, key, end // 2, end, version=version))
        first.close()  # type: ignore[attr-defined]
        storage.write(key, LINES)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_object_that_is_stored_compressed(bucket: str, ending: str) -> None:
    uri = f"s3://{bucket}/{os.urandom(4).hex()}/lines{ending}"
    data = gzip.compress(LINES[:800])
    key = uri.partition(f"{bucket}/")[2]
    s3_clients.client().put_object(Bucket=bucket, Key=key, Body=data, ContentEncoding="aws-chunked,gzip")
    found = input_format("text").read(Extent(uri, 0, len(data), len(data)), MIB)
    if ending:
        assert [line for block in found for line in block.values] == LINES[:800].decode().split()
    else:
        with pytest.raises(InputError, match=r"lines comes compressed \(Content-Encoding: gzip\)"):
            list(found)


def test_an_object_that_ends_early(large: str) -> None:
    storage, key = locate(large)
    assert b"".join(read_ahead(storage, key, 0, SIZE + 3 * RANGE)) == LINES
    assert b"".join(read_ahead(storage, key, SIZE, SIZE + 3 * RANGE)) == b""


def test_an_object_that_is_gone(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}/nothing")
    with pytest.raises(FileNotFoundError):
        list(read_ahead(storage, "key", 0, SIZE))


# --- writing


def write(storage: Storage, key: str, data: bytes) -> None:
    with storage.writer(key) as out:
        out.write(data)


def test_small_objects_are_written_behind_and_are_there_after_the_block(bucket: str, log: Log) -> None:
    log.together = 16
    storage = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")
    with transfers(behind=True) as moved:
        for number in range(16):
            write(storage, f"part-{number:02d}", b"%d" % number)
    assert log.most_at_once == 16
    assert moved.requests == {"PUT": 16}
    assert [storage.read(f"part-{number:02d}") for number in range(16)] == [b"%d" % n for n in range(16)]


def test_what_is_written_behind_is_bounded(bucket: str, log: Log) -> None:
    log.together = 2
    storage = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")
    with transfers(memory=3 * MIB, behind=True):
        for number in range(8):
            write(storage, f"part-{number}", bytes(MIB))
            assert log.at_once <= 2
    assert log.most_at_once == 2


def test_a_write_behind_that_fails_is_told_at_the_end(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}-not/x")
    with pytest.raises(StorageUnreachableError, match="does not exist"), transfers(behind=True) as moved:
        write(storage, "a", b"1")
        moved.flush()


def test_an_object_that_only_a_multipart_copy_takes(large: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = s3.S3Storage._call

    def too_large(self: s3.S3Storage, operation: str, key: str | None = None, **params: object) -> object:
        if operation == "copy_object":
            raise ClientError({"Error": {"Code": "InvalidRequest"}}, "CopyObject")
        return call(self, operation, key, **params)

    monkeypatch.setattr(s3.S3Storage, "_call", too_large)
    monkeypatch.setattr(s3_uploads, "COPY_PART", 15 * MIB)
    storage, key = locate(large)
    target = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")
    with transfers() as moved:
        storage.copy(key, target, "copied")
    assert moved.requests == {"GET": 1, "PUT": 2 + 3}
    assert target.read("copied") == LINES


def test_a_block_that_raises_leaves_no_write_under_way(bucket: str, log: Log) -> None:
    log.together = 8
    storage = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")

    def fail() -> None:
        with transfers(behind=True):
            for number in range(200):
                write(storage, f"part-{number}", b"x")
            raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        fail()
    assert log.at_once == 0
    assert len(log.requests) < 200


@pytest.mark.parametrize("memory", [MEMORY, RANGE])
def test_a_large_object_in_pieces_of_any_size(bucket: str, log: Log, memory: int) -> None:
    storage = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")
    pieces: list[Callable[[bytes], object]] = [bytes, bytearray, memoryview]
    with transfers(memory=memory) as moved, storage.writer("large") as out:
        at = 0
        for number, length in enumerate([1, 0, 20 * MIB, 7, 3 * MIB, SIZE]):
            out.write(pieces[number % 3](LINES[at : at + length]))  # type: ignore[arg-type]
            at += length
    assert storage.read("large") == LINES
    assert moved.requests == {"PUT": 2 + SIZE // (8 * MIB)}
    parts = [a for a in log.requests if "partNumber" in a.query]
    assert len(parts) == 5
