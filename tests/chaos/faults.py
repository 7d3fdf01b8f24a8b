"""Faults as they happen: each begins at its time, lasts for its duration, and is undone."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mrcelery.errors import MRCeleryError
from mrcelery.jobstore.redis import RedisJobStore
from tests.chaos.cluster import Member
from tests.chaos.plan import TICKETS, Fault
from tests.support.s3_proxy import Asked, Log
from tests.support.s3_proxy import Fault as Refusal
from tests.support.services import RedisServer


class S3Faults:
    """Decides about each request while a fault of S3 lasts.

    Every third request meets the fault, and the next request to the same object does not, as if S3 had recovered.
    """

    def __init__(self, log: Log) -> None:
        log.fault = self._decide
        self._lock = threading.Lock()
        self._active: dict[str, Counter[tuple[str, str]]] = {}
        self._met = 0
        self.damaged = ""

    def begin(self, kind: str) -> None:
        with self._lock:
            self._active[kind] = Counter()

    def end(self, kind: str) -> None:
        with self._lock:
            self._active.pop(kind, None)

    def end_all(self) -> None:
        """End all faults, damage to objects included, so that they do not affect the next job."""
        with self._lock:
            self._active.clear()

    def _decide(self, asked: Asked) -> Refusal | None:
        with self._lock:
            for kind, seen in self._active.items():
                if kind == "S3 damages an object":
                    if fault := self._damage(asked):
                        return fault
                    continue
                which, fault = _REQUESTS[kind]
                if not which(asked):
                    continue
                self._met += 1
                seen[asked.method, asked.key] += 1
                if self._met % 3 == 0 and seen[asked.method, asked.key] % 2:
                    return fault
        return None

    def _damage(self, asked: Asked) -> Refusal | None:
        """Damage all further reads of one object that a map task wrote."""
        if not (_reads_data(asked) and "/step-0/map-" in asked.key):
            return None
        self.damaged = self.damaged or asked.key
        return Refusal(flip=True) if asked.key == self.damaged else None


def _reads(asked: Asked) -> bool:
    return asked.method == "GET" and asked.billed == "GET"


def _reads_data(asked: Asked) -> bool:
    return _reads(asked) and "/step-" in asked.key and asked.key.rpartition("/")[2].startswith(("part-", "run."))


_REQUESTS: dict[str, tuple[Callable[[Asked], bool], Refusal]] = {
    "S3 fails": (lambda asked: True, Refusal(500, "InternalError")),
    "S3 throttles": (lambda asked: True, Refusal(503, "SlowDown")),
    "S3 loses answers": (lambda asked: asked.method in ("GET", "PUT", "HEAD"), Refusal(reset=True)),
    "S3 cuts bodies off": (_reads, Refusal(keep=0.5)),
    "S3 is slow": (_reads, Refusal(pieces=5, pause=0.1)),
    "S3 sends wrong bits": (_reads_data, Refusal(flip=True)),
}


class Injector:
    """Injects the faults of a plan, from a separate thread."""

    def __init__(
        self,
        faults: tuple[Fault, ...],
        members: list[Member],
        server: RedisServer,
        s3: S3Faults | None,
        tickets: Path,
    ) -> None:
        self._members = members
        self._server = server
        self._s3 = s3
        self._faults = faults
        self._tickets = tickets
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.done: list[Fault] = []
        self.said: list[str] = []
        self.error: BaseException | None = None

    def start(self, undisturbed: float) -> None:
        """Start the clock; the times of faults are shares of the undisturbed run's seconds."""
        self._thread = threading.Thread(target=self._run, args=(time.monotonic(), undisturbed), name="faults")
        self._thread.start()

    def job_has_ended(self) -> None:
        """Begin no further fault."""
        self._over.set()

    def finish(self) -> None:
        """Wait until all faults are undone."""
        assert self._thread is not None
        self._thread.join(120)
        for kind, (name, _) in TICKETS.items():
            left = sorted((self._tickets / name).iterdir())
            for ticket in left:
                ticket.unlink(missing_ok=True)
            if left:  # the job ended before it reached that operation
                self.done = [fault for fault in self.done if fault.kind != kind]
        if self._s3 is not None:
            self._s3.end_all()
        if self.error is not None:
            raise self.error

    def _run(self, began: float, undisturbed: float) -> None:
        try:
            events: list[tuple[float, int, Fault | Callable[[], object]]]
            events = [(began + f.at * undisturbed, order, f) for order, f in enumerate(self._faults)]
            while events:
                events.sort(key=lambda event: event[:2])
                at, order, what = events.pop(0)
                self._wait(at, fault=isinstance(what, Fault))
                if not isinstance(what, Fault):
                    if what() is False:  # not yet
                        events.append((time.monotonic() + 0.1, order, what))
                elif not self._over.is_set():
                    self.said.append(f"{time.monotonic() - began:6.2f} s: {what}")
                    self.done.append(what)
                    if (after := self._begin(what)) is not None:
                        events.append((time.monotonic() + what.seconds, order, after))
        except BaseException as e:
            self.error = e

    def _wait(self, until: float, *, fault: bool) -> None:
        left = max(0.0, until - time.monotonic())
        if fault:
            self._over.wait(left)
        else:
            time.sleep(left)

    def _begin(self, fault: Fault) -> Callable[[], object] | None:
        """Begin a fault; return the function that undoes it after its seconds."""
        if fault.kind in TICKETS:
            number, when = fault.operation
            folder = self._tickets / TICKETS[fault.kind][0]
            for ticket in range(number - 1):
                (folder / f"{ticket:03d}-").touch()
            (folder / f"{number:03d}-{when}").touch()
            return None
        if fault.kind.startswith("S3"):
            assert self._s3 is not None
            self._s3.begin(fault.kind)
            return partial(self._s3.end, fault.kind) if fault.kind != "S3 damages an object" else None
        if fault.target >= 0:
            return self._on_worker(fault, self._members[fault.target])
        if fault.kind.startswith("Redis restarted"):
            self._server.stop()
            return self._server.start
        self._tell_redis(("FLUSHALL",) if fault.kind == "Redis flushed" else None)
        return None

    def _on_worker(self, fault: Fault, member: Member) -> Callable[[], object] | None:
        kind = fault.kind
        if kind == "child killed":
            member.kill_child(fault.choice)
            return None
        if kind == "worker killed":
            member.signal(signal.SIGKILL, whole=True)
            return partial(member.replace, member.pid)
        if kind == "main process killed":
            member.signal(signal.SIGKILL, whole=False)
            return partial(member.replace, member.pid)
        if kind == "worker asked to stop":
            member.signal(signal.SIGTERM, whole=False)
            return partial(member.replace, member.pid)
        if kind.startswith("worker paused"):
            member.signal(signal.SIGSTOP, whole=True)
            return partial(member.signal, signal.SIGCONT, whole=True)
        links = list(member.links.values())
        for link in links:
            link.refuse() if kind == "network refused" else link.hush()
        broken = fault.choice < 0.5

        def restore() -> None:
            for link in links:
                link.restore(broken=broken)

        return restore

    def _tell_redis(self, command: tuple[str, ...] | None) -> None:
        store = RedisJobStore(self._server.socket_url)
        kill = [("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")]
        try:
            store.call(*([command] if command else kill))
        except MRCeleryError:
            pass  # another fault has stopped Redis, so there is nothing to flush or to disconnect
        finally:
            store.close()
