"""The local runner: a cluster on this machine that lives as long as its client.

It consists of a Celery worker with N processes and the Redis (or Valkey) server that it starts, on a unix socket, in a
temporary folder. Nothing of it outlives the client, however the client ends: the worker holds the read end of a pipe
whose write end only the client has, and shuts everything down at end of file (:mod:`mrcelery.worker.local_worker`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mrcelery.config import Config
from mrcelery.errors import BrokerUnreachableError, MRCeleryError
from mrcelery.jobstore.messages import start_message
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.enter import enter
from mrcelery.runners.redis_server import find_server, stop_server
from mrcelery.runners.server_process import SERVER_STATUS
from mrcelery.schema import object_keys
from mrcelery.schema.structs import Request
from mrcelery.storage import open_storage

START_SECONDS = 20.0
STOP_SECONDS = 3.0
PREFIX = "mrcelery-local-"
_RUN = """import sys
sys.path.append(sys.argv.pop(1))
from mrcelery.worker.local_worker import main
main(sys.argv[1:])"""
"""Runs :mod:`mrcelery.worker.local_worker`; the first argument is this package's folder, if it is not installed."""

PLAIN = "/tmp"
"""Where links to temporary folders with long or unusual paths are made."""

LONGEST_PATH = 100
"""Longest socket path in bytes: Linux allows 107, macOS 103."""

LITTLE_MEMORY = 256 << 20


