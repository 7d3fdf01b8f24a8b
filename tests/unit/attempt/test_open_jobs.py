"""A worker accepts only records that were signed for the job, and only a scratch folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.coordinator.start import start
from mrcelery.errors import (
    SickMachineError,
    UnsignedError,
)
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.schema import object_keys
from mrcelery.schema.signing import seal
from tests.support.plain_jobs import PLAIN

KEY = "correct horse battery staple"


def test_a_signed_request_holds_for_its_own_job_only(submitted: Callable[..., tuple[OpenJobs, str]]) -> None:
    """A user who may write to the job store must not be able to run a job again under another name."""
    runtime, job = submitted(PLAIN, KEY)
    fields = {**runtime.store.fields(job), "name": "other"}
    request = runtime.store.request(job)
    assert request is not None
    runtime.store.create("other", fields, request)
    with pytest.raises(UnsignedError, match="belongs to job job-"):
        start(runtime, "other")
    start(runtime, job)


def test_a_signed_spec_holds_for_its_own_job_only(submitted: Callable[..., tuple[OpenJobs, str]]) -> None:
    runtime, job = submitted(PLAIN, KEY)
    start(runtime, job)
    storage = runtime.open(job).storage
    storage.write(object_keys.spec("other"), storage.read(object_keys.spec(job)))
    other = msgspec.structs.replace(runtime.request(job), job="other")
    runtime.store.create("other", runtime.store.fields(job), seal(other, KEY))
    with pytest.raises(UnsignedError, match="belongs to job job-"):
        runtime.open("other")


def test_the_default_scratch_folder_must_be_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can make a folder of that name in /tmp first, and would own what is unpacked in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = Path(OpenJobs(MemoryJobStore()).scratch)
    assert scratch.parent == tmp_path
    assert scratch.stat().st_mode & 0o777 == 0o700
    assert OpenJobs(MemoryJobStore()).scratch
    scratch.chmod(0o777)
    with pytest.raises(SickMachineError, match="not this user's alone"):
        _ = OpenJobs(MemoryJobStore()).scratch
    scratch.rmdir()
    (tmp_path / "elsewhere").mkdir()
    scratch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SickMachineError, match="not this user's alone"):
        _ = OpenJobs(MemoryJobStore()).scratch


def test_a_scratch_folder_that_cannot_be_made_is_said_by_those_who_need_it(tmp_path: Path) -> None:
    """A process on a sick machine still opens its jobs: it must say why nothing works there."""
    (tmp_path / "file").touch()
    jobs = OpenJobs(MemoryJobStore(), scratch=f"{tmp_path}/file/scratch")
    assert jobs.scratch_path == f"{tmp_path}/file/scratch"
    with pytest.raises(SickMachineError, match=r"Not a directory: .*MRCELERY_SCRATCH"):
        _ = jobs.scratch
    (tmp_path / "file").unlink()
    assert Path(jobs.scratch).stat().st_mode & 0o777 == 0o700
