"""The commits of a stage: which a job store that has forgotten them finds in storage, and which are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrcelery.coordinator.summaries import check_all_committed, commits, summaries, summarise
from mrcelery.errors import CorruptDataError, JobStoppedError, TaskError
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import StageId, TaskId
from tests.support.stepped_jobs import Job

MAPS = 4


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job whose map tasks have committed, which its job store has forgotten."""
    job = Job(tmp_path, monkeypatch)
    steps = job.steps()
    for _ in range(MAPS + 1):
        next(steps)
    assert len(job.ran) == MAPS
    job.forget()
    return job


def test_commits_that_the_job_store_has_forgotten_are_entered_again(mapped: Job) -> None:
    stage = StageId(mapped.id, 0, "map")
    active = mapped.runtime.open(mapped.id)
    assert mapped.runtime.store.done(stage) == 0
    check_all_committed(mapped.runtime, active, stage, MAPS)
    assert mapped.runtime.store.done_tasks(stage) == set(range(MAPS))


def test_a_task_without_a_commit_is_waited_for_or_an_error(mapped: Job) -> None:
    stage = StageId(mapped.id, 0, "map")
    active = mapped.runtime.open(mapped.id)
    assert [one.task for one in commits(mapped.runtime, active, stage, MAPS)] == list(range(MAPS))
    mapped.storage.delete([object_keys.commit(TaskId(mapped.id, 0, "map", 2))])
    with pytest.raises(JobStoppedError, match=r"map task 2 .* has no commit yet"):
        check_all_committed(mapped.runtime, active, stage, MAPS)
    with pytest.raises(TaskError, match="map task 2 of step 0 has no commit, although"):
        list(commits(mapped.runtime, active, stage, MAPS))


def test_a_summary_names_no_other_object_than_its_jobs_skipped_records(mapped: Job) -> None:
    """They are copied to OUTPUT."""
    stage = StageId(mapped.id, 0, "map")
    active = mapped.runtime.open(mapped.id)
    summarise(mapped.runtime, active, stage, commits(mapped.runtime, active, stage, MAPS))
    data = mapped.runtime.store.fields(mapped.id)[f"summary.{stage.name}"]
    for bad in ("jobs/other/output/part-00000", f"jobs/{mapped.id}/_bad_records/../spec.json"):
        altered = data.replace('"bad_keys":[]', f'"bad_keys":["{bad}"]')
        assert altered != data
        mapped.runtime.store.update(mapped.id, {f"summary.{stage.name}": altered})
        with pytest.raises(CorruptDataError, match=f"names {bad}, which none of its tasks writes"):
            list(summaries(mapped.runtime, active))
