"""The chart's Redis as its pod starts it, and whole jobs as the user that mrcelery has there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import redis

import mrcelery
from tests.chart.chart_pods import ChartRedis
from tests.chart.chart_rendering import render
from tests.support.services import GATED, WORD_COUNT, Gate, command, environment, eventually, workers

QUEUE = "batch"
SETTINGS = [f'workers.queue="{QUEUE}"', 'storage="s3://bucket/prefix"']


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChartRedis]:
    started = ChartRedis(render(sets=SETTINGS), tmp_path_factory.mktemp("redis"))
    try:
        yield started
    finally:
        started.stop()


def test_nobody_comes_in_without_the_password(server: ChartRedis) -> None:
    guesses: list[dict[str, Any]] = [{}, {"username": "mrcelery", "password": "guess"}]
    for more in guesses:
        with redis.Redis(port=server.port, **more) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    server.admin.acl_log_reset()


@pytest.mark.parametrize(
    "words",
    [
        "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "KEYS *", "SHUTDOWN", "ACL LIST", "MONITOR",
        "REPLICAOF localhost 1", "SAVE", "MODULE LIST", "SCRIPT FLUSH", "CLIENT LIST", "FUNCTION LIST",
        "GET other", "LPUSH other x", "SUBSCRIBE other", "EVAL return(redis.call('GET','other')) 0",
        "EVAL return(redis.call('FLUSHALL')) 0",
    ],
)  # fmt: skip
def test_the_user_may_do_nothing_else(server: ChartRedis, words: str) -> None:
    with (
        redis.Redis.from_url(server.url) as client,
        pytest.raises(redis.ResponseError, match=r"(?i)no permission"),
    ):
        client.execute_command(*words.split())
    server.admin.acl_log_reset()


def test_redis_keeps_its_queue_and_evicts_nothing(server: ChartRedis) -> None:
    told = server.admin.config_get("appendonly", "maxmemory-policy", "maxmemory")
    assert told == {"appendonly": "yes", "maxmemory-policy": "noeviction", "maxmemory": str(384 << 20)}


def test_jobs_run_as_that_user_also_where_workers_die_and_stop(server: ChartRedis, tmp_path: Path) -> None:
    """Every command of the fleet's life, and none was refused."""
    (tmp_path / "wc.py").write_text(dedent(WORD_COUNT))
    (tmp_path / "gated.py").write_text(dedent(GATED))
    (tmp_path / "text").write_text("a b a\n" * 1000)
    settings = {"MRCELERY_VISIBILITY_TIMEOUT": "2"}
    storage = str(tmp_path / "storage")
    env = environment(MRCELERY_BROKER=server.url, MRCELERY_STORAGE=storage, MRCELERY_QUEUE=QUEUE, **settings)

    def run(*args: str) -> str:
        ran = command(*args, env=env, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    with workers(tmp_path / "a", server.url, 2, queue=QUEUE, extra=["-E"], env=settings) as (first, second):
        assert sorted(run("submit", "wc.py", "text").splitlines()) == ['"a"\t2000', '"b"\t1000']
        assert "hello\t3" in run("hello")
        gate = Gate(tmp_path, 4)
        with mrcelery.submit(
            str(tmp_path / "gated.py"), str(gate.text), runner="celery", broker=server.url, storage=storage,
            queue=QUEUE, split_size=gate.split_size, reducers=2,
        ) as handle:  # fmt: skip
            eventually(lambda: gate.starts() == 4, "all maps run")
            with workers(tmp_path / "b", server.url, range(2, 3), queue=QUEUE, concurrency=4, env=settings):
                os.killpg(first.process.pid, signal.SIGKILL)
                second.process.send_signal(signal.SIGTERM)
                eventually(lambda: gate.starts() >= 8, "they run elsewhere")
                run("cancel", handle.id)
                gate.open()
                run("retry", handle.id)
                assert list(handle) == [("seen", 4)]
                for name in ("status", "counters", "logs"):
                    run(name, handle.id)
                run("list")
                run("doctor")
                run("clean", "--older-than", "0s")
    # Which `doctor` would rather ask, and need not.
    assert server.refused() <= {"config|get"}
