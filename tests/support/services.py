"""Real services for tests: a Redis or Valkey server, Celery workers, and the ``mrcelery`` command."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeVar

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from mrcelery import JobHandle
from mrcelery.errors import ConfigError, MRCeleryError
from mrcelery.jobstore.connection import connect
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.redis_server import find_server
from tests.support import guardian

T = TypeVar("T")

PATIENCE = 180.0
"""Seconds after which a condition that did not come true fails its test; many, since machines may be slow or busy."""


QUEUE = "fleet"

WORD_COUNT = """
    from mrcelery import MRJob

    class WordCount(MRJob):
        def mapper(self, _, line):
            self.increment_counter("text", "lines")
            for word in line.split():
                yield word, 1

        def combiner(self, word, counts):
            yield word, sum(counts)

        def reducer(self, word, counts):
            self.increment_counter("text", "words")
            yield word, sum(counts)
"""

GATED = """
    import os, time
    from mrcelery import MRJob

    class Gated(MRJob):
        def mapper(self, _, line):
            open(os.path.join(line, f"{os.getpid()}-{time.time_ns()}"), "w").close()
            while not os.path.exists(os.path.join(line, "go")):
                time.sleep(0.02)
            yield "seen", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""

YIELDING_GATED = """
    import os, time
    from mrcelery import MRJob

    class Gated(MRJob):
        def mapper(self, _, line):
            open(os.path.join(line, f"{os.getpid()}-{time.time_ns()}"), "w").close()
            while not os.path.exists(os.path.join(line, "go")):
                time.sleep(0.02)
                yield "waits", 0
            yield "seen", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


class Gate:
    """Tasks of :data:`GATED` record that they started, then wait in one call of their mapper until the gate opens."""

    def __init__(self, folder: Path, tasks: int) -> None:
        self._seen = folder / "seen"
        self._seen.mkdir()
        line = f"{self._seen}\n"
        self.text = folder / "gate.txt"
        self.text.write_text(line * tasks)
        self.split_size = len(line)

    def starts(self) -> int:
        """Return how many map tasks have started so far."""
        return sum(path.name != "go" for path in self._seen.iterdir())

    def pids(self) -> set[int]:
        """Return the ids of the processes that they started in."""
        return {int(path.name.partition("-")[0]) for path in self._seen.iterdir() if path.name != "go"}

    def open(self) -> None:
        (self._seen / "go").touch()


def eventually(condition: Callable[[], T | Literal[False] | None], what: str, seconds: float = PATIENCE) -> T:
    """Return the first true value of ``condition``; fail the test if none comes in time."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s still not so: {what}")
        time.sleep(0.02)


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it in CI, which must have every service."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing")


