"""Tests that are killed leave none of their servers and workers behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore.redis import RedisJobStore
from tests.support import guardian
from tests.support.services import eventually, processes_at

TESTS = """
import sys
from pathlib import Path
from tests.support.services import redis_server, workers

with redis_server() as server, workers(Path(sys.argv[1]), server.tcp_url):
    print(server.tcp_url, flush=True)
    sys.stdin.read()
"""


def answers(broker: str) -> bool:
    with closing(RedisJobStore(broker)) as store:
        try:
            return store.call(("PING",)) == [b"PONG"]
        except BrokerUnreachableError:
            return False


def test_a_run_that_is_killed(tmp_path: Path) -> None:
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes are found in /proc")
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = guardian.start(
        [sys.executable, "-c", TESTS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    broker = run.stdout.readline().strip()

    def left() -> set[int]:
        return processes_at(tmp_path).keys() - {run.pid}

    assert len(left()) == 1 + 2, "a worker with two processes"
    assert answers(broker)
    os.kill(run.pid, signal.SIGKILL)
    eventually(lambda: not left() and not answers(broker), "all are gone")
    run.communicate()
    guardian.stop(run)
