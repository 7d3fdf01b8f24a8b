"""Connections lost while tasks run: the workers survive, no task runs twice, and nothing stays unacknowledged."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import JobHandle
from mrcelery.errors import MRCeleryError
from mrcelery.jobstore.connection import connect
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.redis_server import find_server
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.worker.app import make_app
from tests.support import guardian
from tests.support.services import (
    GATED,
    PATIENCE,
    YIELDING_GATED,
    Gate,
    RedisServer,
    Worker,
    eventually,
    free_port,
    redis_server,
    results,
    tls_redis_server,
    workers,
)

JobFile = Callable[..., str]
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
LONG = "600"
"""A visibility timeout in seconds, longer than any test: messages delivered again were requeued."""


def submit(broker: str, job: str, text: Path, folder: Path, **options: Any) -> JobHandle:
    return mrcelery.submit(
        job, str(text), runner="celery", broker=broker, storage=str(folder / "storage"), queue="q", **options
    )


@contextmanager
def running(broker: str, job_file: JobFile, folder: Path, **variables: str) -> Iterator[tuple[Gate, JobHandle, Worker]]:
    """Run two map tasks on one worker, each in one call of its mapper; a third process of the worker is idle."""
    gate = Gate(folder, 2)
    with (
        workers(folder / "a", broker, queue="q", concurrency=3, env=variables) as (worker,),
        submit(broker, job_file(GATED), gate.text, folder, split_size=gate.split_size, reducers=1) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "both maps run")
        yield gate, handle, worker


def settled(broker: str) -> bool:
    """Return whether all messages are acknowledged; False while the server does not answer."""
    store = RedisJobStore(broker)
    try:
        return store.call(("HLEN", "unacked"), ("ZCARD", "unacked_index")) == [0, 0]
    except MRCeleryError:
        return False
    finally:
        store.close()


def reconnections(worker: Worker) -> int:
    return worker.log.read_text().count("Connection to broker lost")


def reconnected(server: RedisServer) -> None:
    """Wait until the worker listens for messages again."""
    store = RedisJobStore(server.socket_url)

    def waits() -> bool:
        (clients,) = store.call(("CLIENT", "LIST"))
        assert isinstance(clients, bytes)
        return b"cmd=brpop" in clients or b"cmd=psubscribe" in clients

    eventually(waits, "the worker is connected again")
    store.close()


def restart(server: RedisServer, worker: Worker) -> None:
    before = reconnections(worker)
    server.stop()
    eventually(lambda: reconnections(worker) > before, "the worker notices")
    server.start()
    reconnected(server)


def cut(server: RedisServer, worker: Worker) -> None:
    """Close all connections to the server, which keeps running."""
    before = reconnections(worker)
    store = RedisJobStore(server.socket_url)
    store.call(("CLIENT", "KILL", "TYPE", "pubsub"), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
    store.close()
    eventually(lambda: reconnections(worker) > before, "the worker notices")
    reconnected(server)


@pytest.mark.parametrize("trouble", [restart, cut])
@pytest.mark.parametrize("times", [1, 2])
def test_connections_lost_while_tasks_run(
    trouble: Callable[[RedisServer, Worker], None], times: int, job_file: JobFile, tmp_path: Path
) -> None:
    with (
        redis_server(settings=DURABLE) as server,
        running(server.tcp_url, job_file, tmp_path) as (gate, handle, worker),
    ):
        for _ in range(times):
            trouble(server, worker)
        gate.open()
        handle.wait(PATIENCE)
        assert list(handle) == [("seen", 2)]
        assert gate.starts() == 2
        assert worker.process.poll() is None
        eventually(lambda: settled(server.tcp_url), "all is acknowledged")


def test_over_tls(job_file: JobFile, tmp_path: Path) -> None:
    with tls_redis_server(tmp_path, DURABLE) as (server, certificate):
        broker = f"rediss://localhost:{server.port}/0?ssl_ca_certs={certificate}"
        with running(broker, job_file, tmp_path) as (gate, handle, worker):
            restart(server, worker)
            cut(server, worker)
            gate.open()
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]
            assert gate.starts() == 2
            assert worker.process.poll() is None
            eventually(lambda: settled(broker), "all is acknowledged")


def test_a_server_that_forgets(job_file: JobFile, tmp_path: Path, word_count: str, text: Path) -> None:
    """Without AOF a restart loses the queues and the job's record; the worker keeps running and repeats no task."""
    with redis_server() as server, running(server.tcp_url, job_file, tmp_path) as (gate, handle, worker):
        restart(server, worker)
        gate.open()
        storage = open_storage(str(tmp_path / "storage"))
        commits = [object_keys.commit(TaskId(handle.id, 0, "map", number)) for number in range(2)]
        eventually(lambda: all(storage.stat(key) for key in commits), "both maps have committed")
        with submit(server.tcp_url, word_count, text, tmp_path) as another:
            another.wait(PATIENCE)
            assert results(another) == {"a": 3, "rose": 3, "is": 2}
        assert gate.starts() == 2
        assert worker.process.poll() is None
        eventually(lambda: settled(server.tcp_url), "all is acknowledged")


