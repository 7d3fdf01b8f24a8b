"""Attempts whose process dies, on real workers: they count, the signal is reported, and the worker survives."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import JobFailedError
from mrcelery.task.bad_records import GROUP
from tests.support.services import Fleet

JobFile = Callable[..., str]

DIES = """
    import os, signal, sys
    from mrcelery import MRJob

    class Dies(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--how")
            self.add_passthru_arg("--folder")

        def die(self, line):
            name = os.path.join(self.options.folder, line)
            with open(name, "a") as file:
                file.write("x")
            how = self.options.how
            if how.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, how))
            os._exit(int(how))

        def mapper(self, _, line):
            self.increment_counter("lines", "mapped")
            if line.startswith("die-map"):
                self.die(line)
            yield line, 1

        def reducer(self, key, values):
            if key.startswith("die-reduce"):
                self.die(key)
            yield key, sum(values)
"""


@pytest.fixture(params=["local", "celery"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Settings of a runner with real worker processes."""
    if request.param == "local":
        yield {"runner": "local", "workers": 2, "storage": str(tmp_path / "storage")}
        return
    fleet: Fleet = request.getfixturevalue("fleet")
    yield fleet.settings


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


def test_a_poison_task_ends_its_job_with_the_reason(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path, marks: Path
) -> None:
    text = tmp_path / "in.txt"
    text.write_text("a\ndie-map\n")
    for how, said in (("SIGSEGV", "signal 11 (SIGSEGV)"), ("3", "exit status 3")):
        args = ["--how", how, "--folder", str(marks)]
        submitted = mrcelery.submit(job_file(DIES), str(text), args=args, max_attempts=3, **settings)
        with submitted as handle:
            with pytest.raises(JobFailedError) as raised:
                handle.wait(60)
            attempts = handle.overview().stages[0].attempts
        assert "started 3 times" in str(raised.value)
        assert said in str(raised.value)
        assert raised.value.failure.kind == "map"
        assert (marks / "die-map").read_text() == "xxx"
        told = [one for one in attempts if one.outcome != "succeeded"]
        assert [one.outcome for one in told] == ["killed"] * 3 + ["failed"]
        assert all(said in one.error for one in told)
        (marks / "die-map").unlink()
    text.write_text("a\nb\n")  # the worker still serves
    with mrcelery.submit(job_file(DIES), str(text), args=args, **settings) as handle:
        handle.wait(60)
        assert sorted(handle) == [("a", 1), ("b", 1)]


