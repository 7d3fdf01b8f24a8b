"""The start of a job that was started before."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrcelery.coordinator.start import start
from mrcelery.errors import TaskError
from mrcelery.schema import object_keys
from tests.support.stepped_jobs import RESULTS, Job


def test_what_came_through_the_job_store_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another delivery of the start, which saw no spec yet, finds it in storage."""
    job = Job(tmp_path, monkeypatch)
    digest = job.request.bundle.sha256
    assert job.runtime.store.get_blob(job.id, digest) == job.code
    start(job.runtime, job.id)
    assert job.runtime.store.get_blob(job.id, digest) is None
    job.storage.delete([object_keys.spec(job.id)])
    start(job.runtime, job.id)
    for _ in job.steps():
        pass
    assert job.results() == RESULTS


def test_an_input_that_changed_meanwhile_is_no_base_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(tmp_path, monkeypatch)
    start(job.runtime, job.id)
    job.storage.delete([object_keys.plan_page(job.id, 0, 0)])
    (tmp_path / "in.txt").write_text("a\n" * 100)
    with pytest.raises(TaskError, match="have changed since"):
        start(job.runtime, job.id)
