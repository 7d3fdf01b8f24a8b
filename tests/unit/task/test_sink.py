"""What a task writes: its bytes, and what its part says of them."""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import pytest

from mrcelery import MRJob
from mrcelery.errors import UserCodeError
from mrcelery.protocols import JSONProtocol, RawValueProtocol
from mrcelery.records.blocks import read_blocks
from mrcelery.schema.structs import Part
from mrcelery.storage import open_storage
from mrcelery.task.sink import decoded_groups, encoder, results
from tests.support.stages import make_task


class Plain(MRJob):
    def reducer(self, key: Any, values: Any) -> Iterator[tuple[Any, Any]]:
        yield key, sum(values)


class Values(Plain):
    OUTPUT_PROTOCOL = RawValueProtocol


def written(
    scratch: Path, job: type[MRJob], keys: list[Any], values: list[Any], *, last: bool = True, **options: Any
) -> tuple[list[Part], bytes]:
    """The parts of a task that writes these pairs, and the bytes of the first."""
    root = f"memory://{secrets.token_hex(8)}"
    task = make_task(job([]), root, "reduce", 0, 1, str(scratch), 1 << 20)
    task.last_step = last
    task.options = msgspec.structs.replace(task.options, **options)
    with results(task, 3) as (sink, parts):
        if sink.encode is not None:
            pairs = [sink.encode(*pair) for pair in zip(keys, values, strict=True)]
            keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        for at in range(0, len(keys), 2):
            sink.add(keys[at : at + 2], values[at : at + 2])
    data = open_storage(root).read(parts[0].key) if parts else b""
    for part in parts:
        assert (part.partition, part.bytes, part.records, part.crc32) == (3, len(data), len(keys), crc32(data))
    return parts, data


KEYS, VALUES = ["a", "b", "c"], [1, 2, 3]


def test_results_are_lines_in_the_output_format(tmp_path: Path) -> None:
    assert written(tmp_path, Plain, KEYS, VALUES)[1] == b'"a"\t1\n"b"\t2\n"c"\t3\n'
    packed = written(tmp_path, Plain, KEYS, VALUES, compress="gzip")[1]
    assert gzip.decompress(packed) == b'"a"\t1\n"b"\t2\n"c"\t3\n'


def test_results_are_lines_of_the_jobs_output_protocol(tmp_path: Path) -> None:
    assert written(tmp_path, Values, KEYS, ["x", "y", "z"])[1] == b"x\ny\nz\n"


@pytest.mark.parametrize("native", [True, False])
def test_what_the_next_step_reads_are_blocks(tmp_path: Path, native: bool) -> None:
    """Of native types, or of a protocol's bytes if the job has one."""

    class Protocol(Plain):
        OUTPUT_PROTOCOL = JSONProtocol

    data = written(tmp_path, Plain if native else Protocol, KEYS, VALUES, last=False)[1]
    pairs = [pair for block in read_blocks([data], "part") for pair in zip(block.keys, block.values, strict=True)]
    expected: list[Any] = [*zip(KEYS, VALUES, strict=True)]
    assert pairs == (expected if native else [(b'"a"', b"1"), (b'"b"', b"2"), (b'"c"', b"3")])


def test_a_parquet_file_has_its_footer_or_is_left_out(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    data = written(tmp_path, Plain, KEYS, VALUES, output_format="parquet")[1]
    (tmp_path / "part").write_bytes(data)
    assert parquet.read_table(tmp_path / "part").num_rows == 3
    assert written(tmp_path, Plain, [], [], output_format="parquet") == ([], b"")
    assert len(written(tmp_path, Plain, [], [])[0]) == 1  # of lines, an empty file


def test_what_cannot_be_written_is_the_users_error_and_leaves_nothing(tmp_path: Path) -> None:
    root = f"memory://{secrets.token_hex(8)}"
    task = make_task(Values([]), root, "reduce", 0, 1, str(tmp_path), 1 << 20)
    with pytest.raises(UserCodeError, match="TypeError"), results(task, 0) as (sink, _):
        sink.add(["no bytes"], [None])
    assert list(open_storage(root).list()) == []


def test_a_protocols_pairs_come_back() -> None:
    encode = encoder(JSONProtocol())
    assert encode("a", 1) == (b'"a"', b"1")
    assert encoder(RawValueProtocol())(None, "line") == (b"line", None)
    groups = [(b'"a"', iter([b"1", b"2"])), (b'"b"', iter([b"3"]))]
    read = [(key, list(values)) for key, values in decoded_groups(JSONProtocol(), iter(groups))]
    assert read == [("a", [1, 2]), ("b", [3])]
