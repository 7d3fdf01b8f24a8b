"""How a client ends a job that is signed: as one that has the secret, or in the job store alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrcelery.attempt.decision import decided
from mrcelery.client.retrying import end_as_cancelled
from mrcelery.coordinator.start import start
from mrcelery.schema import object_keys
from tests.support.stepped_jobs import Job

KEY = "correct horse battery staple"


@pytest.mark.parametrize("secret", ["", "another", KEY])
def test_only_who_has_the_secret_decides_in_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    """Workers would refuse what is not signed, and fail the job for it."""
    job = Job(tmp_path, monkeypatch, signing_key=KEY)
    start(job.runtime, job.id)
    monkeypatch.setenv("MRCELERY_SIGNING_KEY", secret)
    assert end_as_cancelled(job.runtime.store, job.id, job.runtime.store.fields(job.id))
    assert job.runtime.store.state(job.id) == "cancelled"
    end = decided(job.storage, job.runtime.seal(job.id), 0)
    assert (end is not None and end.state == "cancelled") is (secret == KEY)


def test_a_job_that_is_not_signed_is_ended_in_storage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path, monkeypatch)
    start(job.runtime, job.id)
    monkeypatch.setenv("MRCELERY_SIGNING_KEY", KEY)
    assert end_as_cancelled(job.runtime.store, job.id, job.runtime.store.fields(job.id))
    assert b"sig" not in job.storage.read(object_keys.end(job.id, 0))
    assert decided(job.storage, job.runtime.seal(job.id), 0) is not None
