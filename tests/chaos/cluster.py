"""A fleet of worker processes, each behind a separate network, and the operations on them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.link import Link, Network
from tests.chaos.plan import VISIBILITY
from tests.support.process_tree import stat
from tests.support.s3_endpoint import VARIABLE
from tests.support.services import RedisServer, Worker, environment

QUEUE = "chaos"
INSIDE = str(Path(__file__).parent / "inside")


class Member:
    """One worker's place in the fleet: its links, its folders, and the process that runs there now."""

    def __init__(self, number: int, processes: int, folder: Path, links: dict[str, Link], storage: str) -> None:
        self.number = number
        self.processes = processes
        self.folder = folder / f"worker-{number}"
        self.scratch = self.folder / "scratch"
        self.links = links
        self.gone: list[int] = []
        """Process groups of earlier workers in this place."""
        self._storage = storage
        self._lock = threading.Lock()
        self._stopped = False
        self._worker: Worker | None = None
        self.folder.mkdir()
        (self.folder / "tmp").mkdir()

    @property
    def pid(self) -> int:
        """Return the id of the main process, which is also the id of its process group."""
        assert self._worker is not None
        return self._worker.process.pid

    @property
    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def start(self) -> None:
        """Start a worker; it need not be ready when this returns."""
        variables = {
            "MRCELERY_VISIBILITY_TIMEOUT": f"{VISIBILITY:g}",
            "MRCELERY_SCRATCH": str(self.scratch),
            "MRCELERY_STORAGE": self._storage,
            "TMPDIR": str(self.folder / "tmp"),
            "CHAOS_TICKETS": str(self.folder.parent / "tickets"),
            "PYTHONPATH": os.pathsep.join([INSIDE, os.environ.get("PYTHONPATH", "")]),
        }
        if s3 := self.links.get("s3"):
            variables[VARIABLE] = f"http://127.0.0.1:{s3.port}"
        broker = f"redis://127.0.0.1:{self.links['redis'].port}/0"
        command = [sys.executable, "-m", "mrcelery", "worker", "--broker", broker, "--queue", QUEUE]
        command += ["-c", str(self.processes), "--", "--hostname", f"worker-{self.number}@chaos"]
        log = self.folder / f"{len(self.gone):02d}.log"
        self._worker = Worker(command, log, env=environment(**variables), cwd=self.folder)

    def signal(self, number: signal.Signals, *, whole: bool) -> None:
        """Send a signal to the main process, or to the whole worker."""
        with suppress(ProcessLookupError):
            (os.killpg if whole else os.kill)(self.pid, number)

    def kill_child(self, choice: float) -> None:
        """Send SIGKILL to one of the pool's processes."""
        children = sorted(set(group(self.pid)) - {self.pid})
        if children:
            with suppress(ProcessLookupError):
                os.kill(children[int(choice * len(children))], signal.SIGKILL)

    def replace(self, pid: int) -> bool:
        """Replace a worker that was killed or asked to end; return False while it still runs."""
        assert self._worker is not None
        with self._lock:
            if self._stopped or self.pid != pid:
                return True
            if self._worker.process.poll() is None:
                return False
            self.gone.append(pid)
            self.start()
            return True

    def alive(self) -> bool:
        return self._worker is not None and self._worker.process.poll() is None

    def orphans(self) -> list[int]:
        """Return the live processes of earlier workers."""
        return [pid for pgid in self.gone for pid in group(pgid)]

    def stop(self) -> None:
        with self._lock:
            self._stopped = True  # a driver that must end early still has faults to undo
        for pgid in self.gone:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pgid, signal.SIGKILL)
        if self._worker is not None:
            self._worker.stop()


def group(pgid: int) -> list[int]:
    """Return the processes of a group that have not ended."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            match stat(int(name))[:3]:
                case [state, _, its] if int(its) == pgid and state not in "ZX":
                    found.append(int(name))
    return found


@contextmanager
def fleet(count: int, processes: int, server: RedisServer, folder: Path, storage: str) -> Iterator[list[Member]]:
    """Start ``count`` workers with ``processes`` processes each, without waiting until they are ready."""
    for kind in ("writes", "commands"):
        (folder / "tickets" / kind).mkdir(parents=True)
    network = Network()
    members: list[Member] = []
    try:
        for number in range(count):
            links = {"redis": network.link(server.port)}
            if storage.startswith("s3://"):
                port = urlsplit(os.environ[VARIABLE]).port
                assert port is not None
                links["s3"] = network.link(port)
            members.append(Member(number, processes, folder, links, storage))
            members[-1].start()
        yield members
    finally:
        for member in members:
            member.stop()
        network.close()
