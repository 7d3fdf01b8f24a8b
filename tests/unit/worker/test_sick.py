"""Which tasks are given back for another worker, and how often."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.coordinator.start import start
from mrcelery.errors import SickMachineError, TaskError, UserCodeError
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Presence
from mrcelery.schema.task_id import TaskId
from mrcelery.worker import elsewhere
from mrcelery.worker.sick import MOST_EXCUSED, UNPROVEN, WorkerIsSick, to_another
from tests.support.plain_jobs import PLAIN

Submitted = Callable[..., tuple[OpenJobs, str]]


@pytest.fixture
def begun(submitted: Submitted) -> tuple[OpenJobs, TaskId]:
    jobs, job = submitted(PLAIN)
    start(jobs, job)
    return jobs, TaskId(job, 0, "map", 0)


def listens(jobs: OpenJobs, *names: str) -> None:
    for name in names:
        jobs.store.record_worker(name, encode(Presence(queues=("celery",), processes=1, every=5.0)))


def test_a_task_goes_back_a_bounded_number_of_times(begun: tuple[OpenJobs, TaskId]) -> None:
    jobs, task = begun
    error = SickMachineError("full")
    for _ in range(MOST_EXCUSED):
        assert to_another(jobs, task, error, worker="a") is error
        jobs.store.excuse_attempt(task)
    assert to_another(jobs, task, error, worker="a") is None
    assert to_another(jobs, task, TaskError("odd"), worker="a") is None


def test_none_goes_back_where_no_other_worker_can_come(
    begun: tuple[OpenJobs, TaskId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "alone", True)
    assert to_another(*begun, SickMachineError("full"), worker="a") is None


def no_module() -> UserCodeError:
    error = UserCodeError("the job does not import on the worker: ModuleNotFoundError: No module named 'x'")
    error.__cause__ = ModuleNotFoundError("No module named 'x'", name="x")
    return error


def test_a_missing_module_is_looked_for_on_each_worker_once(begun: tuple[OpenJobs, TaskId]) -> None:
    jobs, task = begun
    listens(jobs, "a", "b")
    first = to_another(jobs, task, no_module(), worker="a")
    assert first is not None
    assert not first.certain
    assert str(first).endswith("No module named 'x'; other workers of the queue may have it: install it on this one")
    assert to_another(jobs, task, no_module(), worker="b") is None  # none is left that may have it


def test_a_module_that_nobody_is_known_to_have_is_not_looked_for_long(begun: tuple[OpenJobs, TaskId]) -> None:
    jobs, task = begun
    listens(jobs, "a", "b")
    for _ in range(UNPROVEN):
        assert to_another(jobs, task, no_module(), worker="a")
        jobs.store.excuse_attempt(task)
    assert to_another(jobs, task, no_module(), worker="a") is None
    jobs.store.add_commit(TaskId(task.job, 0, "map", 1), b"")
    found = to_another(jobs, task, no_module(), worker="a")
    assert found is not None
    assert found.certain


def test_what_goes_to_the_main_process_arrives_whole() -> None:
    sent = WorkerIsSick("full", certain=False)
    got = pickle.loads(pickle.dumps(sent))
    assert (got.reason, got.certain, got.requeue) == ("full", False, True)
