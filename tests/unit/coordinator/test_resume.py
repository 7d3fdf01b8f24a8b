"""Jobs resume from storage, wherever the job store forgets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrcelery.attempt.cleanup import clean_up
from mrcelery.coordinator.start import start
from mrcelery.errors import JobStoppedError
from mrcelery.schema import object_keys
from mrcelery.schema.object_keys import step_root
from tests.support.stepped_jobs import RESULTS, Job


def test_wherever_a_job_is_forgotten_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = 0
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()
        job = Job(folder, monkeypatch)
        ended = True
        for number, _ in enumerate(job.steps()):
            if number == at:
                ended = False
                break
        if ended:
            break
        job.forget()
        for _ in job.steps():
            pass
        assert job.runtime.store.state(job.id) == "succeeded"
        assert job.results() == RESULTS
        assert len(job.ran) == len(set(job.ran)), "what had committed was run again"
        at += 1
    assert at > 10


def test_a_job_that_had_ended_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    for _ in job.steps():
        pass
    clean_up(job.runtime, job.id)
    report = job.storage.read(object_keys.report(job.id))
    job.forget()
    with pytest.raises(JobStoppedError):
        start(job.runtime, job.id)
    assert job.runtime.store.state(job.id) == "succeeded"
    assert job.results() == RESULTS
    assert job.storage.read(object_keys.report(job.id)) == report


def test_a_job_whose_data_was_removed_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of a cancelled job is removed, except for spec and code."""
    job = Job(tmp_path, monkeypatch)
    for _, _ in zip(range(12), job.steps(), strict=False):
        pass
    assert job.runtime.store.move(job.id, "cancelled")
    for step in range(2):
        job.storage.delete(info.key for info in job.storage.list(step_root(job.id, step)))
    job.runtime.store.update(job.id, {"cleaned": "1.0"})
    assert job.runtime.store.revive(job.id)
    for _ in job.steps():
        pass
    assert job.runtime.store.state(job.id) == "succeeded"
    assert job.results() == RESULTS
