"""Whatever directs a task may name only the job's own data: otherwise any file a worker can read would be published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import mrcelery
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode, encode
from mrcelery.schema.structs import Commit, Extent, PlanPage, ShuffleInput, Split
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.folder import FolderStorage

JobFile = Callable[..., str]

STEPS = """
    from mrcelery import MRJob, MRStep

    class Steps(MRJob):
        def steps(self):
            return [MRStep(mapper=self.first, reducer=self.sum), MRStep(mapper=self.second, reducer=self.sum)]

        def first(self, _, line):
            yield line, 1

        def second(self, key, value):
            yield key, value

        def sum(self, key, values):
            yield key, sum(values)
"""


def forged_commit(data: bytes, other: str) -> bytes:
    commit = decode(data, Commit)
    return encode(
        msgspec.structs.replace(commit, parts=tuple(msgspec.structs.replace(p, key=other) for p in commit.parts))
    )


def forged_input(data: bytes, other: str) -> bytes:
    given = decode(data, ShuffleInput)
    return encode(
        msgspec.structs.replace(given, parts=tuple(msgspec.structs.replace(p, key=other) for p in given.parts))
    )


def forged_plan(data: bytes, other: str) -> bytes:
    page = decode(data, PlanPage)
    return encode(PlanPage(splits=tuple(Split(s.index, (Extent(other, 0, 7, 7),)) for s in page.splits)))


@pytest.mark.parametrize(
    ("key_of", "forge", "other"),
    [
        (
            lambda job: object_keys.commit(TaskId(job, 0, "map", 0)),
            forged_commit,
            "jobs/other/step-0/map-00000/part-00000.1-a",
        ),
        (lambda job: object_keys.commit(TaskId(job, 1, "reduce", 0)), forged_commit, "../secret.txt"),
        (
            lambda job: object_keys.commit(TaskId(job, 1, "reduce", 0)),
            forged_commit,
            "jobs/{job}/step-1/reduce-00000/../../../../../secret.txt",
        ),
        (lambda job: object_keys.shuffle_input(job, 0, 0), forged_input, "../secret.txt"),
        (lambda job: object_keys.plan_page(job, 1, 0), forged_plan, "{secret}"),
    ],
    ids=["map-commit", "reduce-commit", "dots", "shuffle-input", "plan"],
)
def test_a_record_that_names_other_data_is_refused(
    job_file: JobFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key_of: Callable[[str], str],
    forge: Callable[[bytes, str], bytes],
    other: str,
) -> None:
    """The record is altered while it is written, on its way to its reader."""
    (tmp_path / "secret.txt").write_text("secret\n")
    (tmp_path / "in.txt").write_text("a\nb\n")
    forged: list[str] = []

    def altering(real: Callable[..., object]) -> Callable[..., object]:
        def altered(self: FolderStorage, key: str, data: bytes) -> object:
            job = key.split("/")[1] if "/" in key else ""
            if job and key == key_of(job):
                forged.append(key)
                data = forge(data, other.format(job=job, secret=tmp_path / "secret.txt"))
            return real(self, key, data)

        return altered

    for name in ("write", "create"):
        monkeypatch.setattr(FolderStorage, name, altering(getattr(FolderStorage, name)))
    # Commits are read from storage, as after a Redis that lost its data.
    monkeypatch.setattr("mrcelery.jobstore.memory.MemoryJobStore.commits", lambda self, stage: {})
    settings: dict[str, Any] = {
        "runner": "inline",
        "storage": str(tmp_path / "storage"),
        "reducers": 1,
        "max_attempts": 1,
    }
    submitted = mrcelery.submit(job_file(STEPS), str(tmp_path / "in.txt"), output=str(tmp_path / "out"), **settings)
    with submitted as handle, pytest.raises(mrcelery.JobFailedError, match="it was altered; submit") as raised:
        handle.wait()
    assert forged
    assert "\n" not in raised.value.failure.message
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []
