"""mrcelery installed on an existing Celery app, and run by Celery's own command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery

import mrcelery
from mrcelery.errors import ConfigError
from tests.support.services import RedisServer, Worker, await_workers, environment, results

JobFile = Callable[..., str]
COUNTS = {"a": 3, "rose": 3, "is": 2}

SHOP = """
    import mrcelery
    from celery import Celery

    app = Celery("shop", broker="{broker}", backend="{backend}")
    app.conf.task_default_queue = "shop"

    @app.task(name="shop.add")
    def add(x, y):
        return x + y

    mrcelery.install(app)
    mrcelery.install(app)
"""


def celery_worker(module: str, broker: str, queue: str, folder: Path, **variables: str) -> Worker:
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "-Q", queue, "-c", "1", "-n", f"{queue}@here"]
    env = environment(MRCELERY_SCRATCH=str(folder / "scratch"), TMPDIR=str(folder), **variables)
    worker = Worker([*command, "--without-mingle", "--without-gossip"], folder / "worker.log", env=env, cwd=folder)
    try:
        await_workers(broker, [worker], [f"{queue}@here"])
    except BaseException:
        worker.stop()
        raise
    return worker


def test_an_app_of_somebodys_own(
    broker: RedisServer, job_file: JobFile, word_count: str, text: Path, tmp_path: Path
) -> None:
    """The app's own tasks and results still work alongside jobs; chords are counted in its result backend."""
    backend = broker.tcp_url.removesuffix("/0") + "/1"
    job_file(SHOP.format(broker=broker.tcp_url, backend=backend), "shop_app.py")
    worker = celery_worker("shop_app", broker.tcp_url, "shop", tmp_path)
    try:
        settings = {"broker": broker.tcp_url, "queue": "shop", "storage": str(tmp_path / "storage")}
        with mrcelery.run(word_count, str(text), runner="celery", reducers=3, split_size=10, **settings) as handle:
            assert results(handle) == COUNTS
        with Celery("client", broker=broker.tcp_url, backend=backend, set_as_current=False) as client:
            sent = client.send_task("shop.add", (2, 3), queue="shop")
            assert sent.get(timeout=60) == 5
            sent.forget()
    finally:
        worker.stop()


def test_celerys_own_command(broker: RedisServer, word_count: str, text: Path, tmp_path: Path) -> None:
    """``celery -A mrcelery worker`` runs jobs."""
    worker = celery_worker("mrcelery", broker.tcp_url, "plain", tmp_path, MRCELERY_BROKER=broker.tcp_url)
    try:
        settings = {"broker": broker.tcp_url, "queue": "plain", "storage": str(tmp_path / "storage")}
        with mrcelery.run(word_count, str(text), runner="celery", reducers=2, **settings) as handle:
            assert results(handle) == COUNTS
    finally:
        worker.stop()


def test_installing_leaves_the_apps_settings(broker: RedisServer) -> None:
    with Celery("own", broker=broker.tcp_url, backend=broker.tcp_url, set_as_current=False) as app:
        app.conf.update(task_acks_late=False, accept_content=["json", "pickle"], task_serializer="pickle")
        before = dict(app.conf.items())
        assert mrcelery.install(app) is app
        assert dict(app.conf.items()) == before
        for name in ("start", "map", "barrier", "reduce", "finish"):
            task = app.tasks[f"mrcelery.{name}"]
            assert (task.acks_late, task.ignore_result, task.serializer) == (True, True, "json")


def test_an_app_without_redis() -> None:
    with (
        Celery("other", broker="amqp://localhost", set_as_current=False) as app,
        pytest.raises(ConfigError, match="needs Redis"),
    ):
        mrcelery.install(app)
