"""The names of stages and tasks."""

from __future__ import annotations

from mrcelery.schema.structs import Commit
from mrcelery.schema.task_id import StageId, TaskId


def test_a_task_and_its_stage_name_each_other() -> None:
    stage = StageId("job", 2, "reduce")
    task = stage.task_id(7)
    assert task == TaskId("job", 2, "reduce", 7)
    assert task.stage == stage
    assert (stage.name, task.name) == ("2.reduce", "2.reduce.7")


def test_a_commit_names_its_task() -> None:
    commit = Commit(
        job="job", step=1, kind="map", task=3, attempt="1-a", parts=(), counters={}, records_in=0, records_out=0,
        bytes_in=0, bytes_out=0, seconds=0.0, host="",
    )  # fmt: skip
    assert TaskId.of(commit) == TaskId("job", 1, "map", 3)
