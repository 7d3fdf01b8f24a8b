"""Failures are reported, whatever is in them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.decision import decide
from mrcelery.attempt.failure import fail_job, failure
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import TaskError, UnreachableError
from mrcelery.schema.structs import End
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


@pytest.mark.parametrize("storage", ["answers", "is away"])
def test_a_failure_that_the_storage_kept_waiting_spares_the_next_generation(
    submitted: Callable[..., tuple[OpenJobs, str]], monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    runtime, job = submitted(PLAIN)
    start(runtime, job)
    late = failure(TaskError("late"), job=job, step=0, kind="map", task=0)

    def wait(*given: Any) -> End:
        runtime.store.move(job, "failed")
        assert runtime.store.revive(job)
        if storage == "is away":
            raise UnreachableError("away")
        return decide(*given)

    monkeypatch.setattr("mrcelery.attempt.failure.decide", wait)
    assert not fail_job(runtime.store, late, 0, None)
    assert runtime.store.state(job) == "queued"
    assert runtime.store.fields(job)["revived"] == "1"
    assert not fail_job(runtime.store, late, 0, None)
    monkeypatch.undo()
    assert fail_job(runtime.store, late, 1, None)
    assert runtime.store.state(job) == "failed"


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
