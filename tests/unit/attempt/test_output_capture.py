"""What user code prints: kept within bounds, and never in the way of its error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mrcelery.attempt import output_capture
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.output_capture import Kept
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import (
    StorageUnreachableError,
    UserCodeError,
)
from mrcelery.schema.task_id import TaskId


def test_a_long_log_keeps_its_head_and_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_capture, "LOG_LIMIT", 100)
    kept = Kept()
    for number in range(1000):
        kept.write(b"%03d\n" % number)
        assert len(kept.kept()) < 200
    assert kept.kept().startswith(b"000\n001\n")
    assert kept.kept().endswith(b"998\n999\n")
    assert kept.kept().count(b"[...]") == 1
    short = Kept()
    for _ in range(37):
        short.write(b"abcd")
    assert short.kept() == b"abcd" * 37


def test_a_log_that_cannot_be_written_hides_no_error(
    submitted: Callable[..., tuple[OpenJobs, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, job = submitted(
        """
        class Job(MRJob):
            def mapper(self, _, line):
                print("printed")
                raise ValueError("the user's")
        """
    )
    start(runtime, job)
    storage = runtime.open(job).storage

    def full(key: str, data: bytes) -> None:
        raise StorageUnreachableError("no room")

    monkeypatch.setattr(storage, "write", full)
    with pytest.raises(UserCodeError, match="the user's"):
        run_attempt(runtime, TaskId(job, 0, "map", 0))
