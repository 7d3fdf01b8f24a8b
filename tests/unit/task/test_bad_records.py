"""Bad records: what is skipped, what it leaves, and where it ends the job."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.errors import JobFailedError, TaskError
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import BadRecord, Losses
from mrcelery.schema.task_id import TaskId
from mrcelery.task.bad_records import (
    GROUP,
    BadRecords,
    RecordMarker,
    killers,
    losses,
    marker_path,
    note_loss,
    take_marker,
    too_many,
)
from mrcelery.worker.lost import cause_of_death, left_by

Run = Callable[..., tuple[dict[Any, Any], Any, list[dict[str, Any]]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a job inline; its results, its report and its bad records."""

    def run(source: str, text: str, **options: Any) -> tuple[dict[Any, Any], Any, list[dict[str, Any]]]:
        (tmp_path / "job.py").write_text("from mrcelery import MRJob\n" + dedent(source))
        (tmp_path / "in.txt").write_bytes(text.encode())
        out = tmp_path / "out"
        with mrcelery.submit(
            f"{tmp_path}/job.py", f"{tmp_path}/in.txt", str(out), runner="inline", storage=f"{tmp_path}/s", **options
        ) as handle:
            handle.wait()
            report = handle.report()
        bad = [
            json.loads(line) for path in sorted(out.glob("_bad_records/*")) for line in path.read_text().splitlines()
        ]
        pairs = [line.split("\t") for path in sorted(out.glob("part-*")) for line in path.read_text().splitlines()]
        return {json.loads(key): json.loads(value) for key, value in pairs}, report, bad

    return run


NUMBERS = """
    class Job(MRJob):
        def mapper(self, _, line):
            self.increment_counter("seen", "begun")
            yield "begun", 1
            yield "sum", int(line)

        def reducer(self, key, values):
            yield key, sum(values)
"""


def test_a_record_that_raises_half_way_contributes_nothing(run: Run, tmp_path: Path) -> None:
    found, report, bad = run(NUMBERS, "1\n2\nx\n3\nyy\n", max_bad_records=2)
    assert found == {"begun": 3, "sum": 6}
    assert report.counters == {"seen": {"begun": 3}, GROUP: {"step 0, map": 2}}
    assert report.bad_records == 2
    assert [(b["offset"], b["record"], b["kind"]) for b in bad] == [(4, "'x'", "map"), (8, "'yy'", "map")]
    assert bad[0]["file"] == str(tmp_path / "in.txt")
    assert bad[0]["error"] == "ValueError: invalid literal for int() with base 10: 'x'"
    assert 'yield "sum", int(line)' in bad[0]["traceback"]
    assert os.path.dirname(mrcelery.__file__) not in bad[0]["traceback"]


@pytest.mark.parametrize("split", [2, 100])
def test_one_too_many_fails_the_job(run: Run, split: int, tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="more than 1 bad record: correct") as raised:
        run(NUMBERS, "1\n2\nx\n3\ny\n", max_bad_records=1, split_size=split)
    failure = raised.value.failure
    assert "invalid literal" in failure.traceback
    assert failure.record in ("'x'", "'y'")
    assert failure.kind == "map"
    kept = [line for path in tmp_path.glob("s/jobs/*/_bad_records/*") for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["record"] for line in kept) == ["'x'", "'y'"]


def test_without_any_allowed_the_first_one_fails_the_job(run: Run) -> None:
    with pytest.raises(JobFailedError, match=r"^ValueError: invalid literal"):
        run(NUMBERS, "1\nx\n")


def test_keys_whose_reducer_raises(run: Run) -> None:
    source = """
        class Job(MRJob):
            def mapper(self, _, line):
                yield line, 1

            def reducer(self, key, values):
                yield key, next(values)
                if key == "b":
                    raise LookupError(key)
    """
    found, report, bad = run(source, "a\nb\nb\nb\nc\n", max_bad_records=1, reducers=1)
    assert found == {"a": 1, "c": 1}
    assert report.counters == {GROUP: {"step 0, reduce": 1}}
    assert [(b["kind"], b["record"], b["file"], b["offset"]) for b in bad] == [("reduce", "'b'", "", -1)]


