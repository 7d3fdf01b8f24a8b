"""A fleet for a benchmark: a Redis or Valkey server on a Unix socket, and workers, in a temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.redis_server import find_server

START_SECONDS = 30


class Fleet(NamedTuple):
    """A running fleet.

    ``environment`` makes ``mrcelery`` use the fleet. ``workers`` and ``server`` are process ids; each process leads a
    session.
    """

    environment: dict[str, str]
    broker: str
    workers: tuple[int, ...]
    server: int

    @property
    def worker(self) -> int:
        """Return the first worker."""
        return self.workers[0]


@contextmanager
def fleet(processes: int, workers: int = 1) -> Iterator[Fleet]:
    """Start workers of ``processes`` processes, and wait until they have run a job; remove everything at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mrcelery-bench-"))
    address = folder / "redis.sock"
    broker = f"redis+socket://{address}"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_"))},
        "MRCELERY_BROKER": broker,
        "MRCELERY_STORAGE": str(folder / "storage"),
    }
    log = (folder / "log").open("wb")
    command = [find_server(), "--port", "0", "--unixsocket", str(address), "--save", "", "--dir", str(folder)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        _wait_for(broker)
        for number in range(workers):
            command = [sys.executable, "-m", "mrcelery", "worker", "-c", str(processes), "-n", f"w{number}@bench"]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True))
        subprocess.run(
            [sys.executable, "-m", "mrcelery", "hello"],
            env=environment,
            check=True,
            capture_output=True,
            timeout=START_SECONDS,
        )
        server, *others = (process.pid for process in started)
        yield Fleet(environment, broker, workers=tuple(others), server=server)
    finally:
        for process in reversed(started):
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(broker: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    store = RedisJobStore(broker)
    try:
        while True:
            try:
                store.call(("PING",))
                return
            except BrokerUnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
    finally:
        store.close()
