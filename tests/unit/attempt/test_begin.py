"""Which tasks a message may begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mrcelery.attempt.begin import begin
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.coordinator.start import start
from mrcelery.errors import JobStoppedError
from mrcelery.schema.task_id import TaskId
from tests.support.plain_jobs import PLAIN


@pytest.mark.parametrize(
    ("step", "kind", "task"),
    [(1, "map", 0), (-1, "map", 0), (0, "map", 1), (0, "map", -1), (0, "reduce", 7), (0, "reduce", -1)],
)
def test_a_task_that_the_job_does_not_have_is_not_begun(
    submitted: Callable[..., tuple[OpenJobs, str]], step: int, kind: Any, task: int
) -> None:
    runtime, job = submitted(PLAIN, reducers=2)
    start(runtime, job)
    with pytest.raises(JobStoppedError, match=f"has no {kind} task {task} of step {step}"):
        begin(runtime, TaskId(job, step, kind, task), "worker")
    assert runtime.store.next_attempt(TaskId(job, step, kind, task)) == 1  # nothing was counted
    assert begin(runtime, TaskId(job, 0, "map", 0), "worker").number == 1