@pytest.mark.parametrize("given", ["", "table"])
def test_batches_are_tried_in_halves(run: Run, given: str) -> None:
    if given:
        pytest.importorskip("pyarrow")
    source = f"""
        class Job(MRJob):
            BATCH = {given or "list"!r}

            def mapper_batch(self, batch):
                lines = batch["line"].to_pylist() if {bool(given)} else batch
                self.increment_counter("seen", "lines", len(lines))
                yield "sum", sum(map(int, lines))

            def reducer(self, key, values):
                yield key, sum(values)
    """
    text = "".join(f"{n}\n" if n % 50 else "x\n" for n in range(200))
    found, report, bad = run(source, text, max_bad_records=4)
    assert found == {"sum": sum(n for n in range(200) if n % 50)}
    assert report.counters == {"seen": {"lines": 196}, GROUP: {"step 0, map": 4}}
    assert [b["record"] for b in bad] == ["'x'"] * 4
    assert sorted(b["offset"] for b in bad) == [i for i in range(len(text)) if text[i] == "x"]


@pytest.mark.parametrize("input_format", ["jsonl", "json"])
def test_input_that_cannot_be_read(run: Run, input_format: str) -> None:
    """By a format, and by an input protocol."""
    source = """
        from mrcelery.protocols import JSONValueProtocol

        class Job(MRJob):
            if PROTOCOL:
                INPUT_PROTOCOL = JSONValueProtocol

            def mapper(self, _, value):
                yield "sum", value

            def reducer(self, key, values):
                yield key, sum(values)
    """
    source = source.replace("PROTOCOL:", f"{input_format == 'json'}:")
    more = {"input_format": "jsonl"} if input_format == "jsonl" else {}
    found, report, bad = run(source, "1\n{\n3\n", max_bad_records=1, **more)
    assert found == {"sum": 4}
    assert report.bad_records == 1
    assert bad[0]["offset"] == 2
    assert "{" in bad[0]["record"]


def test_what_is_no_record_s_fault_is_not_skipped(run: Run) -> None:
    source = """
        class Job(MRJob):
            def mapper(self, _, line):
                raise ConnectionError("gone")
                yield
    """
    with pytest.raises(JobFailedError, match=r"^ConnectionError: gone"):
        run(source, "1\n", max_bad_records=5)


def test_a_record_that_yields_too_much_to_hold(run: Run) -> None:
    """It is let through; after that it cannot be skipped."""
    source = """
        class Job(MRJob):
            def mapper(self, _, line):
                for number in range(40_000):
                    yield number % 7, f"{number:100}"
                if line == "bad":
                    raise ValueError("late")

            def reducer(self, key, values):
                yield key, sum(1 for _ in values)
    """
    found, _, _ = run(source, "good\n", max_bad_records=1, memory=16 << 20)
    assert sum(found.values()) == 40_000
    with pytest.raises(JobFailedError, match=r"^ValueError: late"):
        run(source, "bad\n", max_bad_records=1, memory=16 << 20, overwrite=True)


def test_marks(tmp_path: Path) -> None:
    mark = RecordMarker(str(tmp_path))
    path = Path(marker_path(str(tmp_path), os.getpid()))
    assert take_marker(str(tmp_path), 0) is None
    mark.set(17, 3)
    data = path.read_bytes()
    mark.set(0, 0)
    assert take_marker(str(tmp_path), os.getpid()) is None
    assert not path.exists()
    path.write_bytes(data)
    assert take_marker(str(tmp_path), os.getpid()) == (17, 3)
    path.write_bytes(data)
    mark.close()
    assert list(path.parent.iterdir()) == []


