"""OUTPUT belongs to its current owner: a process stopped anywhere in the last step harms no later owner."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from mrcelery.coordinator.output_commit import publish, withdraw
from mrcelery.errors import MRCeleryError
from mrcelery.jobstore.base import generation_of
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.reporting.report import Report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Part, Totals
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage
from tests.support.services import RedisServer

CHANGES = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir")
"""Audit events that a process raises right before it reads or changes the file system."""


def stop_at(storage: Storage, number: int) -> None:
    """Stop this process right before its call ``number`` (from 0) to the storage."""
    count, lock = [0], threading.Lock()

    def called() -> None:
        with lock:
            count[0] += 1
            if count[0] == number + 1:
                os.kill(os.getpid(), signal.SIGSTOP)

    if not storage.uri.startswith("s3:"):
        root = storage.uri

        def hook(event: str, args: tuple[Any, ...]) -> None:
            if event in CHANGES and any(isinstance(a, (str, Path)) and str(a).startswith(root) for a in args):
                called()

        sys.addaudithook(hook)
        return
    from mrcelery.storage.s3 import S3Storage

    call = S3Storage._call

    def watched(self: S3Storage, *args: Any, **params: Any) -> Any:
        if self.uri == storage.uri:  # each process has an object of its own
            called()
        return call(self, *args, **params)

    S3Storage._call = watched  # type: ignore[method-assign]


class Place:
    """A storage and an OUTPUT, for jobs that are recorded in a real job store."""

    def __init__(self, root: str, url: str) -> None:
        self.url = url
        self.storage = open_storage(f"{root}/storage")
        self.uri = f"{root}/out"
        self.output = open_storage(self.uri)
        self.on_s3 = root.startswith("s3:")
        self.token = os.urandom(4).hex()
        self.parts: dict[str, list[bytes]] = {}
        self.store = RedisJobStore(url)
        self.children: set[int] = set()
        self.step = 5 if self.on_s3 else 1  # calls to S3 are slow, so only some are tested
        self.first = random.randrange(self.step)

    def job(self, name: str, parts: list[bytes]) -> str:
        job = f"{name}-{self.token}"
        self.parts[job] = parts
        for number, data in enumerate(parts):
            self.storage.write(f"jobs/{job}/{number}", data)
        self.store.create(job, {}, b"")
        self.store.move(job, "running")
        return job

    def publish(self, job: str, overwrite: bool = False, store: RedisJobStore | None = None) -> None:
        data = self.parts[job]
        parts = {f"part-{n:05d}": Part(n, f"jobs/{job}/{n}", len(part), 1, crc32(part)) for n, part in enumerate(data)}
        report = Report(
            job=job, name=job, state="succeeded", counters={}, totals=Totals(), started=1.0, finished=2.0, seconds=1.0,
            output=self.uri, parts=tuple(parts), generation=generation_of(self.store.fields(job)),
        )  # fmt: skip
        publish(store or self.store, self.storage, JobSeal(job), self.uri, parts, lambda: report, overwrite=overwrite)

    def withdraw(self, job: str, store: RedisJobStore | None = None) -> None:
        withdraw(self.storage, job, self.uri, lambda: (store or self.store).state(job) in ("failed", "cancelled"))

    def clear(self) -> None:
        self.output.delete([info.key for info in self.output.list()])

    def check(self, job: str) -> None:
        """Check that OUTPUT holds what this job has published, and nothing else."""
        found = {info.key: self.output.read(info.key) for info in self.output.list()}
        assert decode(found.pop("_SUCCESS"), Report).job == job
        assert found == {f"part-{number:05d}": data for number, data in enumerate(self.parts[job])}

    def stopped(self, number: int, action: Callable[[RedisJobStore], object]) -> int:
        """Run in a child process until it stops before call ``number``; return its pid, or 0 if it ran to its end."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # idle threads of ours, since Python 3.12
            child = os.fork()
        if not child:
            try:
                store = RedisJobStore(self.url)
                stop_at(self.output, number)
                with suppress(MRCeleryError):
                    action(store)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return 0
        self.children.add(child)
        return child

    def end(self, child: int, how: signal.Signals = signal.SIGCONT) -> None:
        """Let a stopped process run to its end, or kill it."""
        assert child
        self.children.remove(child)
        os.kill(child, how)
        os.waitpid(child, 0)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, broker: RedisServer) -> Iterator[Place]:
    root = str(tmp_path)
    if request.param == "s3":
        root = f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"
    place = Place(root, broker.tcp_url)
    yield place
    place.store.close()
    for child in place.children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def old(place: Place) -> list[bytes]:
    """Replace OUTPUT with three parts of an older job; return them."""
    place.clear()
    place.token = os.urandom(4).hex()
    parts = [b"old %d" % number for number in range(3)]
    for number, data in enumerate(parts):
        place.output.write(f"part-{number:05d}", data)
    place.output.write("_SUCCESS", b"{}")
    return parts


