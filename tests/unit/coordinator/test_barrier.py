"""Runs that are damaged before the barrier reads their indexes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.barrier import barrier
from mrcelery.errors import DamagedPartError
from mrcelery.schema.task_id import StageId, TaskId
from tests.support.damaged_jobs import DAMAGE, DONE, Mapped


@pytest.mark.parametrize("how", DAMAGE)
def test_a_run_whose_index_is_damaged_before_the_barrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its map task runs again: no reduce task has been given its input yet."""
    stages: list[tuple[int, ...]] = []

    def damaged_once(runtime: OpenJobs, job: str, step: int) -> None:
        (run,) = tmp_path.glob("storage/jobs/*/step-0/map-00002/run.*")
        if how == "a flipped bit":
            run.write_bytes(run.read_bytes()[:-1] + b"?")
        else:
            DAMAGE[how](run)
        stage = barrier(runtime, job, step)
        assert stage.missing is not None
        stages.append(stage.missing)
        assert runtime.store.done(StageId(job, 0, "map")) == stage.tasks - 1
        for number in stage.missing:
            run_attempt(runtime, TaskId(job, 0, "map", number))
        barrier(runtime, job, step)

    job = Mapped(tmp_path, monkeypatch, "range", "1", 0.0, damaged_once)
    assert stages == [(2,)]
    lines, counters = job.reduce()
    assert lines == DONE
    assert counters == {"mapped": 300}


def test_a_storage_that_damages_each_run_is_no_place_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged_always(runtime: OpenJobs, job: str, step: int) -> None:
        for _ in range(2):
            for run in tmp_path.glob("storage/jobs/*/step-0/map-00002/run.*"):
                run.write_bytes(b"?")
            run_attempt(runtime, TaskId(job, 0, "map", barrier(runtime, job, step).missing[0]))  # type: ignore[index]
        for run in tmp_path.glob("storage/jobs/*/step-0/map-00002/run.*"):
            run.write_bytes(b"?")
        with pytest.raises(DamagedPartError, match=r"the index of jobs/.*/map-00002/run") as raised:
            barrier(runtime, job, step)
        assert not raised.value.retryable

    assert Mapped(tmp_path, monkeypatch, "range", "1", 0.0, damaged_always).maps > 2
