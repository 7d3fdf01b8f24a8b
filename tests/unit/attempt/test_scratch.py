"""What dead processes leave in a scratch folder: found and removed, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrcelery.attempt.progress_file import ProgressFile, keeper_of_dead, progress_path
from mrcelery.attempt.scratch import sweep
from mrcelery.schema.task_id import TaskId

HOLDER = """
import os, sys
from mrcelery.attempt.progress_file import ProgressFile, progress_path
from mrcelery.schema.task_id import TaskId
scratch, keeper = sys.argv[1], int(sys.argv[2])
mark = ProgressFile(progress_path(scratch, TaskId("job", 0, "map", 3), os.getpid()), keeper)
for folder in ("tasks", "marks"):
    os.makedirs(f"{scratch}/{folder}", exist_ok=True)
os.mkdir(f"{scratch}/tasks/job-0-map-3-1-abc.{os.getpid()}")
open(f"{scratch}/tasks/job-0-map-3-1-abc.{os.getpid()}/spill", "w").close()
open(f"{scratch}/marks/{os.getpid()}", "w").close()
print("ready", flush=True)
sys.stdin.read()
"""


def holder(scratch: Path, keeper: int) -> subprocess.Popen[str]:
    """A process with an attempt's things in the scratch folder."""
    command = [sys.executable, "-c", HOLDER, str(scratch), str(keeper)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def left(scratch: Path) -> dict[str, int]:
    return {folder: len(os.listdir(scratch / folder)) for folder in ("alive", "tasks", "marks")}


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_what_processes_of_dead_workers_left_is_removed(tmp_path: Path, gone: int) -> None:
    living, dead = holder(tmp_path, gone), holder(tmp_path, gone)
    try:
        kill(dead)
        assert left(tmp_path) == {"alive": 2, "tasks": 2, "marks": 2}
        sweep(str(tmp_path))
        assert left(tmp_path) == {"alive": 1, "tasks": 1, "marks": 1}
        assert os.listdir(tmp_path / "marks") == [str(living.pid)]
    finally:
        kill(living)
    sweep(str(tmp_path))
    assert left(tmp_path) == {"alive": 0, "tasks": 0, "marks": 0}


@pytest.mark.slow
def test_a_worker_that_lives_looks_after_its_own(tmp_path: Path) -> None:
    child = holder(tmp_path, os.getpid())
    kill(child)
    sweep(str(tmp_path))
    assert left(tmp_path) == {"alive": 1, "tasks": 1, "marks": 1}
    sweep(str(tmp_path), own=True)
    assert left(tmp_path) == {"alive": 0, "tasks": 0, "marks": 0}


@pytest.mark.slow
def test_a_worker_that_ends_leaves_what_another_one_looks_after(tmp_path: Path) -> None:
    child = holder(tmp_path, os.getppid())
    kill(child)
    sweep(str(tmp_path), own=True)
    assert left(tmp_path) == {"alive": 1, "tasks": 1, "marks": 1}


def test_a_mark_of_this_process_is_not_a_dead_ones(tmp_path: Path) -> None:
    path = progress_path(str(tmp_path), TaskId("job", 0, "map", 1), os.getpid())
    mark = ProgressFile(path, 7)
    assert keeper_of_dead(path) is None
    mark.close()
    assert keeper_of_dead(path) is None
    Path(path).write_bytes(b"\0" * 8)  # cut short
    assert keeper_of_dead(path) == 0
