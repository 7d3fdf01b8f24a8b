"""Failures that are told whatever is in them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import TaskError
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
        with pytest.raises(mrcelery.JobFailedError, match=r"^ValueError: odd: b\\udcffd\n") as caught:
            handle.wait()
        assert r"b\udcffd" in caught.value.failure.traceback
