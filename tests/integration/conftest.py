"""Real parts, shared by the session: a Redis server, an S3 endpoint and a fleet of two workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.support.s3_endpoint import s3_bucket, s3_endpoint
from tests.support.services import QUEUE, WORD_COUNT, Fleet, Quiet, RedisServer, redis_server, workers
from tests.support.traced import TRACED, Traced


@pytest.fixture(scope="session", autouse=True)
def no_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A developer's own settings must not reach the tests."""
    patch = pytest.MonkeyPatch()
    for name in os.environ:
        if name.startswith(("MRCELERY_", "CELERY_")):
            patch.delenv(name)
    patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def bucket(no_settings: None) -> Iterator[str]:
    with s3_endpoint(), s3_bucket() as name:
        yield name


@pytest.fixture(scope="session")
def broker(no_settings: None) -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="session")
def fleet_processes(broker: RedisServer, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with workers(folder, broker.tcp_url, 2, queue=QUEUE, concurrency=2) as started:
        yield Fleet(broker, started, folder)


@pytest.fixture
def fleet(fleet_processes: Fleet, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """The fleet; what its workers said meanwhile is shown where the test fails."""
    before = [worker.log.stat().st_size for worker in fleet_processes.workers]
    yield fleet_processes
    for worker, size in zip(fleet_processes.workers, before, strict=True):
        assert worker.process.poll() is None, "a worker died"
        print(worker.log.name, worker.log.read_bytes()[size:].decode(errors="replace"), sep="\n")


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[..., str]:
    """Writes a job file and returns its path."""

    def write(source: str, name: str = "job.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
        return str(path)

    return write


@pytest.fixture
def word_count(job_file: Callable[..., str]) -> str:
    return job_file(WORD_COUNT, "wc.py")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A small input."""
    path = tmp_path / "text.txt"
    path.write_text("a rose is a rose\nis a rose\n")
    return path


@pytest.fixture
def quiet(broker: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Quiet]:
    monkeypatch.setenv("MRCELERY_SCRATCH", str(tmp_path / "scratch"))
    quiet = Quiet(broker, tmp_path)
    yield quiet
    quiet.close()


@pytest.fixture
def traced(tmp_path: Path, job_file: Callable[..., str]) -> Traced:
    return Traced(tmp_path, job_file(TRACED))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that may be emptied and restarted."""
    with redis_server() as server:
        yield server