def test_a_task_that_dies_once_is_tried_again(settings: dict[str, Any], job_file: JobFile, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    job = job_file(
        f"""
        import os
        from mrcelery import MRJob

        class Once(MRJob):
            def mapper(self, _, line):
                self.increment_counter("lines", "mapped")
                if line == "b":
                    try:
                        open({str(flag)!r}, "x").close()
                    except FileExistsError:
                        pass
                    else:
                        os.kill(os.getpid(), 9)
                yield line, 1

            def reducer(self, key, values):
                yield key, sum(values)
        """
    )
    text = tmp_path / "in.txt"
    text.write_text("a\nb\nc\n")
    with mrcelery.submit(job, str(text), max_bad_records=1, **settings) as handle:
        handle.wait(60)
        assert sorted(handle) == [("a", 1), ("b", 1), ("c", 1)]
        assert handle.counters() == {"lines": {"mapped": 3}}
        assert handle.report().bad_records == 0


def test_records_that_kill_their_process_are_found_and_skipped(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path, marks: Path
) -> None:
    """Three records of one map task and one key of a reduce task kill: more deaths than the attempts allowed."""
    lines = [f"line-{number:05d}" for number in range(2000)]
    text = tmp_path / "in.txt"
    poison = {7: "die-map-7", 1000: "die-map-1000", 1999: "die-map-1999", 500: "die-reduce-500"}
    text.write_text("".join(f"{poison.get(number, line)}\n" for number, line in enumerate(lines)))
    args = ["--how", "SIGKILL", "--folder", str(marks)]
    options = {"max_bad_records": 4, "max_attempts": 2, "split_size": 1 << 20, "reducers": 2, **settings}
    with mrcelery.submit(job_file(DIES), str(text), args=args, **options) as handle:
        handle.wait(60)
        assert sorted(handle) == [(line, 1) for number, line in enumerate(lines) if number not in poison]
        counters = handle.counters()
        report = handle.report()
        storage = handle.open_storage()
        found = [json.loads(line) for info in storage.list(f"jobs/{handle.id}/_bad_records/")
                 for line in storage.read(info.key).splitlines()]  # fmt: skip
    assert counters["lines"] == {"mapped": 1997}
    assert counters[GROUP] == {"step 0, map": 3, "step 0, reduce": 1}
    assert report.bad_records == 4
    assert sorted(bad["record"] for bad in found) == sorted(map(repr, poison.values()))
    assert all("signal 9 (SIGKILL)" in bad["error"] for bad in found)
    assert {path.name: path.read_text() for path in marks.iterdir()} == dict.fromkeys(poison.values(), "xx")
    assert {bad["record"]: bad["offset"] for bad in found if bad["kind"] == "map"}["'die-map-7'"] == 7 * 11


def test_batches_that_kill_their_process(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path, marks: Path
) -> None:
    job = job_file(
        """
        import os
        from mrcelery import MRJob

        class Batches(MRJob):
            BATCH = "list"

            def mapper_batch(self, lines):
                if "poison" in lines:
                    os._exit(7)
                yield "lines", len(lines)

            def reducer(self, key, values):
                yield key, sum(values)
        """
    )
    text = tmp_path / "in.txt"
    text.write_text("".join("poison\n" if number == 333 else f"{number}\n" for number in range(1000)))
    with mrcelery.submit(job, str(text), max_bad_records=1, split_size=1 << 20, **settings) as handle:
        handle.wait(60)
        assert list(handle) == [("lines", 999)]
        assert handle.report().bad_records == 1


def test_more_bad_records_than_allowed_in_all_tasks_together(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(
        """
        from mrcelery import MRJob

        class Numbers(MRJob):
            def mapper(self, _, line):
                yield "sum", int(line)

            def reducer(self, key, values):
                yield key, sum(values)
        """
    )
    text = tmp_path / "in.txt"
    text.write_text("1\nx\n2\nx\n3\nx\n")
    options = {"split_size": 4, **settings}
    with mrcelery.submit(job, str(text), str(tmp_path / "out"), max_bad_records=3, **options) as handle:
        handle.wait(60)
        assert list(handle) == [("sum", 6)]
        assert handle.counters()[GROUP] == {"step 0, map": 3}
    assert sum(path.read_bytes().count(b"\n") for path in (tmp_path / "out").glob("_bad_records/*.jsonl")) == 3
    with mrcelery.submit(job, str(text), max_bad_records=3, **options) as handle:  # without an OUTPUT
        handle.wait(60)
        handle.fetch(str(tmp_path / "out"), overwrite=True)
    assert sum(path.read_bytes().count(b"\n") for path in (tmp_path / "out").glob("_bad_records/*.jsonl")) == 3
    submitted = mrcelery.submit(job, str(text), max_bad_records=2, **options)
    with submitted as handle, pytest.raises(JobFailedError, match="more than 2 bad records"):
        handle.wait(60)


HOARDS = """
    from mrcelery import MRJob

    class Hoards(MRJob):
        def mapper(self, _, line):
            hoard = [{0}]
            while line == "hoard":
                hoard.append({1})
            yield line, 1
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the ceiling is Linux's")
@pytest.mark.parametrize("grain", ["bytes(1 << 20)", "(hoard[-1],)"])
def test_code_that_hoards_memory_is_told_so(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path, grain: str
) -> None:
    """Both for large allocations and for small ones, which leave no memory for reporting the error."""
    text = tmp_path / "in.txt"
    text.write_text("a\nhoard\nb\n")
    job = job_file(HOARDS.format("0", grain))
    said = "holds more memory than a task may: raise --memory from 16 MiB"
    submitted = mrcelery.submit(job, str(text), memory=16 << 20, **settings)
    with submitted as handle, pytest.raises(JobFailedError, match=said) as raised:
        handle.wait(60)
    failure = raised.value.failure
    assert (failure.error, failure.record, failure.offset) == ("UserCodeError", "'hoard'", 2)
    assert "in mapper\n" in failure.traceback
    with mrcelery.submit(job, str(text), memory=16 << 20, max_bad_records=1, **settings) as handle:
        handle.wait(60)
        assert sorted(handle) == [("a", 1), ("b", 1)]
