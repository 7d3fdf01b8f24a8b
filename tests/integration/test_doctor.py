"""``doctor`` against real servers with the settings that it must find, and without a server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mrcelery.config import Config
from mrcelery.doctor.checks import Doctor, judge_clock
from mrcelery.doctor.redis_checks import Finding, judge
from mrcelery.jobstore.presence import versions, workers_seen
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Presence
from tests.support.s3_endpoint import VARIABLE
from tests.support.s3_proxy import Asked, Fault, Log, proxy
from tests.support.services import (
    Fleet,
    RedisServer,
    command,
    environment,
    eventually,
    free_port,
    redis_server,
    tls_redis_server,
    workers,
)

AOF = {"appendonly": "yes"}


def found(**settings: Any) -> dict[str, Finding]:
    """Return the findings that are not ok, by check; each must name a remedy."""
    bad = {f.check: f for f in Doctor(Config.load(settings, env={})).findings() if f.level != "ok"}
    assert all(f.do and f.saw for f in bad.values()), bad
    return bad


def levels(**settings: Any) -> dict[str, str]:
    return {check: f.level for check, f in found(**settings).items()}


LONELY = {"workers": "warn", "storage": "warn"}
"""Levels of a fleet that is only a broker."""


@pytest.mark.parametrize(
    ("server_settings", "bad"),
    [
        (AOF, {}),
        ({}, {"persistence": "warn"}),
        ({**AOF, "appendfsync": "no"}, {"appendfsync": "warn"}),
        ({**AOF, "maxmemory_policy": "allkeys-lru"}, {"eviction": "warn"}),
        ({**AOF, "maxmemory_policy": "allkeys-lru", "maxmemory": "100mb"}, {"eviction": "fail"}),
        ({**AOF, "maxmemory_policy": "volatile-ttl", "maxmemory": "100mb"}, {"eviction": "warn"}),
        ({**AOF, "maxmemory": "200kb"}, {"memory": "warn", "writing": "fail"}),
        ({**AOF, "cluster_enabled": "yes"}, {"role": "fail"}),
        ({**AOF, "rename_command": "CONFIG no-such-command"}, {}),  # as managed services do
    ],
    ids=str,
)
def test_settings_that_lose_data(server_settings: dict[str, str], bad: dict[str, str]) -> None:
    server_settings = dict(server_settings)
    renamed = server_settings.pop("rename_command", "").split()
    if "cluster_enabled" in server_settings:
        server_settings["cluster_port"] = str(free_port())
    with redis_server(settings=server_settings) as server:
        if renamed:
            server.stop()
            server.command += ["--rename-command", *renamed]
            server.start()
        expected = {f"broker: {name}": level for name, level in bad.items()}
        seen = levels(broker=server.tcp_url)
        assert {check: level for check, level in seen.items() if check.startswith("broker")} == expected
        if "role" not in bad and "writing" not in bad:
            assert seen == expected | LONELY


def test_a_replica_and_its_primary() -> None:
    with redis_server() as primary, redis_server(replicaof=f"127.0.0.1 {primary.port}") as replica:
        with closing(RedisJobStore(replica.tcp_url)) as store:

            def linked() -> bool:
                (told,) = store.call(("INFO", "replication"))
                assert isinstance(told, bytes)
                return b"master_link_status:up" in told

            eventually(linked, "they are linked")
        bad = found(broker=replica.tcp_url)
        assert bad["broker: role"].level == "fail"
        assert f"a replica of 127.0.0.1:{primary.port}" in bad["broker: role"].saw
        assert "1 replica" in found(broker=primary.tcp_url)["broker: persistence"].saw


def test_servers_that_do_not_let_us_in() -> None:
    with redis_server(requirepass="secret") as server:
        address = server.tcp_url.partition("@")[2]
        for url, do in (
            (f"redis://{address}", "put the password"),
            (f"redis://:wrong@{address}", "correct the password"),
            (f"redis://:secret@127.0.0.1:{server.port}/99", "correct the database"),
            (f"redis://127.0.0.1:{free_port()}", "start it"),
            ("amqp://127.0.0.1", "use redis://"),
        ):
            finding = found(broker=url)["broker"]
            assert (finding.level, do in finding.do) == ("fail", True), finding
            assert "wrong" not in finding.saw
        with closing(RedisJobStore(server.tcp_url)) as admin:
            admin.call(("ACL", "SETUSER", "reader", "on", ">x", "~*", "+@read", "+ping", "+info"))
        bad = found(broker=f"redis://reader:x@{address}")
        assert "ACL" in bad["broker: writing"].do
        backend = found(broker=server.tcp_url, result_backend=f"redis://:wrong@{address}")["result backend"]
        assert backend.level == "fail"
    with redis_server() as server:
        assert "leave the password out" in found(broker=f"redis://:x@127.0.0.1:{server.port}")["broker"].do


def test_an_old_server() -> None:
    def version(told: str) -> list[str]:
        return [f.check for f in judge("broker", {"redis_version": told, "maxmemory_policy": "noeviction"})]

    assert "broker: version" in version("5.0.6")
    assert "broker: version" not in version("6.2.0")
    assert "broker: version" not in version("7.2.4")


def test_clocks() -> None:
    assert [judge_clock("c", "x", skew, 15).level for skew in (0.1, -1.9, 2.5, -3, 7.5, -9)] == [
        "ok", "ok", "warn", "warn", "fail", "fail",
    ]  # fmt: skip


@pytest.fixture
def log(bucket: str) -> Iterator[Log]:
    with proxy() as log:
        yield log


def refusing(which: Callable[[Asked], bool]) -> Callable[[Asked], Fault | None]:
    return lambda asked: Fault(501, "NotImplemented") if which(asked) else None


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        (lambda asked: None, []),
        (lambda asked: Fault(ignore=("if-none-match",)), ["conditional write"]),
        (lambda asked: Fault(ignore=("if-match",)), ["claims on OUTPUT"]),
        (lambda asked: Fault(ignore=("range",)), ["byte ranges"]),
        (refusing(lambda asked: "uploads" in asked.query), ["multipart"]),
        (refusing(lambda asked: "list-type" in asked.query), ["listing"]),
    ],
)
def test_storages_that_keep_no_promise(
    log: Log, bucket: str, fault: Callable[[Asked], Fault | None], failing: list[str]
) -> None:
    log.fault = fault
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    bad = found(storage=root)
    multipart = "storage: multipart"
    if failing == ["byte ranges"]:
        bad.pop(multipart, None)  # this check reads its parts back by ranges
    if failing == ["multipart"]:
        failing = [*failing, "claims on OUTPUT"]  # claims are multipart uploads
    expected = {f"storage: {name}": "warn" if name == "claims on OUTPUT" else "fail" for name in failing}
    assert {check: f.level for check, f in bad.items()} == expected
    log.fault = lambda asked: None
    from mrcelery.storage import open_storage

    assert list(open_storage(root).list()) == []


def test_storages_that_do_not_answer(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "create it" in found(storage="s3://no-such-bucket-here/x")["storage"].do
    (tmp_path / "file").write_text("x")
    print(found(storage=str(tmp_path / "file")))
    assert found(storage=str(tmp_path / "file"))["storage: conditional write"].level == "fail"
    (tmp_path / "mrcelery.json").write_text('{"layout": 99}')
    assert "another --storage" in found(storage=str(tmp_path))["storage"].do
    monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "cannot be reached" in found(storage=f"s3://{bucket}/x")["storage"].saw


def test_all_is_well(fleet: Fleet) -> None:
    with closing(RedisJobStore(fleet.server.tcp_url)) as store:
        eventually(lambda: sum("fleet" in one.queues for one in workers_seen(store)) == 2, "both workers have told")
    ran = command("doctor", "--json", env=fleet.env)
    told = json.loads(ran.stdout)
    assert (ran.returncode, told["ok"]) == (0, True), ran.stderr
    bad = {f["check"] for f in told["findings"] if f["level"] != "ok"}
    assert bad == {"broker: persistence"}
    ours = [worker for worker in told["workers"] if worker["queues"] == ["fleet"]]  # other tests had others
    first = ours[0]
    assert (first["versions"], first["processes"], first["queues"]) == (versions(), 2, ["fleet"])
    assert len(ours) == 2
    assert abs(first["skew"]) < 1
    shown = command("doctor", env=fleet.env).stdout
    assert "ok    storage: conditional write: works\n" in shown
    assert "ok    workers: 2 workers with 4 processes on queue fleet\n" in shown
    assert "fleet-0@here" in shown


def test_failing_is_exit_code_3(tmp_path: Path) -> None:
    broker = f"redis://127.0.0.1:{free_port()}"
    ran = command("doctor", "--broker", broker, "--storage", tmp_path / "x", env=environment())
    assert ran.returncode == 3
    assert "FAIL  broker: no Redis answers" in ran.stdout
    assert "ok    storage: listing" in ran.stdout
    assert ran.stderr == ""


def test_a_worker_of_another_queue_and_one_that_vanished(tmp_path: Path) -> None:
    with redis_server(settings=AOF) as server:
        quick = {"MRCELERY_VISIBILITY_TIMEOUT": "1"}
        with workers(tmp_path / "w", server.tcp_url, queue="other", env=quick) as (worker,):
            told = lambda: found(broker=server.tcp_url)["workers"].saw  # noqa: E731
            eventually(lambda: "but on other" in told(), "the worker is seen")
            eventually(lambda: "workers" not in found(broker=server.tcp_url, queue="other"), "nothing is wrong with it")
            worker.stop()
            eventually(lambda: "workers: lost" in found(broker=server.tcp_url, queue="other"), "the worker is missed")
            assert "but on" not in told()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server(settings=AOF) as server:
        yield server


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisJobStore]:
    store = RedisJobStore(server.tcp_url)
    yield store
    store.close()


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({}, {}),
        ({"versions": {**versions(), "mrcelery": "0.0.1"}}, {"workers: mrcelery": "warn"}),
        ({"versions": {**versions(), "python": "3.8.20"}}, {"workers: Python": "warn"}),
        ({"versions": {**versions(), "celery": "5.5.0"}}, {"workers: Celery": "warn"}),
        ({"visibility": 4.0}, {"workers: visibility timeout": "warn"}),
        ({"arrow": False}, {"workers: extras": "warn"}),
        ({"signed": True}, {"workers: signing": "fail"}),
        ({"ahead": 5.0}, {"workers: clock": "warn"}),
        ({"ahead": -8.0}, {"workers: clock": "fail"}),
    ],
    ids=str,
)
def test_workers_that_do_not_go_together(
    server: RedisServer, store: RedisJobStore, second: dict[str, Any], says: dict[str, str]
) -> None:
    second = dict(second)
    ahead = second.pop("ahead", 0.0)
    alike = {"queues": ("celery",), "processes": 4, "every": 5.0, "host": "h", "versions": versions()}
    alike |= {"visibility": 15.0, "arrow": True}
    for name, more in (("a", {}), ("b", {}), ("c", second)):
        at = time.time() + (ahead if name == "c" else 0)
        store.record_worker(f"{name}@h", encode(Presence(**{**alike, **more}, at=at)))
    seen = found(broker=server.tcp_url)
    seen.pop("storage")
    assert {check: f.level for check, f in seen.items()} == says
    if says and not ahead and "visibility" not in second:
        (finding,) = seen.values()
        assert "c@h" in finding.saw
        assert "a@h" not in finding.saw


def test_a_worker_of_a_version_to_come(server: RedisServer, store: RedisJobStore) -> None:
    store.record_worker("new@h", b'{"v": 9, "listens": {"celery": 3}}')
    bad = found(broker=server.tcp_url)
    assert "new@h" in bad["workers: mrcelery"].saw
    assert bad["workers"].level == "warn"


def test_over_tls(tmp_path: Path) -> None:
    with tls_redis_server(tmp_path, AOF) as (server, certificate):
        url = f"rediss://localhost:{server.port}/0?ssl_ca_certs={certificate}"
        assert levels(broker=url) == LONELY
        assert levels(broker=f"rediss://localhost:{server.port}/0")["broker"] == "fail"  # self-signed


def test_the_user_that_the_chart_makes(server: RedisServer, store: RedisJobStore) -> None:
    """The user's rights are those that jobs need; ``doctor`` can check the broker with them, without CONFIG."""
    rules = (Path(__file__).parents[2] / "helm" / "mrcelery" / "files" / "redis-user.acl").read_text().split()
    store.call(("ACL", "SETUSER", "mrcelery", "on", ">x", *rules))
    assert levels(broker=f"redis://mrcelery:x@127.0.0.1:{server.port}") == LONELY


def test_a_client_that_signs(server: RedisServer, store: RedisJobStore) -> None:
    told = Presence(queues=("celery",), processes=1, every=5.0, versions=versions(), visibility=15.0, arrow=True)
    store.record_worker("a@h", encode(told))
    bad = found(broker=server.tcp_url, signing_key="k")
    assert bad["workers: signing"].level == "warn"


def test_it_leaves_nothing_behind(server: RedisServer, store: RedisJobStore, tmp_path: Path) -> None:
    found(broker=server.tcp_url, storage=str(tmp_path / "store"))
    assert store.call(("KEYS", "*")) == [[]]
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


def test_the_kind_of_server_is_told(broker: RedisServer) -> None:
    (saw,) = (f.saw for f in Doctor(Config.load({"broker": broker.tcp_url}, env={})).findings() if f.check == "broker")
    assert saw.startswith(("Redis ", "Valkey "))
