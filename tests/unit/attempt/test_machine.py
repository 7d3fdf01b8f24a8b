"""Whose fault a failure is, asked of a machine that is well and of one that is sick."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mrcelery.attempt.machine import MANY_THREADS, ailment, cannot_import, of_the_machine, sickness
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.errors import CorruptDataError, SickMachineError, StorageUnreachableError, TaskError, UserCodeError
from mrcelery.jobstore.memory import MemoryJobStore


@pytest.fixture
def well(tmp_path: Path) -> OpenJobs:
    return OpenJobs(MemoryJobStore(), scratch=f"{tmp_path}/scratch")


@pytest.fixture
def sick(tmp_path: Path) -> OpenJobs:
    (tmp_path / "file").touch()
    return OpenJobs(MemoryJobStore(), scratch=f"{tmp_path}/file")


def test_a_machine_that_is_well_is_left_as_it_was(well: OpenJobs) -> None:
    assert ailment(well) == ""
    assert [path for path in Path(well.scratch).rglob("*") if not path.is_dir()] == []


def test_a_scratch_folder_in_which_nothing_can_be_made(well: OpenJobs, sick: OpenJobs) -> None:
    remedy = "make it writable for the worker, or set MRCELERY_SCRATCH to a folder that is"
    assert ailment(sick) == f"{sick.scratch_path}: File exists: {remedy}"
    (Path(well.scratch) / "tasks").touch()
    assert "tasks: File exists: make it writable" in ailment(well)


def test_many_threads_of_the_worker_hide_no_sick_machine(sick: OpenJobs) -> None:
    """As those of a pool of threads: they have nothing to do with its files."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(MANY_THREADS)]
    try:
        for thread in threads:
            thread.start()
        assert "File exists" in ailment(sick)
    finally:
        over.set()
        for thread in threads:
            thread.join()


LIMITED = """
import resource, sys
from mrcelery.attempt.machine import ailment
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.jobstore.memory import MemoryJobStore
jobs = OpenJobs(MemoryJobStore(), scratch=sys.argv[1])
assert ailment(jobs) == ""
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held = []
try:
    while sys.argv[3] == "leaks":
        held.append(open("/dev/null"))
except OSError:
    pass
print(ailment(jobs))
"""


@pytest.mark.parametrize(
    ("limit", "leaks", "said"),
    [
        (12, "no", "Too many open files: raise the limit of open files on the worker (ulimit -n)"),
        (300, "leaks", ""),  # the job's fault: another machine would have no more
    ],
)
def test_open_files_that_run_out(tmp_path: Path, limit: int, leaks: str, said: str) -> None:
    command = [sys.executable, "-c", LIMITED, f"{tmp_path}/scratch", str(limit), leaks]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert found.endswith(said)
    assert bool(found) is bool(said)


def test_a_disk_that_the_attempt_itself_had_filled(well: OpenJobs) -> None:
    full = of_the_machine(OSError(errno.ENOSPC, "No space left on device", "/scratch/spill"), "1-a", well)
    assert type(full) is TaskError
    assert full.retryable
    assert full.elsewhere
    assert full.attempt == "1-a"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
def test_what_a_sick_machine_refuses_is_no_fault_of_the_job(sick: OpenJobs, number: int) -> None:
    error = of_the_machine(OSError(number, "refused", f"{sick.scratch_path}/spill"), "1-a", sick)
    assert isinstance(error, SickMachineError)


def test_a_broken_disk_whose_next_write_succeeds(well: OpenJobs) -> None:
    assert isinstance(of_the_machine(OSError(errno.EIO, "Input/output error"), "1-a", well), SickMachineError)


def test_what_is_gone(well: OpenJobs) -> None:
    """From scratch, which some systems clean: the attempt runs again; elsewhere: it never can."""
    spill = FileNotFoundError(errno.ENOENT, "No such file or directory", f"{well.scratch}/tasks/spill")
    assert of_the_machine(spill, "1-a", well).retryable
    gone = of_the_machine(FileNotFoundError(errno.ENOENT, "No such file", "/inputs/a"), "1-a", well)
    assert isinstance(gone, CorruptDataError)


def test_an_error_that_user_code_met(well: OpenJobs, sick: OpenJobs) -> None:
    for cause, machines in (
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("can't start new thread"), True),
        (ValueError("odd"), False),
    ):
        error = UserCodeError(str(cause), traceback="theirs")
        error.__cause__ = cause
        assert sickness(error, well) is None
        found = sickness(error, sick)
        assert (found is not None) is machines
        assert found is None or found.traceback == "theirs"
    lost = StorageUnreachableError("full")
    lost.__context__ = OSError(errno.ENOSPC, "No space left on device")
    assert sickness(lost, well) is None
    assert sickness(lost, sick)
    assert sickness(TaskError("a value of more than an eighth"), sick) is None


def test_modules_that_another_machine_may_have() -> None:
    shipped = f"/scratch/code/{'0' * 64}/lib/mine.py"
    for cause, there in (
        (ModuleNotFoundError("No module named 'x'", name="x"), True),
        (ImportError("cannot import name 'y' from 'x'", name="x", path="/site-packages/x.py"), True),
        (ImportError("cannot import name 'y' from 'mine'", name="mine", path=shipped), False),
        (ValueError("bad marshal data"), True),
        (KeyError("x"), False),
    ):
        error = UserCodeError(f"the job does not import on the worker: {cause}")
        error.__cause__ = cause
        assert cannot_import(error) is there, cause
    assert not cannot_import(UserCodeError("odd"))
    assert not cannot_import(TaskError("odd"))


@pytest.mark.parametrize(
    ("number", "path", "says", "kind"),
    [
        (errno.ENOENT, "{scratch}/tasks/spill-0", "keep other programs from removing files there", TaskError),
        (errno.ENOENT, "/proc/self/status", "keep other programs from removing files there", TaskError),
        (errno.ENOENT, "/data/part-00000", "is gone, and the job still needs it", CorruptDataError),
        (errno.EACCES, "{scratch}/tasks", "make it writable for the worker", TaskError),
        (errno.EMFILE, "{scratch}/tasks/spill-0", "ulimit -n", TaskError),
        (errno.ENOSPC, "{scratch}/tasks/spill-0", "make room on the worker", TaskError),
    ],
)
def test_what_the_system_refused_is_told_with_its_own_remedy(
    well: OpenJobs, number: int, path: str, says: str, kind: type[TaskError]
) -> None:
    refused = OSError(number, os.strerror(number), path.format(scratch=well.scratch_path))
    error = of_the_machine(refused, "1-a", well)
    assert type(error) is kind
    assert says in str(error)
    assert error.retryable
