"""What a hostile case runs on: a fleet with its Redis and its storage, and faults of the chaos suite."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from textwrap import dedent
from typing import Any

import mrcelery
from mrcelery import JobHandle
from mrcelery.jobstore.redis import RedisJobStore
from tests.chaos import chaos_jobs
from tests.chaos.cluster import QUEUE, Member, fleet
from tests.chaos.faults import Injector
from tests.chaos.plan import FAULTS, Fault
from tests.support.s3_endpoint import s3_bucket, s3_endpoint
from tests.support.s3_proxy import Log, proxy
from tests.support.services import RedisServer, command, environment, redis_server

WORKERS, PROCESSES = 2, 2
TASKS = 8

MILD = ("child killed", "worker killed", "connections killed", "network refused", "worker paused")
"""Faults of the chaos suite that may occur in a case in addition to its own."""


class Wrong(AssertionError):
    """The product did something it must not do."""


class Ground:
    """A fleet of two workers with two processes each, for one case.

    ``random`` draws everything that the case leaves open. ``patience`` multiplies all timeouts.
    """

    def __init__(self, folder: Path, random: Random, stack: ExitStack, patience: float) -> None:
        self.folder, self.random, self.patience = folder, random, patience
        self.said: list[str] = []
        """Descriptions of what was drawn."""
        self.members: list[Member] = []
        self.log: Log | None = None
        self.stack = stack
        self._number = 0

    def say(self, what: str) -> None:
        """Note what was drawn, for the table and for reproducing the case."""
        self.said.append(what)

    def start(self, *, s3: bool = False, prepare: Callable[[Path], None] | None = None) -> None:
        """Start Redis, storage (S3 behind a proxy, or a folder) and the fleet.

        ``prepare`` is called with the first worker's scratch folder before any task arrives.
        """
        if s3:
            self.stack.enter_context(s3_endpoint())
            root = f"s3://{self.stack.enter_context(s3_bucket())}"
            self.log = self.stack.enter_context(proxy())
        else:
            root = str(self.folder)
        self.root, self.storage = root, f"{root}/storage"
        self.server: RedisServer = self.stack.enter_context(redis_server(appendonly="yes"))
        self.store = RedisJobStore(self.server.socket_url)
        self.stack.callback(self.store.close)
        self.members = self.stack.enter_context(fleet(WORKERS, PROCESSES, self.server, self.folder, self.storage))
        if prepare is not None:
            prepare(self.members[0].scratch)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the settings of a client of the fleet."""
        return {"broker": self.server.tcp_url, "storage": self.storage, "queue": QUEUE}

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a command of the fleet."""
        return environment(
            MRCELERY_BROKER=self.server.tcp_url, MRCELERY_STORAGE=self.storage, MRCELERY_QUEUE=QUEUE, **more
        )

    def cli(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the fleet; return its exit code and output."""
        return command(*args, env=self.environment())

    def job(self, text: str) -> str:
        """Write a job file, and return its path."""
        self._number += 1
        path = self.folder / f"job_{self._number}.py"
        path.write_text(dedent(text))
        return str(path)

    def lines(self, lines: Sequence[str]) -> dict[str, Any]:
        """Write an input with one line for each map task; return it and the matching split size as options."""
        self._number += 1
        path, width = self.folder / f"input_{self._number}.txt", max(map(len, lines))
        path.write_text("".join(f"{line.ljust(width)}\n" for line in lines))
        return {"inputs": str(path), "split_size": width + 1}

    def submit(self, job: str, **options: Any) -> JobHandle:
        """Submit a job to the fleet."""
        inputs, output = options.pop("inputs"), options.pop("output", None)
        return mrcelery.submit(job, inputs, output, runner="celery", **{**self.settings, **options})

    def pairs(self, handle: JobHandle, seconds: float = 60.0) -> list[tuple[Any, Any]]:
        """Wait for a job; return its sorted results."""
        handle.wait(seconds * self.patience)
        return sorted(handle.results(), key=repr)

    def run(self, job: str, **options: Any) -> list[tuple[Any, Any]]:
        """Run a job; return its sorted results."""
        with self.submit(job, **options) as handle:
            return self.pairs(handle)

    def until(self, condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
        """Wait for a condition; raise :class:`Wrong` if it does not come true."""
        deadline = time.monotonic() + seconds * self.patience
        while not condition():
            if time.monotonic() > deadline:
                raise Wrong(f"after {seconds * self.patience:.0f} s still not so: {what}")
            time.sleep(0.02)

    @contextmanager
    def trouble(self, seconds: float) -> Iterator[None]:
        """Draw one of the mild faults, or none, and inject it while the block runs, which takes about ``seconds``."""
        if self.random.random() < 0.5:
            yield
            return
        kind = self.random.choice(MILD)
        least, most = FAULTS[kind]
        fault = Fault(kind, self.random.uniform(0, 0.8), self.random.uniform(least, most), 1, self.random.random())
        self.say(str(fault))
        injector = Injector((fault,), self.members, self.server, None, self.folder / "tickets")
        injector.start(seconds)
        try:
            yield
        finally:
            injector.job_has_ended()
            injector.finish()

    @contextmanager
    def words(self, **options: Any) -> Iterator[tuple[JobHandle, list[tuple[Any, Any]]]]:
        """Submit a word count that takes some seconds; yield its handle and the expected results."""
        jobs = self.folder / "chaos_jobs.py"
        shutil.copy(chaos_jobs.__file__, jobs)
        lines = [" ".join(self.random.choices(["a", "rose", "is", "a", "rose"], k=6)) for _ in range(TASKS)]
        slow = [f"{chaos_jobs.SLEEP} 0.5"] * 4
        counted = Counter(word for line in lines for word in line.split())
        text = self.lines([*lines, *slow])
        with self.submit(f"{jobs}:WordCount", **{**text, "reducers": 2, "speculative": False, **options}) as handle:
            yield handle, sorted(counted.items(), key=repr)


def check(found: object, expected: object, what: str) -> None:
    """Raise :class:`Wrong` if two things differ."""
    if found != expected:
        raise Wrong(f"{what}: {found!r} is not {expected!r}"[:2000])


@contextmanager
def meanwhile(seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Begin something now, and end it after ``seconds``, from a thread; wait for that at the end of the block."""
    begin()
    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.join()
