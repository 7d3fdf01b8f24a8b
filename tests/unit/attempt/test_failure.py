"""Failures that are told whatever is in them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.failure import of_the_machine
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import CorruptDataError, TaskError
from mrcelery.schema.task_id import TaskId
from tests.support.plain_jobs import PLAIN


def test_a_full_disk_is_told_and_tried_again(
    submitted: Callable[..., tuple[OpenJobs, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, job = submitted(PLAIN)
    start(runtime, job)

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/spill-0")

    monkeypatch.setattr("mrcelery.attempt.run.run_map", full)
    with pytest.raises(TaskError, match=r"/scratch/spill-0: No space left on device: .*MRCELERY_SCRATCH") as raised:
        run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert raised.value.retryable
    assert raised.value.attempt.startswith("1-")


@pytest.mark.parametrize(
    ("number", "path", "says", "kind"),
    [
        (errno.ENOENT, "{scratch}/tasks/spill-0", "keep other programs from removing files there", TaskError),
        (errno.ENOENT, "/proc/self/status", "keep other programs from removing files there", TaskError),
        (errno.ENOENT, "/data/part-00000", "is gone, which the job still needs", CorruptDataError),
        (errno.EACCES, "{scratch}/tasks", "grant the worker's user access to it", TaskError),
        (errno.EROFS, "{scratch}/tasks", "grant the worker's user access to it", TaskError),
        (errno.EMFILE, "{scratch}/tasks/spill-0", "ulimit -n", TaskError),
        (errno.ENOSPC, "{scratch}/tasks/spill-0", "make room on the worker", TaskError),
    ],
)
def test_a_fault_of_the_machine_is_told_with_its_own_remedy(
    number: int, path: str, says: str, kind: type[TaskError]
) -> None:
    error = of_the_machine(OSError(number, os.strerror(number), path.format(scratch="/scratch")), "1-a", "/scratch")
    assert type(error) is kind
    assert says in str(error)
    assert error.retryable


@pytest.mark.parametrize("bad_records", [0, 5])
def test_an_error_about_input_that_is_no_text_can_be_told(tmp_path: Path, bad_records: int) -> None:
    job, text = tmp_path / "job.py", tmp_path / "text"
    source = """
        from mrcelery import MRJob

        class Odd(MRJob):
            def mapper(self, _, line):
                raise ValueError(f"odd: {line}")
    """
    job.write_text(dedent(source))
    text.write_bytes(b"b\xffd\n")
    with mrcelery.submit(str(job), str(text), runner="inline", max_bad_records=bad_records) as handle:
        if bad_records:
            handle.wait()
            return
        with pytest.raises(mrcelery.JobFailedError, match=r"^ValueError: odd: b\\udcffd$") as caught:
            handle.wait()
        assert r"b\udcffd" in caught.value.failure.traceback