def free_port() -> int:
    """Choose a port that nothing listens on, for a server that has yet to start.

    It is not an ephemeral port, which the kernel may give to any connection meanwhile, and it is drawn by the system's
    generator, because processes that run tests in parallel seed Python's alike.
    """
    while True:
        port = secrets.choice(range(10_000, 32_000))
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """A server of our own, on a TCP port or (``port=0``) on a unix socket."""

    def __init__(self, folder: Path, port: int, settings: Mapping[str, str], command: Sequence[str] = ()) -> None:
        self.folder = folder
        self.socket = str(folder / "redis.sock")
        self.port = port
        self.command = [*(command or [find_server()]), "--port", str(port), "--unixsocket", self.socket]
        for name, value in {"dir": str(folder), "save": "", "appendonly": "no", **settings}.items():
            self.command += [f"--{name}", value]
        self.password = settings.get("requirepass", "")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def tcp_url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    @property
    def socket_url(self) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis+socket://{secret}{self.socket}"

    def start(self) -> None:
        with (self.folder / "redis.log").open("ab") as log:
            self.process = guardian.start(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {(self.folder / 'redis.log').read_text()}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        connection = connect(self.socket_url)
        try:
            return connection.call(("PING",)) == [b"PONG"]
        except MRCeleryError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        if self.process is not None:
            guardian.stop(self.process)
            self.process = None


@contextmanager
def redis_server(
    port: int | None = None,
    command: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
    **more: str,
) -> Iterator[RedisServer]:
    """Run a server; ``settings`` and ``more`` are as in its configuration file, with ``_`` for ``-``."""
    try:
        find_server()
    except ConfigError as e:
        missing(str(e))
    # Not pytest's folder: the path of a unix socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="mrc-"))
    given = {name.replace("_", "-"): value for name, value in {**settings, **more}.items()}
    server = RedisServer(folder, free_port() if port is None else port, given, command)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def files_under(folder: Path) -> list[Path]:
    """List all files under a folder while others may remove some, at which :meth:`Path.rglob` raises."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def processes_at(folder: Path) -> dict[int, str]:
    """Find processes that work in a folder, by their command line or ``TMPDIR``; return their command lines by id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                variables = (entry / "environ").read_bytes().decode(errors="replace")
                if f"{folder}" in line or f"TMPDIR={folder}\0" in variables:
                    found[int(entry.name)] = line
    return found


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, without what would configure mrcelery or Celery, plus ``more``."""
    # COLUMNS: pytest-xdist sets it in its processes; a test's terminal has its own width.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_")) and k != "COLUMNS"}
    return {**kept, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **more}


class Worker:
    """One worker process with its children; its log is in ``log``."""

    def __init__(self, command: Sequence[str], log: Path, **more: Any) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = guardian.start(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)

    def stop(self) -> None:
        guardian.stop(self.process)


@contextmanager
def workers(
    folder: Path,
    broker: str,
    numbers: int | range = 1,
    *,
    queue: str = "celery",
    concurrency: int = 2,
    extra: Sequence[str] = (),
    env: Mapping[str, str] = MappingProxyType({}),
    **variables: str,
) -> Iterator[list[Worker]]:
    """Start ``mrcelery worker`` processes and wait until they answer; kill them after the block.

    ``numbers`` is how many, or the numbers in their names, which must differ within a queue. ``extra`` are arguments
    for Celery, ``env`` and ``variables`` go into the environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = []
    if isinstance(numbers, int):
        numbers = range(numbers)
    try:
        for number in numbers:
            name = f"{queue}-{number}"
            command = [sys.executable, "-m", "mrcelery", "worker", "--broker", broker, "--queue", queue]
            command += ["-c", str(concurrency), "--", "--hostname", f"{name}@here", *extra]
            # TMPDIR: a worker that is killed leaves a folder behind
            own = {"MRCELERY_SCRATCH": str(folder / f"scratch-{name}"), "TMPDIR": str(folder)}
            its_env = environment(**own, **env, **variables)
            started.append(Worker(command, folder / f"{name}.log", env=its_env, cwd=folder))
        await_workers(broker, started, [f"{queue}-{number}@here" for number in numbers])
        yield started
    finally:
        for worker in started:
            worker.stop()


def await_workers(broker: str, started: Sequence[Worker], names: Sequence[str]) -> None:
    """Wait until the workers with these names answer."""
    from mrcelery.worker.app import make_app

    app = make_app(broker)

    def answer() -> bool:
        for worker in started:
            if worker.process.poll() is not None:
                pytest.fail(f"a worker ended: {worker.log.read_text()}")
        try:
            answers = app.control.ping(destination=list(names), timeout=0.5)
        except (RedisConnectionError, *app.connection().connection_errors):
            return False  # this process's own connection is older than the server, or a test has cut it
        return {name for one in answers for name in one} == set(names)

    try:
        eventually(answer, f"workers {', '.join(names)} answer")
    finally:
        app.close()


@dataclass
class Fleet:
    """A fleet's address, and what it takes to submit to it."""

    server: RedisServer
    workers: list[Worker]
    folder: Path

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of ``mrcelery.submit``."""
        storage = str(self.folder / "storage")
        return {"runner": "celery", "broker": self.server.tcp_url, "storage": storage, "queue": QUEUE}

    @property
    def env(self) -> dict[str, str]:
        """The same as environment variables, for the command line."""
        return environment(**{f"MRCELERY_{name.upper()}": value for name, value in self.settings.items()})


class Quiet:
    """A separate queue that no worker serves yet."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.name = f"quiet-{os.urandom(4).hex()}"
        self.store = RedisJobStore(server.tcp_url)
        from mrcelery.worker.app import make_app

        self.app = make_app(server.tcp_url)

    @property
    def settings(self) -> dict[str, Any]:
        storage = str(self.folder / "storage")
        return {"runner": "celery", "broker": self.server.tcp_url, "storage": storage, "queue": self.name}

    def raw(self) -> list[bytes]:
        """Return the raw messages on the queue, the next one first."""
        (found,) = self.store.call(("LRANGE", self.name, 0, -1))
        assert isinstance(found, list)
        return found[::-1]

    def messages(self) -> list[tuple[dict[str, Any], list[Any]]]:
        """Return the headers and decoded body of each message."""
        read = [json.loads(data) for data in self.raw()]
        for message in read:
            assert message["content-type"] == "application/json"
            assert message["properties"]["delivery_info"]["routing_key"] == self.name
        return [(m["headers"], json.loads(base64.b64decode(m["body"]))) for m in read]

    def take(self) -> list[bytes]:
        """Take all messages off the queue."""
        found = self.raw()
        self.store.call(("DEL", self.name))
        return found

    def run(self, task: str, /, **kwargs: Any) -> None:
        """Run one of the coordinator's tasks in this process; what it publishes stays on the queue."""
        self.app.tasks[task].apply(kwargs=kwargs, throw=True)

    def workers(
        self, concurrency: int = 2, *, env: Mapping[str, str] = MappingProxyType({}), **variables: str
    ) -> AbstractContextManager[list[Worker]]:
        """Start a worker for the queue."""
        folder = self.folder / "workers"
        env = {**env, **variables}
        return workers(folder, self.server.tcp_url, queue=self.name, concurrency=concurrency, env=env)

    def held(self) -> int:
        """Count the messages that workers of this queue hold."""
        (held,) = self.store.call(("HVALS", "unacked"))
        assert isinstance(held, list)
        return sum(self.name.encode() in message for message in held)

    def close(self) -> None:
        self.forget()
        self.store.close()
        self.app.close()

    def forget(self) -> None:
        """Forget what tasks that ran in this process left: another test may have other settings."""
        from mrcelery.worker.tasks import _open_jobs

        while _open_jobs:
            _open_jobs.popitem()[1].store.close()


def command(
    *args: str | Path, env: Mapping[str, str] | None = None, stdin: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would; return its exit code, stdout and stderr."""
    return subprocess.run(
        [sys.executable, "-m", "mrcelery", *map(str, args)],
        env=dict(env or environment()),
        input=stdin,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )


def results(handle: JobHandle) -> dict[Any, Any]:
    """Return a job's results; no key may come twice."""
    pairs = list(handle)
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


@contextmanager
def tls_redis_server(
    folder: Path, settings: Mapping[str, str] = MappingProxyType({}), **more: str
) -> Iterator[tuple[RedisServer, Path]]:
    """Run a server that speaks TLS on its port; yield it and its self-signed certificate."""
    program = next((path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))), None)
    if program is None or shutil.which("openssl") is None:
        missing("a redis-server with TLS, or openssl")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    given = {"tls_port": str(free_port()), "tls_cert_file": f"{folder}/cert.pem"}
    given |= {"tls_key_file": f"{folder}/key.pem", "tls_auth_clients": "no", **settings, **more}
    try:
        with redis_server(0, [program], given) as server:
            server.port = int(given["tls_port"])
            yield server, folder / "cert.pem"
    except RuntimeError as e:
        pytest.skip(f"this server has no TLS: {e}")