def test_what_a_dead_process_leaves_is_removed(tmp_path: Path) -> None:
    for name in ("job-0-map-1-1-abc.17", "job-0-map-1-1-abc.171", "job-0-map-1-2-abc.18"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
        (tmp_path / "tasks" / name / "spill").touch()
    assert left_by(str(tmp_path), 17) is None
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == [
        "job-0-map-1-1-abc.171", "job-0-map-1-2-abc.18",
    ]  # fmt: skip


def test_losses_are_kept_and_a_killer_is_one_that_killed_twice() -> None:
    store, seal = MemoryJobStore(), JobSeal("job")
    assert losses(store, TaskId("job", 0, "map", 1), seal) == Losses()
    for mark in (None, (0, 64), (0, 64), (5, 1), (6, 1)):
        note_loss(store, TaskId("job", 0, "map", 1), "signal 9", mark, seal)
        assert killers(losses(store, TaskId("job", 0, "map", 1), seal)) == frozenset()
    note_loss(store, TaskId("job", 0, "map", 1), "signal 11", (5, 1), seal)
    found = losses(store, TaskId("job", 0, "map", 1), seal)
    assert found == Losses(reason="signal 11", deaths=((0, 64), (0, 64), (5, 1), (6, 1), (5, 1)))
    assert killers(found) == {5}


def test_batches_with_a_suspect_are_told(tmp_path: Path) -> None:
    lost = Losses(deaths=((64, 64), (5, 1), (5, 1), (30, 1)))
    bad = BadRecords(TaskId("job", 0, "map", 0), "1", limit=1, scratch=str(tmp_path), lost=lost)
    assert [bad.suspect(*span) for span in ((0, 5), (5, 6), (6, 64), (63, 65), (127, 128), (128, 900))] == [
        False, True, False, True, True, False,
    ]  # fmt: skip
    bad.skip(TaskError("one"))
    with pytest.raises(TaskError, match="more than 1 bad record: "):
        bad.skip(TaskError("two"))
    bad.close()
    assert list(tmp_path.iterdir()) == []


def test_what_user_code_has_in_hand_is_marked_and_no_longer(tmp_path: Path) -> None:
    bad = BadRecords(
        TaskId("job", 0, "map", 0), "1", limit=9, scratch=str(tmp_path), lost=Losses(),
        marker=RecordMarker(str(tmp_path)),
    )  # fmt: skip
    path = Path(marker_path(str(tmp_path), os.getpid()))

    def in_hand() -> tuple[int, ...]:
        return struct.unpack("<qq", path.read_bytes())

    bad.begin(64, 64)
    assert in_hand() == (64, 64)
    bad.begin(5)
    assert in_hand() == (5, 1)
    bad.end()
    assert in_hand() == (0, 0)
    bad.begin(6)
    bad.skip(TaskError("raised"))
    assert in_hand() == (0, 0)
    bad.close()
    assert not path.exists()


def test_a_record_that_kills_is_skipped_with_the_reason(tmp_path: Path) -> None:
    lost = Losses(reason="its process ended by signal 11", deaths=((5, 1), (5, 1)))
    bad = BadRecords(TaskId("job", 0, "map", 0), "1", limit=1, scratch=str(tmp_path), lost=lost)
    assert str(bad.killed()) == "the record killed its process twice: its process ended by signal 11"


@pytest.mark.parametrize(("offset", "told"), [(-1, None), (0, 0), (7, 7)])
def test_one_too_many_names_its_place(offset: int, told: int | None) -> None:
    record = BadRecord(
        job="job", step=0, kind="map", task=0, attempt="1", file="f", offset=offset, record="'x'", error="e",
        traceback="",
    )  # fmt: skip
    error = too_many(3, record)
    assert (error.offset, error.record) == (told, "'x'")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Worker exited prematurely: signal 11 (SIGSEGV) Job: 3.", "its process ended by signal 11 (SIGSEGV)"),
        ("Worker exited: signal 9 (SIGKILL) Job: 3.", "its process ended by signal 9 (SIGKILL): out of memory?"),
        ("Worker exited prematurely: exitcode 3 Job: 3.", "its process ended with exit status 3"),
        ("What?", "its process ended"),
    ],
)
def test_how_a_process_ended(message: str, said: str) -> None:
    assert cause_of_death(message) == said