def test_a_worker_that_stops_after_it_reconnected(job_file: JobFile, tmp_path: Path) -> None:
    """Its tasks are requeued, although they were delivered on a connection that is gone."""
    with (
        redis_server(settings=DURABLE) as server,
        running(server.tcp_url, job_file, tmp_path, MRCELERY_VISIBILITY_TIMEOUT=LONG) as (gate, handle, worker),
    ):
        cut(server, worker)
        with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", MRCELERY_VISIBILITY_TIMEOUT=LONG):
            worker.process.send_signal(signal.SIGTERM)
            eventually(lambda: gate.starts() == 4, "both run elsewhere")
            gate.open()
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]
        assert worker.process.wait(PATIENCE) is not None


def test_a_child_killed_after_a_reconnection(job_file: JobFile, tmp_path: Path) -> None:
    """Its task is requeued, although it was delivered on a connection that is gone."""
    with (
        redis_server(settings=DURABLE) as server,
        running(server.tcp_url, job_file, tmp_path, MRCELERY_VISIBILITY_TIMEOUT=LONG) as (gate, handle, worker),
    ):
        cut(server, worker)
        os.kill(min(gate.pids()), signal.SIGKILL)
        eventually(lambda: gate.starts() == 3, "it runs again")
        gate.open()
        handle.wait(PATIENCE)
        assert list(handle) == [("seen", 2)]
        eventually(lambda: settled(server.tcp_url), "all is acknowledged")


IMPATIENT = """
from celery.signals import worker_process_init

@worker_process_init.connect(weak=False)
def patch(**_):
    import mrcelery.worker.tasks
    mrcelery.worker.tasks.BROKER_PATIENCE = 1.0
"""


SPEAKING_GATED = YIELDING_GATED.replace('yield "waits", 0', 'self.set_status("waits")')


def test_an_attempt_that_the_brokers_loss_ends_does_not_count(job_file: JobFile, tmp_path: Path) -> None:
    """The attempts give up because they have a status to report; without one they would keep computing."""
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(IMPATIENT)
    path = os.pathsep.join([str(patch), os.environ.get("PYTHONPATH", "")])
    gate = Gate(tmp_path, 2)
    with (
        redis_server(settings=DURABLE) as server,
        workers(
            tmp_path / "a", server.tcp_url, queue="q", PYTHONPATH=path, MRCELERY_VISIBILITY_TIMEOUT="4"
        ) as (worker,),
        submit(
            server.tcp_url, job_file(SPEAKING_GATED), gate.text, tmp_path,
            split_size=gate.split_size, reducers=1, max_attempts=1,
        ) as handle,
    ):  # fmt: skip
        eventually(lambda: gate.starts() == 2, "both maps run")
        alive = tmp_path / "a" / "scratch-q-0" / "alive"
        assert len(os.listdir(alive)) == 2
        server.stop()
        eventually(lambda: not os.listdir(alive), "both attempts have given up")
        gate.open()
        server.start()
        handle.wait(PATIENCE)
        assert results(handle)["seen"] == 2
        assert gate.starts() == 4
        assert worker.process.poll() is None


@contextmanager
def sentinel(folder: Path, master: int, *settings: str) -> Iterator[int]:
    """Run a Sentinel that monitors the master at a port, with these lines of configuration; yield its own port."""
    port = free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\ndir {folder}\nsentinel monitor main 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds main 3000\nsentinel failover-timeout main 5000\n"
        + "".join(f"{line}\n" for line in settings)
    )
    with (folder / "sentinel.log").open("wb") as log:
        process = guardian.start([find_server(), str(config), "--sentinel"], stdout=log, stderr=log)
    try:
        yield port
    finally:
        guardian.stop(process)


