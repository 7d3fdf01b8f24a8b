"""Steps of the coordinator that come too early or too late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.stages import has_gone_on
from mrcelery.coordinator.start import start
from mrcelery.errors import JobStoppedError
from mrcelery.schema.task_id import StageId
from tests.support.stepped_jobs import Job


def test_a_step_that_comes_too_early_or_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    stage = start(job.runtime, job.id)
    assert stage is not None
    with pytest.raises(JobStoppedError, match="too early"):
        barrier(job.runtime, job.id, 0)
    fields = {stage.published: "1.0"}
    assert has_gone_on(fields, "start")
    assert not has_gone_on(fields, "barrier", 0)
    after = {replace(stage, id=StageId(job.id, 0, "reduce")).published: "1.0"}
    assert has_gone_on(after, "barrier", 0)
    assert not has_gone_on(after, "finish", 0)
    assert has_gone_on({replace(stage, id=StageId(job.id, 1, "map")).published: "1.0"}, "finish", 0)
