"""A broker that refuses commands, a connection that breaks while a stage is published, and invalid messages."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import (
    GATED,
    PATIENCE,
    Gate,
    RedisServer,
    Worker,
    eventually,
    redis_server,
    results,
    workers,
)

WAITS = "this worker takes no tasks and waits for its broker"
BACK = "the broker is back: this worker takes tasks"

REFUSALS: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], str]] = {
    "replica": ([("REPLICAOF", "127.0.0.1", 1)], [("REPLICAOF", "NO", "ONE")], "read only replica"),
    "replicas": (
        [("CONFIG", "SET", "min-replicas-to-write", 1)],
        [("CONFIG", "SET", "min-replicas-to-write", 0)],
        "NOREPLICAS",
    ),
    "password": (
        [("CONFIG", "SET", "requirepass", "new"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
        [("CONFIG", "SET", "requirepass", "")],
        "NOAUTH",
    ),
}


def said(worker: Worker, what: str) -> int:
    return worker.log.read_text().count(what)


@pytest.mark.parametrize("name", REFUSALS)
def test_workers_outlive_refusals(
    name: str, server: RedisServer, word_count: str, job_file: Callable[..., str], text: Path, tmp_path: Path
) -> None:
    """Workers, busy or idle, log once per refusal what they wait for, and once that it is over."""
    refuse, accept, word = REFUSALS[name]
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    gate = Gate(tmp_path, 1)
    store = RedisJobStore(server.socket_url)
    with workers(tmp_path / "w", server.tcp_url, queue="q", MRCELERY_VISIBILITY_TIMEOUT="8") as (worker,):
        with mrcelery.submit(job_file(GATED), str(gate.text), **settings) as busy:
            eventually(lambda: gate.starts() == 1, "the map runs")
            for times in (1, 2):
                store.call(*refuse)
                eventually(lambda: said(worker, WAITS) == times, "the worker waits")  # noqa: B023
                assert word in worker.log.read_text()
                gate.open()
                store.call(*accept)
                eventually(lambda: said(worker, BACK) == times, "the worker goes on")  # noqa: B023
                busy.wait(PATIENCE)
            assert results(busy) == {"seen": 1}
        with mrcelery.submit(word_count, str(text), **settings) as handle:
            handle.wait(PATIENCE)
            assert results(handle) == {"a": 3, "rose": 3, "is": 2}
        assert worker.process.poll() is None
        assert said(worker, "Traceback") == 0, worker.log.read_text()
        worker.process.send_signal(signal.SIGINT if name == "replica" else signal.SIGTERM)
        assert worker.process.wait(PATIENCE) == 0
    store.close()


POISON = [
    b"not json",
    b"\xff\xfe",
    b"[" * 100_000,
    b"17",
    b"null",
    b"{}",
    b'{"body": "!", "properties": {"body_encoding": "base64", "delivery_tag": "t1", "delivery_info": {}}}',
    b'{"body": "e30=", "headers": {}, "content-type": "application/x-python-serialize", "content-encoding": "binary",'
    b' "properties": {"body_encoding": "base64", "delivery_tag": "t2",'
    b' "delivery_info": {"exchange": "", "routing_key": "q"}}}',
    b'{"body": "W1tdLCB7fSwge31d", "headers": {"task": "mrcelery.map", "id": 7, "timelimit": "x"},'
    b' "content-type": "application/json", "content-encoding": "utf-8",'
    b' "properties": {"body_encoding": "base64", "delivery_tag": "t3",'
    b' "delivery_info": {"exchange": "", "routing_key": "q"}}}',
    b'{"body": "W1tdLCB7fSwge31d", "headers": {"task": "no.such", "id": "u"},'
    b' "content-type": "application/json", "content-encoding": "utf-8",'
    b' "properties": {"body_encoding": "base64", "delivery_tag": "t4",'
    b' "delivery_info": {"exchange": "", "routing_key": "q"}}}',
    b'{"body": "W1tdLCB7Im5vcGUiOiAxfSwge31d", "headers": {"task": "mrcelery.start", "id": "v", "root_id": "v"},'
    b' "content-type": "application/json", "content-encoding": "utf-8",'
    b' "properties": {"body_encoding": "base64", "delivery_tag": "t5",'
    b' "delivery_info": {"exchange": "", "routing_key": "q"}}}',
]


def test_workers_outlive_messages_that_are_none(
    server: RedisServer, word_count: str, text: Path, tmp_path: Path
) -> None:
    store = RedisJobStore(server.socket_url)
    with workers(tmp_path / "w", server.tcp_url, queue="q") as (worker,):
        store.call(*(("LPUSH", "q", message) for message in POISON))
        with mrcelery.submit(
            word_count, str(text), runner="celery", broker=server.tcp_url, storage=str(tmp_path / "storage"), queue="q"
        ) as handle:
            handle.wait(PATIENCE)
            assert results(handle) == {"a": 3, "rose": 3, "is": 2}
        assert worker.process.poll() is None
        eventually(lambda: store.call(("LLEN", "q"), ("HLEN", "unacked")) == [0, 0], "all are removed")
        assert said(worker, "is not JSON and was removed") == 3
        assert "not json" in worker.log.read_text()
        assert said(worker, "cannot be read and was removed") >= 4
    store.close()


@contextmanager
def cutting(target: int) -> Iterator[tuple[int, list[bytes]]]:
    """Relay to a port; for each of the words, break one connection in the middle of what the client sends."""
    words: list[bytes] = []
    cut = threading.Lock()  # several processes send at the same time
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on(source: socket.socket, sink: socket.socket, client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with cut:
                    word = words.pop(0) if client and words and words[0] in data else b""
                if word:
                    sink.sendall(data[: data.index(word) + 1])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", target))
                threading.Thread(target=pass_on, args=(near, far, True), daemon=True).start()
                threading.Thread(target=pass_on, args=(far, near, False), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], words
    finally:
        listener.close()


def test_a_connection_that_breaks_while_a_stage_is_published(word_count: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a rose is a rose\n" * 40)
    with (
        redis_server() as server,
        cutting(server.port) as (port, words),
        workers(tmp_path / "w", f"redis://127.0.0.1:{port}/0", queue="q", MRCELERY_VISIBILITY_TIMEOUT="8") as (worker,),
    ):
        words += [b"0.map.7", b"0.reduce.1"]
        with mrcelery.submit(
            word_count,
            str(text),
            runner="celery",
            broker=server.tcp_url,
            storage=str(tmp_path / "storage"),
            queue="q",
            split_size=17 * 4,
            reducers=3,
        ) as handle:
            handle.wait(PATIENCE)
            assert results(handle) == {"a": 80, "rose": 80, "is": 40}
        assert not words
        assert worker.process.poll() is None