def state(handle: JobHandle) -> str:
    """Return the job's state; "" while no server answers."""
    try:
        return handle.status().state
    except MRCeleryError:
        return ""


@pytest.mark.parametrize("hangs", [False, True])
def test_failover_by_sentinel(hangs: bool, job_file: JobFile, tmp_path: Path) -> None:
    """A failover is survived, even if the new master hangs at first, so that Sentinel considers it down."""
    with (
        redis_server() as master,
        redis_server(replicaof=f"127.0.0.1 {master.port}") as replica,
        sentinel(tmp_path, master.port) as port,
    ):
        watcher = RedisJobStore(f"redis://127.0.0.1:{port}/0")

        def told(command: str) -> list[Any]:
            try:
                (answer,) = watcher.call(("SENTINEL", command, "main"))
            except MRCeleryError:
                return []
            return answer  # type: ignore[return-value]

        eventually(lambda: told("replicas"), "Sentinel knows the replica")
        broker = f"sentinel://127.0.0.1:{port}/0?master_name=main"
        with running(broker, job_file, tmp_path) as (gate, handle, worker):
            store = RedisJobStore(master.socket_url)
            eventually(lambda: store.call(("WAIT", 1, 1000)) == [1], "the replica has what the master has")
            store.close()
            master.stop()
            address = [b"127.0.0.1", str(replica.port).encode()]
            eventually(lambda: told("get-master-addr-by-name") == address, "the replica is the master")
            if hangs:
                assert replica.process is not None
                os.kill(replica.process.pid, signal.SIGSTOP)
                eventually(lambda: any(b"o_down" in text for text in told("master")), "it is taken for dead")
            gate.open()
            if hangs:
                assert replica.process is not None
                os.kill(replica.process.pid, signal.SIGCONT)
            eventually(lambda: state(handle) == "succeeded", "the job is done")
            assert list(handle) == [("seen", 2)]
            assert gate.starts() == 2
            assert worker.process.poll() is None
            eventually(lambda: settled(broker), "all is acknowledged")
        watcher.close()


def test_no_connection_waits_for_ever(tmp_path: Path) -> None:
    """All connections, Celery's and ours, to the master and to Sentinel (which has a password), have timeouts."""
    with redis_server() as master, sentinel(tmp_path, master.port, "requirepass of-sentinel") as port:
        broker = f"sentinel://127.0.0.1:{port}/0?master_name=main&sentinel_password=of-sentinel"
        watcher = connect(f"redis://:of-sentinel@127.0.0.1:{port}/0", PATIENCE)
        assert watcher.call(("PING",)) == [b"PONG"]
        watcher.close()
        pools = []
        for url in (master.tcp_url, broker):
            app = make_app(url)
            with app.connection() as connection:
                channel = connection.default_channel
                pools += [channel.pool, channel.async_pool, app.backend.client.connection_pool]
                tasks = channel.pool.get_connection()
                assert tasks._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                channel.pool.release(tasks)
                app.backend.client.close()
            app.close()
        ours = connect(broker)
        pools.append(ours._client.connection_pool)  # type: ignore[attr-defined]
        managers = [pool.sentinel_manager for pool in pools if hasattr(pool, "sentinel_manager")]
        pools += [node.connection_pool for manager in managers for node in manager.sentinels]
        assert len(pools) == 3 + 3 + 1 + 4
        for pool in pools:
            waits = pool.connection_kwargs
            assert 0 < waits["socket_timeout"] <= 10
            assert 0 < waits["socket_connect_timeout"] <= 10
        for manager in managers:
            for node in manager.sentinels:
                node.close()
        ours.close()


def test_passwords_of_master_and_sentinel(word_count: str, text: Path, tmp_path: Path) -> None:
    with (
        redis_server(requirepass="of-master") as master,
        sentinel(tmp_path, master.port, "requirepass of-sentinel", "sentinel auth-pass main of-master") as port,
    ):
        broker = f"sentinel://:of-master@127.0.0.1:{port}/0?master_name=main&sentinel_password=of-sentinel"
        with (
            workers(tmp_path / "w", broker, queue="q", MRCELERY_VISIBILITY_TIMEOUT="4"),
            submit(broker, word_count, text, tmp_path) as handle,
        ):
            handle.wait(PATIENCE)
            assert results(handle) == {"a": 3, "rose": 3, "is": 2}
            eventually(lambda: settled(broker), "all is acknowledged")
