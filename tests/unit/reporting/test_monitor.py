"""What a waiting client reports of what it sees, by a clock that the test sets."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mrcelery import events
from mrcelery.reporting.monitor import NONE_SECONDS, Monitor
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Failure, Presence
from mrcelery.storage.patience import AGAIN_SECONDS


class Wait:
    """A wait for job j on queue q; the test sets what it sees."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[events.Event] = []
        self.monitor = Monitor("j", self.told.append, 60.0, lambda: self.now)
        self.fields = {"queue": "q"}
        self.workers: dict[str, tuple[float, bytes]] = {}
        self.progress = 0

    def listens(self, name: str, since: float = 0.0, queue: str = "q", sick: str = "") -> None:
        self.workers[name] = since, encode(Presence(queues=("other", queue), processes=2, every=4.0, sick=sick))

    def look(self, seconds: float = 2.0) -> list[str]:
        """Look again after so many seconds, and return the kinds of the reported events."""
        self.now += seconds
        before = len(self.told)
        self.monitor.answered(self.fields)
        self.monitor.observe(self.fields, self.workers, lambda: self.progress)
        return [type(event).__name__ for event in self.told[before:]]

    def away(self, seconds: float) -> list[str]:
        self.now += seconds
        before = len(self.told)
        self.monitor.unreachable("no Redis answers")
        return [str(event) for event in self.told[before:]]


@pytest.fixture
def wait() -> Wait:
    return Wait()


def test_a_broker_that_is_away_is_told_now_and_then(wait: Wait) -> None:
    wait.listens("a")
    assert wait.look() == []
    assert wait.away(0.2) == []
    assert wait.away(1.8) == ["broker not reachable for 2 s: waiting, at most 60 s (no Redis answers)"]
    assert wait.away(1) == []
    assert len(wait.away(AGAIN_SECONDS)) == 1
    wait.workers.clear()  # the workers have to find it again, too
    assert wait.look() == ["BrokerBack"]
    assert str(wait.told[-1]) == "broker is back after 20 s: still waiting"
    assert wait.look() == []


def test_a_blip_is_not_worth_a_line(wait: Wait) -> None:
    wait.listens("a")
    wait.look()
    assert wait.away(0.5) == []
    assert wait.look() == []


def test_no_worker_listens(wait: Wait) -> None:
    wait.listens("elsewhere", queue="p")
    wait.listens("gone", since=12.0)
    wait.workers["of another version"] = 0.0, b'{"v":2,"queue":"q"}'
    assert wait.look() == []
    assert wait.look(NONE_SECONDS) == ["NoWorkers"]
    assert "no worker has listened on queue q for 5 s: start one with `mrcelery worker --queue q`" in str(wait.told[-1])
    assert wait.look() == []
    assert wait.look(AGAIN_SECONDS) == ["NoWorkers"]
    wait.listens("new")
    assert wait.look() == ["WorkersFound"]
    assert str(wait.told[-1]) == "1 worker on queue q now"


def test_workers_that_are_lost_and_workers_that_stop(wait: Wait) -> None:
    for name in "abcd":
        wait.listens(name)
    assert wait.look() == []
    wait.listens("a", since=11.9)
    assert wait.look() == []
    wait.listens("a", since=12.0)
    wait.listens("b", since=30.0)
    del wait.workers["c"]
    assert wait.look() == ["WorkersLost"]
    assert str(wait.told[-1]).startswith("2 workers lost, 1 left")
    assert wait.look() == []
    wait.listens("a")
    assert wait.look() == []
    wait.listens("a", since=12.0)
    assert wait.look() == ["WorkersLost"]


def test_workers_that_are_sick(wait: Wait) -> None:
    wait.listens("a")
    wait.listens("b")
    assert wait.look() == []
    wait.listens("b", sick="/scratch: full: make room")
    assert wait.look() == ["WorkersSick"]
    assert str(wait.told[-1]) == "1 worker of queue q sick, 1 worker left; b: /scratch: full: make room"
    assert wait.look(AGAIN_SECONDS) == []
    wait.listens("a", sick="/tmp: full: make room")
    assert wait.look() == ["WorkersSick"]
    assert str(wait.told[-1]) == (
        "2 workers of queue q sick, none left: the job waits until one is well; a: /tmp: full: make room"
    )
    assert wait.look() == []
    assert wait.look(AGAIN_SECONDS) == ["WorkersSick"]
    wait.listens("a")
    assert wait.look() == []
    wait.listens("b")
    assert wait.look() == ["WorkersWell"]
    assert str(wait.told[-1]) == "no worker of queue q is sick any longer: 2 workers on it now"
    assert wait.look() == []


def failed(error: str, attempt: str) -> str:
    return encode(Failure(error=error, message="no answer", step=0, kind="map", task=3, attempt=attempt)).decode()


@pytest.mark.parametrize("error", ["StorageOutageError", "StorageUnreachableError"])
def test_a_storage_that_is_away_and_comes_back(error: str, wait: Wait) -> None:
    wait.fields["storage_patience"] = "600.0"
    wait.listens("a")
    assert wait.look() == []
    wait.fields["retrying"] = failed(error, "1-a")
    assert wait.look() == ["StorageLost"]
    assert str(wait.told[-1]) == (
        "storage not reachable for 0 s: waiting, at most 600 s (step 0, map task 3: no answer)"
    )
    wait.fields["retrying"] = failed(error, "2-a")
    assert wait.look() == []
    wait.now += AGAIN_SECONDS
    assert wait.look() == ["StorageLost"], "also where no task has come again meanwhile"
    assert str(wait.told[-1]).startswith("storage not reachable for 19 s: waiting, at most 600 s")
    wait.progress = 1
    assert wait.look() == ["StorageBack"]
    assert wait.look() == []


def test_other_retries_are_told_once_each(wait: Wait) -> None:
    wait.listens("a")
    wait.fields["retrying"] = failed("UserCodeError", "1-a")
    assert wait.look() == []  # it happened before this wait began
    wait.fields["retrying"] = failed("UserCodeError", "2-a")
    assert wait.look() == ["TaskRetried"]
    assert wait.look() == []


def test_events_are_records_for_programs() -> None:
    event = events.NoWorkers(job="j", at=1.0, queue="q", seconds=5.0)
    expected: dict[str, Any] = {"event": "no_workers", "v": 1, "job": "j", "at": 1.0, "queue": "q", "seconds": 5.0}
    assert msgspec.json.decode(msgspec.json.encode(event)) == expected
