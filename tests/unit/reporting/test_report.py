"""Whose report a client takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrcelery.errors import UnsignedError
from mrcelery.reporting.excerpts import log
from mrcelery.reporting.report import read_client_report, read_report
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import TaskId
from tests.support.stepped_jobs import Job

KEY = "correct horse battery staple"


def ended(folder: Path, monkeypatch: pytest.MonkeyPatch, key: str | None) -> Job:
    job = Job(folder, monkeypatch, signing_key=key)
    for _ in job.steps():
        pass
    return job


def test_with_a_secret_the_report_of_a_signed_job_must_be_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names what is brought home."""
    job = ended(tmp_path, monkeypatch, KEY)
    key = object_keys.report(job.id)
    whole = job.storage.read(key)
    report = read_client_report(job.storage, job.id, KEY)
    assert report is not None
    assert report == read_client_report(job.storage, job.id, None) == read_report(job.storage, job.id)
    for forged in (whole.replace(b"part-00000", b"part-00009"), whole[: whole.rindex(b',"sig"')] + b"}"):
        job.storage.write(key, forged)
        with pytest.raises(UnsignedError, match=key):
            read_client_report(job.storage, job.id, KEY)
        assert read_client_report(job.storage, job.id, None) is not None
    assert read_client_report(job.storage, "none", KEY) is None


def test_that_of_a_job_without_a_secret_need_not_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of this machine's own, which signs nothing."""
    job = ended(tmp_path, monkeypatch, None)
    assert read_client_report(job.storage, job.id, KEY) == read_report(job.storage, job.id)


def test_a_log_is_not_looked_for_where_no_attempt_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of attempts come from the job store, and the page shows their logs."""
    job = ended(tmp_path, monkeypatch, None)
    task = TaskId(job.id, 0, "map", 0)
    job.storage.write(object_keys.log(task, "1-a"), b"said\n")
    assert log(job.storage, task, "1-a") == "said\n"
    assert log(job.storage, task, "x/../../../spec.json") == ""