class LocalRunner:
    """Starts the cluster; :meth:`close` (or the end of this process) stops it and removes its data.

    ``workers`` processes run tasks. Without a ``storage`` the data is in the temporary folder. The modules ``preload``,
    if installed, are imported once, before the processes are forked. ``memory`` is a task's memory limit in bytes.
    Raises :class:`ConfigError` if there is no Redis or Valkey server to start.
    """

    patience = 0.0

    def __init__(
        self, workers: int, storage: str | None = None, preload: Sequence[str] = (), memory: int = 512 << 20
    ) -> None:
        _sweep()
        self._real = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._folder = _plain(self._real)
        self._lock = (self._folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # held while this process lives, so that others do not sweep the folder
        self.storage = storage or str(self._folder / "storage")
        self.broker = f"redis+socket://{self._folder / 'redis.sock'}"
        self.store = RedisJobStore(self.broker)
        self._lifeline = -1
        self._submitted: list[Request] = []
        self._worker: subprocess.Popen[bytes] | None = None
        try:
            self._worker = self._start_worker(workers, preload, memory)
        except BaseException:
            self.close()
            raise

    def _start_worker(self, workers: int, preload: Sequence[str], memory: int) -> subprocess.Popen[bytes]:
        server = find_server()
        read_end, self._lifeline = os.pipe()
        command = [
            sys.executable,
            "-P",  # do not import a celery.py or a random.py from the current folder
            "-c",
            _RUN,
            str(Path(__file__).parents[2]),
            str(self._folder),
            str(workers),
            str(read_end),
            server,
            self.storage,
            *preload,
        ]
        # Celery settings in the client's environment must not affect the cluster.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CELERY_")}
        environment["MRCELERY_BROKER"] = self.broker
        # Temporary files that killed pool processes and user code leave behind are removed with the folder.
        environment["TMPDIR"] = str(self._folder)
        if memory < LITTLE_MEMORY:
            # Arrow's allocator returns memory late, which is faster but holds too much here.
            environment.setdefault("MIMALLOC_PURGE_DELAY", "0")
        environment.pop("MRCELERY_RESULT_BACKEND", None)
        environment.pop("MRCELERY_SIGNING_KEY", None)
        try:
            with (self._folder / "worker.log").open("wb") as log:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(read_end,),
                    env=environment,
                    start_new_session=True,  # the client handles Ctrl-C
                )
        finally:
            os.close(read_end)

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            self.check()
            if time.monotonic() > deadline:
                raise MRCeleryError(f"the embedded Redis did not start: {self._tail('redis.log') or 'no reason given'}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            self.store.call(("PING",))
        except BrokerUnreachableError:
            return False
        return True

    def _tail(self, name: str) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / name).read_text(errors="replace").strip().splitlines()
            return " / ".join(lines[-3:])
        return ""

    def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
        """Start the job on the cluster."""
        self._wait_for_server()
        self._submitted.append(request)
        enter(self.store, request, envelope, code, blobs)
        self.start(request.job, request.options.queue)

    def start(self, job: str, queue: str, generation: int = 0) -> None:
        """Start or resume a registered job."""
        self.store.push(queue, start_message(job, queue, generation))

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        """Return False: the server loses nothing while it lives, and the cluster ends with it."""
        return False

    def check(self) -> None:
        """Raise :class:`MRCeleryError` if the server or the worker has died."""
        for name, status in (("redis", self._tail(SERVER_STATUS)), ("worker", self._worker and self._worker.poll())):
            if status not in ("", None):
                raise MRCeleryError(f"the embedded {name} ended with status {status}: {self._tail(name + '.log')}")

    def close(self) -> None:
        """Stop the cluster, and remove its folder and the data of unfinished jobs."""
        unfinished = self._unfinished()
        self._report_failed()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._worker is not None:
            self._kill(self._worker)
        self.store.close()
        for request in unfinished:
            with contextlib.suppress(MRCeleryError):
                _discard(request)
        shutil.rmtree(self._real, ignore_errors=True)
        if self._folder != self._real:
            self._folder.unlink(missing_ok=True)
        self._lock.close()

    def _kill(self, worker: subprocess.Popen[bytes]) -> None:
        # The whole group at once, with SIGKILL: only committed work counts, and the storage and the broker end, too. If
        # the worker has died, the server that it started may be left in the group.
        if worker.poll() is None or self._answers():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while self._answers() and time.monotonic() < deadline:  # not our child, so we cannot wait for it
            time.sleep(0.001)

    def _report_failed(self) -> None:
        """Write the reports of failed jobs that the worker, which ends now, has not written yet."""
        for request in self._submitted:
            with contextlib.suppress(MRCeleryError):
                if self.store.state(request.job) != "failed":
                    continue
                if open_storage(request.storage).stat(object_keys.report(request.job)) is None:
                    # Imported here: few local runs need it.
                    from mrcelery.reporting.report import write_report  # noqa: PLC0415 - few jobs fail

                    write_report(self.store, request.job, Config.load({}).signing_key or None)

    def _unfinished(self) -> list[Request]:
        """List jobs that nobody can resume once the cluster is gone; not failed ones, whose data shows why."""
        found = []
        for request in self._submitted:
            with contextlib.suppress(BrokerUnreachableError):  # the cluster has died: the remaining data may show why
                if self.store.state(request.job) not in ("succeeded", "failed"):
                    found.append(request)
        return found


def _plain(folder: Path) -> Path:
    """Return the folder, or a link to it whose path suits a socket: short, without characters that URLs quote."""
    path = os.fsencode(folder / "redis.sock")
    if len(path) <= LONGEST_PATH and re.fullmatch(rb"[A-Za-z0-9_./-]+", path):
        return folder
    link = Path(PLAIN, folder.name)
    link.symlink_to(folder)
    return link


def _discard(request: Request) -> None:
    """Remove all data of a job, including files half written by killed processes."""
    # Imported here: few local runs need it.
    from mrcelery.coordinator.output_commit import withdraw  # noqa: PLC0415 - few jobs end unfinished

    storage, root = open_storage(request.storage), object_keys.job_root(request.job)
    withdraw(storage, request.job, request.output)
    storage.delete(info.key for info in storage.list(root))
    if (path := storage.local_path(root.rstrip("/"))) is not None:
        shutil.rmtree(path, ignore_errors=True)


def _sweep() -> None:
    """Remove the folders of local runners whose clients are dead."""
    for link in Path(PLAIN).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if link.is_symlink() and link.lstat().st_uid == os.geteuid() and not link.exists():
                link.unlink()
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # removed meanwhile, or its client is alive
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(OSError, ValueError):
                    stop_server(folder)
                shutil.rmtree(folder, ignore_errors=True)