@pytest.mark.parametrize(
    ("mine", "ending"), [("more parts", "overwritten"), ("fewer parts", "taken back"), ("fewer parts", "cleaned")]
)
def test_a_job_is_cancelled_while_it_publishes_and_another_one_publishes(place: Place, mine: str, ending: str) -> None:
    number = place.first
    while True:
        left = old(place)
        # Some parts equal those that were there before, byte for byte, so no checksum distinguishes them.
        others = [b"B 0"] if mine == "more parts" else [b"B 0", *left[1:]]
        a, b = place.job("a", [b"A 0", b"A 1"]), place.job("b", others)
        child = place.stopped(number, partial(place.publish, a, True))
        if not child:
            place.check(a)
            break
        place.store.move(a, "cancelled")
        if ending == "taken back":
            place.withdraw(a)
        elif ending == "cleaned":
            place.storage.delete([info.key for info in place.storage.list(object_keys.job_root(a))])
            place.store.drop(a)
        place.publish(b, overwrite=True)
        place.check(b)
        place.end(child)
        place.check(b)
        number += place.step
    assert number > 10


@pytest.mark.parametrize("before", ["half of it", "all of it"])
def test_what_a_job_published_is_taken_back_while_another_one_publishes(place: Place, before: str) -> None:
    number = place.first
    while True:
        left = old(place)
        a, b = place.job("a", [b"A 0", left[1]]), place.job("b", [b"B 0", *left[1:]])
        if before == "half of it":
            child = place.stopped(18 if place.on_s3 else 24, partial(place.publish, a, True))
            place.end(child, signal.SIGKILL)
            half = [info.key for info in place.output.list("part-")]
            assert "part-00000" in half
            assert place.output.stat("_SUCCESS") is None
        else:
            place.publish(a, overwrite=True)
        place.store.move(a, "cancelled")
        child = place.stopped(number, partial(place.withdraw, a))
        if not child:
            assert [info.key for info in place.output.list()] == []
            break
        place.publish(b, overwrite=True)
        place.end(child)
        place.check(b)
        number += place.step
    assert number > 5


@pytest.mark.parametrize("what", ["publish", "withdraw"])
def test_a_job_is_retried_and_ends_before_the_process_goes_on(place: Place, what: str) -> None:
    number = place.first
    while True:
        place.clear()
        place.token = os.urandom(4).hex()
        a = place.job("a", [b"A 0", b"A 1"])
        if what == "withdraw":
            place.publish(a)
            place.store.move(a, "failed")
        act = partial(place.publish, a, False) if what == "publish" else partial(place.withdraw, a)
        child = place.stopped(number, act)
        if not child:
            break
        if what == "publish":
            place.store.move(a, "failed")
            place.withdraw(a)
        assert place.store.revive(a)
        place.store.move(a, "running")
        place.parts[a] = [b"again"]
        place.storage.write(f"jobs/{a}/0", b"again")
        with suppress(MRCeleryError):
            place.publish(a, overwrite=True)
        place.check(a)
        place.end(child)
        place.check(a)
        number += place.step
    assert number > 5


def test_a_job_that_is_cancelled_before_it_has_replaced_anything_leaves_what_was_there(place: Place) -> None:
    old(place)
    there = [info.key for info in place.output.list()]
    a = place.job("a", [b"A"])
    place.store.move(a, "cancelled")
    with pytest.raises(MRCeleryError):
        place.publish(a, overwrite=True)
    place.withdraw(a)
    assert [info.key for info in place.output.list()] == there
