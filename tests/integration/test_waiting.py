"""A waiting client reports what happens to the workers, which are real, and to a broker that stops and restarts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import mrcelery
from mrcelery import JobHandle, events
from tests.support.services import GATED, PATIENCE, Gate, RedisServer, environment, eventually, redis_server, workers

JobFile = Callable[..., str]
QUICK = {"MRCELERY_VISIBILITY_TIMEOUT": "4"}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server(appendonly="yes", appendfsync="always") as started:
        yield started


class Waiting(Thread):
    """Waits for a job and collects the events."""

    def __init__(self, handle: JobHandle) -> None:
        super().__init__(daemon=True)
        self.handle = handle
        self.told: list[events.Event] = []
        self.start()

    def run(self) -> None:
        self.handle.wait(2 * PATIENCE, on_event=self.told.append)

    def await_told(self, kind: type[events.Event]) -> Any:
        return eventually(lambda: next((e for e in self.told if type(e) is kind), None), f"{kind.__name__} is told")


def submit(server: RedisServer, job: str, gate: Gate, folder: Path) -> JobHandle:
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(folder / "storage"), "queue": "q"}
    return mrcelery.submit(job, str(gate.text), split_size=gate.split_size, reducers=1, **settings)


def test_a_wait_tells_of_broker_and_workers(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    with submit(server, job_file(GATED), gate, tmp_path) as handle:
        waiting = Waiting(handle)
        assert waiting.await_told(events.NoWorkers).queue == "q"
        with workers(tmp_path / "a", server.tcp_url, queue="q", env=QUICK) as (first,):
            assert waiting.await_told(events.WorkersFound).count == 1
            eventually(lambda: gate.starts() == 2, "both maps run")
            server.stop()
            assert waiting.await_told(events.BrokerLost).patience == 60
            server.start()
            waiting.await_told(events.BrokerBack)
            eventually(lambda: "leases are renewed again" in first.log.read_text(), "the worker is back")
            with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", env=QUICK) as (second,):
                # The waiting client, which polls every two seconds, knows both.
                eventually(lambda: len(waiting.handle._store.workers()) == 2, "both tell")  # type: ignore[union-attr]
                seen = waiting.handle._store.workers  # type: ignore[union-attr]
                eventually(lambda: min(age for age, _ in seen().values()) < 1, "they tell on")
                first.stop()
                lost = waiting.await_told(events.WorkersLost)
                assert (lost.count, lost.left) == (1, 1)
                gate.open()
                waiting.join(2 * PATIENCE)
                assert list(handle) == [("seen", 2)]
                second.process.terminate()
                assert second.process.wait(PATIENCE) is not None
                assert not [n for n in seen() if n.endswith("-1@here")]  # it has announced its stop


def test_the_command_tells(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    variables = {"MRCELERY_BROKER": server.tcp_url, "MRCELERY_STORAGE": str(tmp_path / "storage")}
    command = [sys.executable, "-m", "mrcelery", "submit", job_file(GATED), str(gate.text), "--queue", "q"]
    said = tmp_path / "said"
    with said.open("w") as err:
        client = subprocess.Popen(command, env=environment(**variables), stderr=err, stdout=subprocess.DEVNULL)
    eventually(lambda: "mrcelery: no worker has listened on queue q for" in said.read_text(), "it tells")
    server.stop()
    eventually(lambda: "mrcelery: broker not reachable for" in said.read_text(), "it tells")
    server.start()
    eventually(lambda: "mrcelery: broker is back" in said.read_text(), "it tells")
    gate.open()
    with workers(tmp_path / "a", server.tcp_url, queue="q", env=QUICK):
        assert client.wait(PATIENCE) == 0


def test_a_wait_may_begin_while_the_broker_is_away(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    gate.open()
    with submit(server, job_file(GATED), gate, tmp_path) as handle:
        server.stop()
        waiting = Waiting(handle)
        waiting.await_told(events.BrokerLost)
        server.start()
        with workers(tmp_path / "a", server.tcp_url, queue="q", env=QUICK):
            waiting.join(2 * PATIENCE)
            assert list(handle) == [("seen", 2)]
