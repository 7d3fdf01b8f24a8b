"""The start of a job that was started before."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from mrcelery.coordinator.start import plan_job, start
from mrcelery.errors import ChangedInputError
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import PlanPage
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
    before = (tmp_path / "in.txt").read_text()
    (tmp_path / "in.txt").write_text(before[::-1])  # as long
    for _ in range(2):
        with pytest.raises(ChangedInputError, match="have changed since") as caught:
            start(job.runtime, job.id)
        assert not caught.value.retryable


def test_an_input_that_was_uploaded_may_be_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another job with the same input does that: it is named by its content."""
    job = Job(tmp_path, monkeypatch)
    uploaded = tmp_path / "storage" / object_keys.shared_input("0" * 64, "a.txt")
    request = replace(job.request, inputs=(str(tmp_path / "in.txt"), str(uploaded)), storage=str(tmp_path / "storage"))
    uploaded.parent.mkdir(parents=True)
    uploaded.write_text("a b\n")
    spec = plan_job(job.runtime, request, job.storage)
    page = decode(job.storage.read(object_keys.plan_page(job.id, 0, 0)), PlanPage)
    assert spec.plan.files == 2
    assert list(page.tags) == [str(tmp_path / "in.txt")]
