"""What an attempt reports of itself while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.progress_file import last_progress, records_read
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.schema.task_id import TaskId

WATCHED = """
    import glob, shutil

    class Job(MRJob):
        def mapper(self, _, line):
            self.copy(f"{line}-before")
            if line == "status":
                self.set_status("at it")
            self.copy(f"{line}-after")
            yield line, 1

        def copy(self, name):
            (mine,) = glob.glob(os.environ["SCRATCH"] + "/alive/*")
            shutil.copy(mine, os.environ["COPIES"] + "/" + name)
"""


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a job of :data:`WATCHED` puts its attempt's progress file as it stands before and after each record."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setenv("SCRATCH", f"{tmp_path}/scratch")
    monkeypatch.setenv("COPIES", str(folder))
    return folder


def test_an_attempt_that_reads_on_is_seen_to(
    submitted: Callable[..., tuple[OpenJobs, str]], copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 0.0)
    runtime, job = submitted(WATCHED, text="one\ntwo\n")
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert 0 < last_progress(f"{copies}/one-after") < last_progress(f"{copies}/two-before")
    assert (records_read(f"{copies}/one-after"), records_read(f"{copies}/two-before")) == (0, 2)
    assert os.listdir(copies.parent / "scratch" / "alive") == []


def test_a_status_says_that_a_slow_record_is_at_work(
    submitted: Callable[..., tuple[OpenJobs, str]], copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 3600.0)  # so that nothing else touches the file
    runtime, job = submitted(WATCHED, text="silent\nstatus\n")
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    silent, before, after = (
        last_progress(f"{copies}/{name}") for name in ("silent-after", "status-before", "status-after")
    )
    assert 0 < silent == before < after
    assert runtime.store.fields(job)["status"] == "at it"
