"""Formats in whole jobs: each on the inline and the local runner, against pyarrow, csv and plain Python."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.errors import ConfigError, JobFailedError
from mrcelery.examples.own_format import SectionSizes
from tests.support.services import Fleet

SALES = """
    from mrcelery import MRJob, ops

    class Sales(MRJob):
        reducer = ops.Sum()

        def mapper(self, _, row):
            yield row["city"], int(row["n"])
"""

ROWS = [{"city": f"c{i % 7}, \n{i % 3}", "n": str(i), "note": "x" * (i % 50)} for i in range(3000)]
TOTALS = Counter[str]()
for _row in ROWS:
    TOTALS[_row["city"]] += int(_row["n"])


@pytest.fixture(params=["inline", pytest.param("local", marks=pytest.mark.slow)])
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "local":
        from mrcelery.runners.redis_server import find_server

        try:
            find_server()
        except ConfigError:
            if os.environ.get("CI"):
                raise
            pytest.skip("the local runner needs a Redis or Valkey server")
    name: str = request.param
    return name


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    path = tmp_path / "sales.csv"
    with path.open("w", newline="") as out:
        writer = csv.DictWriter(out, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def run(*args: Any, **options: Any) -> None:
    mrcelery.run(*args, **options).close()


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def json_results(folder: Path) -> dict[Any, Any]:
    lines = (line.split("\t") for p in parts(folder) for line in p.read_text().splitlines())
    return {json.loads(k): json.loads(v) for k, v in lines}


def test_csv_in_and_out(runner: str, sales: Path, tmp_path: Path, job_file: Callable[..., str]) -> None:
    out = tmp_path / "out"
    options = {"input_format": "csv", "output_format": "csv", "compress": "none", "reducers": 3}
    run(job_file(SALES), str(sales), str(out), runner=runner, **options)
    assert [p.name for p in parts(out)] == ["part-00000.csv", "part-00001.csv", "part-00002.csv"]
    found = [row for p in parts(out) for row in csv.DictReader(io.StringIO(p.read_bytes().decode(), newline=""))]
    assert {row["key"]: int(row["value"]) for row in found} == TOTALS
    # what one job wrote, the next one reads
    again = tmp_path / "again"
    code = job_file(SALES.replace('"city"', '"key"').replace('"n"', '"value"'), "again.py")
    run(code, str(out), str(again), runner="inline", input_format="csv")
    assert json_results(again) == TOTALS


def test_parquet_in_and_out(runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    source = tmp_path / "sales"
    source.mkdir()
    table = pa.Table.from_pylist(ROWS)
    for n, piece in enumerate([table.slice(0, 2000), table.slice(2000)]):
        pq.write_table(piece, source / f"{n}.parquet", row_group_size=300)
    out = tmp_path / "out"
    run(
        job_file(SALES),
        str(source),
        str(out),
        runner=runner,
        input_format="parquet",
        output_format="parquet",
        jobconf={"parquet.columns": "city,n"},
        split_size=2000,
        reducers=40,  # more than there are keys: some parts are empty
    )
    found = pq.read_table(out)
    assert dict(zip(found.column("key").to_pylist(), found.column("value").to_pylist(), strict=True)) == TOTALS
    assert found.num_rows == len(TOTALS)
    assert all(pq.ParquetFile(p).metadata.num_rows for p in parts(out))
    assert json.loads((out / "_SUCCESS").read_bytes())["totals"]["records_in"] == len(ROWS)


def test_tables_for_mapper_batch(tmp_path: Path, job_file: Callable[..., str]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([{**row, "n": int(row["n"])} for row in ROWS]), tmp_path / "sales.parquet")
    code = job_file(
        """
        from mrcelery import MRJob, ops

        class Sales(MRJob):
            INPUT = "parquet"
            reducer = ops.Sum()

            def mapper_batch(self, table):
                return table.group_by("city").aggregate([("n", "sum")]).select(["city", "n_sum"])
        """
    )
    run(code, str(tmp_path / "sales.parquet"), str(tmp_path / "out"), runner="inline")
    assert json_results(tmp_path / "out") == TOTALS


WORDS = """
    import pyarrow as pa
    from pyarrow import compute as pc
    from mrcelery import MRJob, ops

    class Words(MRJob):
        BATCH = "table"
        reducer = ops.Sum()

        def mapper_batch(self, table):
            assert isinstance(table, pa.Table)
            words = pc.list_flatten(pc.split_pattern(table.column(table.column_names[-1]), " "))
            return pa.table({"word": words}).group_by("word").aggregate([([], "count_all")])
