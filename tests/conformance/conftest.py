"""The storages that one suite runs against."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.connection import _RedisPy
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.jobstores import FIELDS, Open
from tests.support.s3_endpoint import s3_bucket, s3_endpoint
from tests.support.services import RedisServer, redis_server


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    with s3_endpoint(), s3_bucket() as name:
        yield name


@pytest.fixture(params=["memory", "folder", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty root."""
    if request.param == "memory":
        return f"memory://test-{os.urandom(6).hex()}"
    if request.param == "folder":
        return str(tmp_path / "root")
    return f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", "redis-tcp", "redis-socket", "redis-py"])
def connect(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Opens the store, each time as another client would."""
    if request.param == "memory":
        shared = MemoryJobStore()
        yield lambda: shared
        return
    server: RedisServer = request.getfixturevalue("server")
    opened: list[RedisJobStore] = []

    def connect() -> RedisJobStore:
        url = server.socket_url if request.param == "redis-socket" else server.tcp_url
        connection = _RedisPy(url) if request.param == "redis-py" else None
        opened.append(RedisJobStore(url, connection))
        return opened[-1]

    connect().call(("FLUSHALL",))
    yield connect
    for one in opened:
        one.close()


@pytest.fixture
def store(connect: Open) -> JobStore:
    return connect()


@pytest.fixture
def job(store: JobStore) -> str:
    assert store.create("job-1", FIELDS, b"request")
    return "job-1"
