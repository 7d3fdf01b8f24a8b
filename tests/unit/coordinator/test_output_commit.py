"""OUTPUT: who may publish there, and what is taken back."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
from msgspec.structs import replace

from mrcelery.coordinator.output_commit import check_free, publish, withdraw
from mrcelery.errors import DamagedPartError, OutputExistsError, UnsignedError
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting.report import Report
from mrcelery.schema import object_keys
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Part, Totals
from mrcelery.storage import open_storage

REPORT = Report(
    job="j", name="n", state="succeeded", counters={}, totals=Totals(), started=1.0, finished=2.0, seconds=1.0,
    output="", parts=("part-00000",),
)  # fmt: skip
PART = Part(0, "jobs/j/part", 4, 1, crc32(b"data"))


class Place:
    """A running job ``j`` with one committed part, and an OUTPUT."""

    def __init__(self, folder: Path) -> None:
        self.seal = JobSeal("j")
        self.storage = open_storage(f"{folder}/storage")
        self.uri = f"{folder}/out"
        self.output = open_storage(self.uri)
        self.storage.write(PART.key, b"data")
        self.store = MemoryJobStore()
        self.store.create("j", {}, b"")
        self.store.move("j", "running")

    def publish(self, uri: str, overwrite: bool = False, part: Part = PART) -> None:
        publish(
            self.store, self.storage, self.seal, uri, {"part-00000": part}, lambda: REPORT, overwrite=overwrite
        )  # fmt: skip

    def names(self) -> list[str]:
        return [info.key for info in self.output.list()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_output_that_holds_anything_is_refused_before_a_job_begins(place: Place) -> None:
    check_free(place.uri)
    place.output.write("notes.txt", b"mine")
    with pytest.raises(OutputExistsError, match="choose another, or give --overwrite"):
        check_free(place.uri)


def test_a_part_that_is_gone_is_no_end_of_the_job(place: Place) -> None:
    """Its task runs again, and then the step: no run of it may pass for one that came late."""
    place.storage.delete([PART.key])
    with pytest.raises(DamagedPartError, match="is gone"):
        place.publish(place.uri)
    assert object_keys.SUCCESS not in place.names()
    place.storage.write(PART.key, b"data")
    place.publish(place.uri)
    assert place.names() == [object_keys.SUCCESS, "part-00000"]


def test_results_in_the_jobs_own_storage_are_taken_back(place: Place) -> None:
    place.publish("")
    own = object_keys.output("j")
    assert [info.key for info in place.storage.list(own)] == [f"{own}part-00000"]
    withdraw(place.storage, "j", "")
    assert list(place.storage.list(own)) == []
    assert place.storage.stat(object_keys.report("j")) is None


def test_an_output_that_another_job_has_published_stays(place: Place) -> None:
    place.publish(place.uri)
    withdraw(place.storage, "other", place.uri)
    assert place.names() == [object_keys.SUCCESS, "part-00000"]
    withdraw(place.storage, "j", place.uri)
    assert place.names() == []


def test_what_a_job_that_ended_left_half_published_is_refused_unless_overwritten(place: Place) -> None:
    left = object_keys.claim("gone", "000001-ab")
    place.output.write(left, b"")
    place.output.write(f"{object_keys.CLAIM}older", b"")
    with pytest.raises(OutputExistsError):
        place.publish(place.uri)
    assert sorted(place.names()) == sorted([left, f"{object_keys.CLAIM}older"])
    place.publish(place.uri, overwrite=True)
    assert place.names() == [object_keys.SUCCESS, "part-00000"]


def test_a_part_that_was_written_to_again_is_read_before_it_is_published(place: Place) -> None:
    found = place.storage.stat(PART.key)
    assert found is not None
    committed = replace(PART, tag=found.tag)
    place.storage.write(PART.key, b"data")  # the same bytes, with another tag
    place.publish(place.uri, part=committed)
    place.storage.write(PART.key, b"dath")
    with pytest.raises(DamagedPartError, match="is damaged"):
        place.publish(f"{place.uri}-2", part=committed)
    assert list(open_storage(f"{place.uri}-2").list()) == []


def test_with_a_secret_only_a_signed_mark_says_that_a_job_has_published(place: Place) -> None:
    """Else it would succeed with whatever lies there."""
    place.seal = JobSeal("j", "secret")
    place.publish(place.uri)
    mark = place.output.read(object_keys.SUCCESS)
    place.output.write("part-00000", b"old")
    place.publish(place.uri)
    assert place.output.read("part-00000") == b"old", "what this job has published is not published again"
    place.output.write(object_keys.SUCCESS, mark[: mark.rindex(b',"sig"')] + b"}")
    with pytest.raises(UnsignedError, match="the _SUCCESS of job j is not signed"):
        place.publish(place.uri)