"""


@pytest.mark.parametrize("name", ["text", "csv", "jsonl", "whole-file"])
def test_tables_of_any_format(name: str, runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    pytest.importorskip("pyarrow")
    lines = [" ".join(f"w{(i * j) % 17}" for j in range(1 + i % 5)) for i in range(3000)]
    before, after = {"csv": ("n,line\n", "1,{}\n"), "jsonl": ("", '{{"line": "{}"}}\n')}.get(name, ("", "{}\n"))
    (tmp_path / "in").write_text(before + "".join(after.format(line) for line in lines))
    out = tmp_path / "out"
    options: dict[str, Any] = {"input_format": name, "split_size": 4001}
    if name == "csv":
        options["jobconf"] = {"csv.multiline": "false"}
    run(job_file(WORDS), str(tmp_path / "in"), str(out), runner=runner, **options)
    text = (tmp_path / "in").read_text()
    assert json_results(out) == Counter(text.split(" ") if name == "whole-file" else " ".join(lines).split(" "))


def test_lists_of_parquet_and_what_an_earlier_step_left(tmp_path: Path, job_file: Callable[..., str]) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"a": list(range(100))}), tmp_path / "a.parquet")
    code = """
        from mrcelery import MRJob, MRStep

        class Steps(MRJob):
            INPUT = "parquet"
            BATCH = "{}"

            def first(self, batch):
                assert isinstance(batch, list) == (self.BATCH == "list")
                for row in batch if self.BATCH == "list" else batch.to_pylist():
                    yield f"k{{row['a'] % 3}}", row["a"]

            def second(self, batch):
                if self.BATCH == "list":
                    yield "sum", sum(batch)
                else:
                    assert batch.column_names == ["key", "value"], batch
                    yield "sum", sum(batch.column("value").to_pylist())

            def total(self, key, values):
                yield key, sum(values)

            def steps(self):
                return [MRStep(mapper_batch=self.first), MRStep(mapper_batch=self.second, reducer=self.total)]
    """
    for kind in ("list", "table"):
        out = tmp_path / kind
        run(job_file(code.format(kind)), str(tmp_path / "a.parquet"), str(out), runner="inline")
        assert json_results(out) == {"sum": sum(range(100))}


def test_tables_under_an_output_protocol(tmp_path: Path, job_file: Callable[..., str]) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "in").write_text("a\nb\n")
    code = """
        from mrcelery import MRJob, protocols

        class Lengths(MRJob):
            BATCH = "table"
            OUTPUT_PROTOCOL = protocols.JSONProtocol

            def mapper_batch(self, table):
                return table.append_column("n", [list(range(table.num_rows))])
    """
    out = tmp_path / "out"
    run(job_file(code), str(tmp_path / "in"), str(out), runner="inline")
    assert json_results(out) == {"a": 0, "b": 1}


def test_text_that_is_not_utf8_has_no_table(tmp_path: Path, job_file: Callable[..., str]) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "in").write_bytes(b"fine\n\xff\n")
    with pytest.raises(JobFailedError, match=r"byte 5 that is not UTF-8.*--input-format lines"):
        run(job_file(WORDS), str(tmp_path / "in"), runner="inline")


def test_records_sorted_by_a_key_within(runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    data = os.urandom(8 * 3000)
    (tmp_path / "records").write_bytes(data)
    code = job_file(
        """
        from mrcelery import MRJob

        class Sort(MRJob):
            INPUT, OUTPUT = "records:8,key=2-6", "records"

            def reducer(self, key, records):
                for record in sorted(records):
                    yield key, record
        """
    )
    out = tmp_path / "out"
    run(code, str(tmp_path / "records"), str(out), runner=runner, split_size=4001, reducers=1)
    records = sorted((data[i : i + 8] for i in range(0, len(data), 8)), key=lambda r: (r[2:6], r))
    assert [p.name for p in parts(out)] == ["part-00000"]
    assert parts(out)[0].read_bytes() == b"".join(records)


@pytest.mark.parametrize("name", ["records", "text", "csv"])
def test_an_identity_mapper_moves_columns(
    name: str, tmp_path: Path, job_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("mrcelery.formats.arrow")
    data = b"".join(b"%05d,%05d;" % (i * 7919 % 1000, i) for i in range(3000))
    (tmp_path / "records").write_bytes(data)
    monkeypatch.setattr(arrow.ArrowColumn, "__iter__", lambda self: pytest.fail("values became objects"))
    job = """
        from mrcelery import MRJob, MRStep

        class Sort(MRJob):
            INPUT = "records:12,key=5"

            def steps(self):
                return [MRStep(reducer_init=lambda: None)]
    """
    out = tmp_path / "out"
    run(job_file(job), str(tmp_path / "records"), str(out), runner="inline", output_format=name, reducers=1)
    records = sorted((data[i : i + 12] for i in range(0, len(data), 12)), key=lambda record: record[:5])
    found = parts(out)[0].read_bytes()
    if name == "records":
        assert found == b"".join(records)
    elif name == "text":
        assert found == b"".join(record[:5] + b"\t" + record + b"\n" for record in records)
    else:
        rows = list(csv.reader(io.StringIO(found.decode())))
        assert rows == [["key", "value"], *([record[:5].decode(), record.decode()] for record in records)]


def test_parquet_parts_without_a_record(tmp_path: Path, sales: Path, job_file: Callable[..., str]) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out"
    options = {"input_format": "csv", "output_format": "parquet", "reducers": 40}
    jobconf = {"parquet.schema": "key:string,value:int64"}
    run(job_file(SALES), str(sales), str(out), runner="inline", jobconf=jobconf, **options)
    files = [pq.ParquetFile(p) for p in parts(out)]
    assert len(files) == 40
    assert len({str(file.schema_arrow) for file in files}) == 1
    assert sorted(file.metadata.num_rows for file in files)[0] == 0
    found = pq.read_table(out)
    assert dict(zip(found.column("key").to_pylist(), found.column("value").to_pylist(), strict=True)) == TOTALS


def test_records_of_a_fixed_length(runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    data = os.urandom(6 * 5000)
    (tmp_path / "records").write_bytes(data)
    code = job_file(
        """
        from mrcelery import MRJob, ops

        class First(MRJob):
            reducer = ops.Count()

            def mapper(self, _, record):
                yield record[0] % 16, record
        """
    )
    out = tmp_path / "out"
    run(code, str(tmp_path / "records"), str(out), runner=runner, input_format="records:6", split_size=4001)
    assert json_results(out) == Counter(byte % 16 for byte in data[::6])


def test_damage_is_told_with_its_place(runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    (tmp_path / "bad.csv").write_text("city,n\na,1\nb\n")
    with pytest.raises(JobFailedError, match="1 field, and the header has 2") as caught:
        run(job_file(SALES), str(tmp_path / "bad.csv"), runner=runner, input_format="csv")
    assert caught.value.failure.offset == 11
    assert caught.value.failure.file.endswith("bad.csv")


def control_file(path: Path, packages: int) -> dict[str, int]:
    """Writes paragraphs, and sums up what they say."""
    sizes: dict[str, int] = defaultdict(int)
    with path.open("w") as out:
        for i in range(packages):
            out.write(f"Package: p{i}\nSection: s{i % 5}\nDescription: one\n two\n .\n\tthree: four\n")
            if i % 4:
                out.write(f"Installed-Size: {i}\n")
                sizes[f"s{i % 5}"] += i
            out.write("\n" * (1 + i % 2))
    return sizes


def test_the_example_of_own_formats(runner: str, tmp_path: Path) -> None:
    sizes = control_file(tmp_path / "status", 500)
    out = tmp_path / "out"
    run(SectionSizes, str(tmp_path / "status"), str(out), runner=runner, reducers=2)
    assert [p.name for p in parts(out)] == ["part-00000.md", "part-00001.md"]
    found: dict[str, int] = {}
    for part in parts(out):
        head, rule, *rows = part.read_text().splitlines() or ["", ""]
        assert (head, rule) in [("| key | value |", "|---|---|"), ("", "")]
        for row in rows:
            key, value = row.strip("| ").split(" | ")
            found[key] = int(value)
    assert found == sizes


def test_own_formats_are_shipped_with_the_job(runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    """By name, from a module that the job does not import; the working folder is not the workers'."""
    job_file(
        """
        class Pairs:
            splittable = True

            def read(self, extent, max_record):
                from mrcelery.formats import input_format

                for block in input_format("text").read(extent, max_record):
                    for line in block.values:
                        key, _, value = line.partition("=")
                        yield key, int(value)

        class Equals:
            def encode(self, keys, values):
                return "".join(f"{k}={v}\\n" for k, v in zip(keys, values)).encode()
        """,
        "pair_formats.py",
    )
    code = job_file("from mrcelery import MRJob, ops\n\nclass Total(MRJob):\n    reducer = ops.Sum()\n", "total.py")
    (tmp_path / "in.txt").write_text("a=1\nb=2\na=3\n" * 500)
    options = ["--input-format", "pair_formats:Pairs", "--output-format", "pair_formats:Equals", "--split-size", "999"]
    options += ["--runner", runner, "-R", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "mrcelery", "submit", code, str(tmp_path / "in.txt"), *options],
        capture_output=True,
        text=True,
        cwd="/",
        env={k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_"))},
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "a=2000\nb=1000\n"


def test_a_reader_that_raises_fails_the_job(runner: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    code = job_file(
        """
        from mrcelery import MRJob

        class Reader:
            def read(self, extent, max_record):
                raise LookupError("not in this file")

        class Job(MRJob):
            INPUT = Reader()

            def mapper(self, key, value):
                yield key, value
        """
    )
    (tmp_path / "in.txt").write_text("x\n")
    with pytest.raises(JobFailedError, match="LookupError: not in this file") as caught:
        run(code, str(tmp_path / "in.txt"), str(tmp_path / "out"), runner=runner)
    assert 'raise LookupError("not in this file")' in caught.value.failure.traceback
    assert caught.value.failure.file.endswith("in.txt")


def test_parquet_on_a_fleet_with_s3(fleet: Fleet, bucket: str, tmp_path: Path, job_file: Callable[..., str]) -> None:
    """The file is uploaded, read in ranges and written in pieces; the results are brought home."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "sales.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=300)
    out = tmp_path / "out"
    settings = {**fleet.settings, "storage": f"s3://{bucket}/{os.urandom(4).hex()}", "split_size": 4000, "reducers": 2}
    run(job_file(SALES), str(path), str(out), input_format="parquet", output_format="parquet", **settings)
    found = pq.read_table(out)
    assert dict(zip(found.column("key").to_pylist(), found.column("value").to_pylist(), strict=True)) == TOTALS


def test_own_formats_on_a_fleet(fleet: Fleet, tmp_path: Path) -> None:
    sizes = control_file(tmp_path / "status", 50)
    out = tmp_path / "out"
    run(SectionSizes, str(tmp_path / "status"), str(out), reducers=1, **fleet.settings)
    (part,) = parts(out)
    assert part.name == "part-00000.md"
    rows = [row.strip("| ").split(" | ") for row in part.read_text().splitlines()[2:]]
    assert {key: int(value) for key, value in rows} == sizes
