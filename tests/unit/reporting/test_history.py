"""Jobs of the job store and of storage as one list: which jobs, in which order, and how much is read for it."""

from __future__ import annotations

import os
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from mrcelery.client.submission import job_id
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting import history
from mrcelery.reporting.history import JobFilter, created_by_id
from mrcelery.runners.enter import enter
from mrcelery.schema import object_keys
from mrcelery.schema.signing import seal
from mrcelery.schema.structs import Bundle, JobOptions, JobSpec, PlanSummary, Request
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage

NOW = 1_790_000_000.25


def request(number: int, **more: Any) -> Request:
    """Make the request of a job submitted ``number`` minutes ago."""
    created = NOW - 60 * number
    given = {"job": job_id("wc", created=created), "name": "wc", "owner": "zoe", "created": created, **more}
    return Request(
        inputs=(), output="", storage="", steps=(), args=(), options=JobOptions(),
        bundle=Bundle(sha256="", size=0, entry=""), **given,
    )  # fmt: skip


class Counting(MemoryJobStore):
    """A job store that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def fields(self, job: str) -> dict[str, str]:
        self.asked["fields"] += 1
        return super().fields(job)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
def storage() -> Storage:
    return open_storage(f"memory://{os.urandom(6).hex()}")


def keep(storage: Storage, kept: Request) -> str:
    spec = JobSpec(request=kept, plan=PlanSummary(splits=0, files=0, bytes=0), steps=())
    storage.write(object_keys.spec(kept.job), seal(spec, None))
    return kept.job


def know(store: MemoryJobStore, known: Request) -> str:
    enter(store, known, b"", b"", {})
    return known.job


def test_an_id_tells_when_its_job_was_submitted() -> None:
    assert created_by_id(request(3).job) == int(NOW) - 180
    assert created_by_id(job_id("wc", "token")) is None
    assert created_by_id("wc-20261399-000000-abcdef") is None


def test_newest_first_whatever_knows_of_them(store: Counting, storage: Storage) -> None:
    expected = [know(store, request(n)) if n % 3 else keep(storage, request(n)) for n in range(30)]
    token = keep(storage, request(7, job=job_id("wc", "token"), created=NOW - 450))  # between the 7th and the 8th
    expected.insert(8, token)
    both = request(40)
    expected.append(know(store, both))
    keep(storage, both)
    found = list(history.jobs(store, storage, JobFilter()))
    assert [one.job for one in found] == expected
    assert {one.state for one in found if one.job in expected[::3]} <= {"unknown", "queued"}
    assert [one.job for one in history.jobs(None, storage, JobFilter())][-1] == both.job


def test_pages_of_a_long_list(store: Counting) -> None:
    expected = [know(store, request(n)) for n in range(2 * history.PAGE + 50)]
    assert [one.job for one in history.jobs(store, None, JobFilter())] == expected
    store.asked.clear()
    assert len(list(islice(history.jobs(store, None, JobFilter()), 5))) == 5
    assert store.asked["fields"] <= 12  # twice for each job that is taken
    store.asked.clear()
    since = JobFilter(since=NOW - 60 * 3.5)
    assert [one.job for one in history.jobs(store, None, since)] == expected[:4]
    assert store.asked["fields"] <= 9  # older jobs are not read


def test_within_one_second(storage: Storage) -> None:
    """Ids have whole seconds, records have fractions."""
    expected = [keep(storage, request(0, job=job_id("wc", created=NOW), created=NOW - n / 100)) for n in range(20)]
    assert [one.job for one in history.jobs(None, storage, JobFilter())] == expected
    exact = JobFilter(since=NOW - 0.055, until=NOW - 0.005)
    assert [one.job for one in history.jobs(None, storage, exact)] == expected[1:6]


def test_only_the_newest_of_storage(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST", 3)
    expected = [keep(storage, request(n)) for n in range(8)]
    assert [one.job for one in history.jobs(None, storage, JobFilter())] == expected[:3]


def test_what_never_started_is_no_job(storage: Storage) -> None:
    storage.write(object_keys.code(request(1).job), b"code")
    assert list(history.jobs(None, storage, JobFilter())) == []
