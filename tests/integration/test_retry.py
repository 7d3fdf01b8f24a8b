"""Failed, forgotten and cancelled jobs can be retried, and the data of cancelled ones is removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mrcelery
from mrcelery.errors import JobFailedError, UsageError
from mrcelery.schema import object_keys
from mrcelery.storage import open_storage
from tests.support.services import Quiet, RedisServer, command, eventually, results, workers
from tests.support.traced import COUNTS, LINES, QUICK, Traced


@pytest.mark.parametrize("failing", ["b1", "reduce-b"])
def test_retry(quiet: Quiet, traced: Traced, failing: str) -> None:
    """A failed job resumes; what had committed does not run again."""
    cause = traced.gate(f"fail-{failing}")
    with quiet.workers(concurrency=1, env=QUICK), traced.submit(**quiet.settings) as handle:
        with pytest.raises(JobFailedError, match="told to fail"):
            handle.wait(90)
        before = traced.runs()
        with pytest.raises(JobFailedError, match="told to fail"):
            handle.retry()
            handle.wait(90)
        cause.unlink()
        handle.retry()
        status = handle.wait(90)
        assert (status.state, status.message) == ("succeeded", "")
        assert handle.failure() is None
        assert results(handle) == COUNTS
        assert handle.report().totals.tasks == 8
        with pytest.raises(UsageError, match="is succeeded"):
            handle.retry()
    after = traced.runs()
    assert after[failing] == before[failing] + 2
    assert {name: after[name] for name in LINES if name != failing} == dict.fromkeys(set(LINES) - {failing}, 1)


def test_the_command_retry(quiet: Quiet, traced: Traced) -> None:
    cause = traced.gate("fail-b1")
    connection = ["--broker", quiet.server.tcp_url, "--storage", quiet.settings["storage"]]
    with quiet.workers(env=QUICK), traced.submit(**quiet.settings) as handle:
        with pytest.raises(JobFailedError):
            handle.wait(90)
        again = command("retry", handle.id, *connection)
        assert again.returncode == 1
        assert "told to fail" in again.stderr
        detached = command("retry", handle.id, "--detach", "--json", *connection)
        assert detached.returncode == 0
        event = json.loads(detached.stdout)
        assert (event["event"], event["job"]) == ("submitted", handle.id)
        assert command("wait", handle.id, *connection).returncode == 1
        cause.unlink()
        detached = command("retry", handle.id, "--detach", *connection)
        assert (detached.returncode, detached.stdout) == (0, f"{handle.id}\n")
        assert command("wait", handle.id, *connection).returncode == 0
        late = command("retry", handle.id, *connection)
        assert late.returncode == 2
        assert "succeeded" in late.stderr
        assert command("retry", "nothing-20260101-000000-abcdef", *connection).returncode == 2


def test_a_job_that_redis_has_forgotten_is_retried_from_storage(
    server: RedisServer, traced: Traced, tmp_path: Path
) -> None:
    cause = traced.gate("fail-b1")
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    with workers(tmp_path, server.tcp_url, queue="q", env=QUICK), traced.submit(**settings) as handle:
        with pytest.raises(JobFailedError):
            handle.wait(90)
        handle._store.call(("FLUSHALL",))  # type: ignore[union-attr]
        cause.unlink()
        handle.retry()
        handle.wait(90)
        assert results(handle) == COUNTS


def kept(handle: mrcelery.JobHandle, storage: str) -> set[str]:
    return {info.key for info in open_storage(storage).list(object_keys.job_root(handle.id))}


def test_a_cancelled_job_is_retried_from_its_beginning(quiet: Quiet, traced: Traced) -> None:
    gate = traced.gate("wait-reduce-b")
    with quiet.workers(env=QUICK), traced.submit(**quiet.settings) as handle:
        eventually(lambda: traced.runs().get("reduce-b"), "a reducer runs")
        assert handle.cancel()
        gate.unlink()
        gate = traced.gate("wait-a1")
        handle.retry()
        eventually(lambda: traced.runs().get("a1") == 2, "its maps run again")
        assert [(stage.kind, stage.total) for stage in handle.status().stages] == [("map", 6)]
        gate.unlink()
        handle.wait(90)
        assert results(handle) == COUNTS
        assert handle.report().totals.tasks == 8
    assert [traced.runs()[line] for line in LINES] == [2] * 6


def test_the_data_of_a_cancelled_job_goes_though_its_messages_are_lost(quiet: Quiet, traced: Traced) -> None:
    with traced.submit(**quiet.settings) as handle:
        quiet.take()
        quiet.run("mrcelery.start", job=handle.id)
        first, *_ = quiet.take()
        quiet.store.push(quiet.name, first)
        with quiet.workers(env=QUICK):
            eventually(lambda: handle.status().stages[0].succeeded == 1, "one map has committed")
            assert len(kept(handle, quiet.settings["storage"])) > 3
            quiet.store.call(("DEL", quiet.name))  # with the messages that its reconciler has published
            assert handle.cancel()
            names = (object_keys.spec, object_keys.code, object_keys.report, object_keys.report_page)
            end, plan = object_keys.end(handle.id, 0), object_keys.plan_page(handle.id, 0, 0)
            left = {end, plan, *(name(handle.id) for name in names)}
            eventually(lambda: kept(handle, quiet.settings["storage"]) == left, "its data is gone")
            handle.retry()
            handle.wait(90)
            assert results(handle) == COUNTS


@pytest.mark.parametrize("begun", [True, False])
def test_a_cancelled_job_is_retried_where_there_are_no_workers(quiet: Quiet, traced: Traced, begun: bool) -> None:
    """Without workers the client removes the job's data itself."""
    with traced.submit(**quiet.settings) as handle:
        if begun:
            quiet.run("mrcelery.start", job=handle.id)
            kwargs = {"job": handle.id, "step": 0, "task": 0, "attempt": 0}
            quiet.app.tasks["mrcelery.map"].apply(kwargs=kwargs, throw=True)
            assert any(key.endswith("commit.json") for key in kept(handle, quiet.settings["storage"]))
        quiet.take()
        assert handle.cancel()
        handle.retry()
        quiet.take()  # as if the client had died before it published
        handle.retry()
        assert handle.status().state == "queued"
        assert quiet.store.fields(handle.id)["revived"] == "1"
        assert not any(key.endswith("commit.json") for key in kept(handle, quiet.settings["storage"]))
        with quiet.workers(env=QUICK):
            handle.wait(90)
        assert results(handle) == COUNTS
        assert handle.report().totals.tasks == 8
    assert traced.runs()["a1"] == (2 if begun else 1)


@pytest.mark.parametrize("why", ["a task is held", "its storage is not here"])
def test_a_cancelled_job_is_not_cleaned_by_a_client_that_cannot_know(
    quiet: Quiet, traced: Traced, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.client.retrying.STOPPING_SECONDS", 1.0)
    with traced.submit(**quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)
        message = quiet.take()[-1]
        if why == "a task is held":
            quiet.store.call(("HSET", "unacked", "a-tag", json.dumps([json.loads(message), "", quiet.name])))
        else:
            quiet.store.update(handle.id, {"storage": str(tmp_path / "elsewhere")})
        assert handle.cancel()
        with pytest.raises(UsageError, match="no worker has deleted its data yet: retry it when workers listen"):
            handle.retry()
        assert handle.status().state == "cancelled"
        quiet.store.call(("HDEL", "unacked", "a-tag"))
        quiet.store.drop(handle.id)
