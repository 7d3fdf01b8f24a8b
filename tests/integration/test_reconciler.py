"""Jobs whose messages, processes or whole Redis are lost in mid-job, and what the workers' reconcilers make of it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from celery.backends.redis import RedisBackend
from celery.exceptions import Retry

import mrcelery
from mrcelery import layout
from mrcelery.errors import JobFailedError, StorageUnreachableError, UsageError, WaitTimeoutError
from mrcelery.executor import tasks
from mrcelery.executor.inflight import PIECE, SEPARATOR, in_flight
from mrcelery.executor.reconciler import Reconciler
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.storage import open_storage
from tests.support.services import PATIENCE, Quiet, RedisServer, command, eventually, redis_server, results, workers

JobFile = Callable[..., str]

QUICK = {"MRCELERY_VISIBILITY_TIMEOUT": "4"}

# Each mapper and reducer leaves a file with a name of its own where it ran, and waits for its gate.
TRACED = """
    import os, time, uuid
    from mrcelery import MRJob

    class Traced(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--folder")

        def ran(self, what):
            folder = self.options.folder
            open(os.path.join(folder, f"{what}.{uuid.uuid4().hex}"), "w").close()
            while os.path.exists(os.path.join(folder, f"wait-{what}")):
                time.sleep(0.02)
            if os.path.exists(os.path.join(folder, f"fail-{what}")):
                raise ValueError(f"{what} is told to fail")

        def mapper(self, _, line):
            self.ran(line)
            yield line[:1], 1

        def reducer(self, key, values):
            self.ran("reduce-" + key)
            yield key, sum(values)
"""
LINES = ["a1", "a2", "b1", "b2", "c1", "c2"]
COUNTS = {"a": 2, "b": 2, "c": 2}


class Traced:
    """A job that leaves a trace of each of its tasks: six maps and two reducers."""

    def __init__(self, folder: Path, file: str) -> None:
        self.file = file
        self.folder = folder / "traces"
        self.folder.mkdir()
        self.text = folder / "lines.txt"
        self.text.write_text("".join(f"{line}\n" for line in LINES))

    def submit(self, **settings: object) -> mrcelery.JobHandle:
        args = ["--folder", str(self.folder)]
        return mrcelery.submit(self.file, str(self.text), args=args, split_size=3, reducers=2, **settings)

    def runs(self) -> dict[str, int]:
        """How often each has run."""
        found: dict[str, int] = {}
        for name in os.listdir(self.folder):
            if re.fullmatch(r".*\.[0-9a-f]{32}", name):
                found[name.partition(".")[0]] = found.get(name.partition(".")[0], 0) + 1
        return found

    def gate(self, name: str) -> Path:
        path = self.folder / name
        path.touch()
        return path


def look_once(handle: mrcelery.JobHandle) -> None:
    """What a wait does before it finds the job lost."""
    with pytest.raises(WaitTimeoutError):
        handle.wait(0)


@pytest.fixture
def traced(tmp_path: Path, job_file: JobFile) -> Traced:
    return Traced(tmp_path, job_file(TRACED))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that may be emptied and restarted."""
    with redis_server() as server:
        yield server


def test_ids_of_messages_are_found_wherever_they_are(quiet: Quiet, traced: Traced) -> None:
    with traced.submit(**quiet.settings) as handle, traced.submit(**quiet.settings) as other:
        job = handle.id
        assert in_flight(quiet.store, job, quiet.name) == {"start"}
        quiet.take()
        quiet.run("mrcelery.start", job=job)
        tasks = {f"0.map.{number}.0" for number in range(6)}
        assert in_flight(quiet.store, job, quiet.name) == tasks
        assert in_flight(quiet.store, other.id, quiet.name) == set()
        first = quiet.take()
        quiet.run("mrcelery.start", job=other.id)
        for message in quiet.take():
            quiet.store.push(f"{quiet.name}{SEPARATOR}6", message)
        assert in_flight(quiet.store, other.id, quiet.name) == tasks
        for message in first:
            quiet.store.push(quiet.name, message)
        assert quiet.store.call(("DEL", f"{quiet.name}{SEPARATOR}6")) == [1]
        for message in quiet.take():
            quiet.store.call(("HSET", "unacked", os.urandom(4).hex(), b'[%s, "", "q"]' % message))
        assert in_flight(quiet.store, job, quiet.name) == tasks
        quiet.store.call(("DEL", "unacked"))
        assert in_flight(quiet.store, job, quiet.name) == set()
        for number in range(2 * PIECE):
            quiet.store.push(quiet.name, b'{"headers": {"id": "%s.0.map.%d.0"}}' % (job.encode(), number))
        assert in_flight(quiet.store, job, quiet.name) == {f"0.map.{number}.0" for number in range(2 * PIECE)}
        quiet.take()


@pytest.mark.parametrize("lost", ["start", "one map", "all maps"])
def test_lost_messages(quiet: Quiet, traced: Traced, lost: str) -> None:
    with traced.submit(**quiet.settings) as handle:
        if lost == "start":
            quiet.take()
        else:
            quiet.take()
            quiet.run("mrcelery.start", job=handle.id)
            messages = quiet.take()
            for message in messages[1:] if lost == "one map" else []:
                quiet.store.push(quiet.name, message)
        with quiet.workers(**QUICK):
            handle.wait(90)
        assert results(handle) == COUNTS
    assert set(traced.runs().values()) == {1}


KILLER = """
    import os, signal
    from celery.signals import worker_process_init

    def once(owner, name, after):
        method = getattr(owner, name)

        def called(*args, **kwargs):
            try:
                if not after:
                    os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
                    os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
            result = method(*args, **kwargs)
            try:
                if after:
                    os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
                    os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
            return result

        setattr(owner, name, called)

    @worker_process_init.connect(weak=False)
    def patch(**_):
        from {module} import {owner}
        once({owner}, {method!r}, {after!r})
"""


@pytest.mark.parametrize(
    ("module", "owner", "method", "after"),
    [
        ("mrcelery.jobstore.redis", "RedisJobStore", "add_commit", False),  # committed, and not told
        ("celery.backends.redis", "RedisBackend", "on_chord_part_return", False),  # its result not counted
        ("celery.backends.redis", "RedisBackend", "_chord_publish_claim_expires", False),  # the body is claimed
        ("celery.backends.redis", "RedisBackend", "on_chord_part_return", True),  # counted and not acknowledged
    ],
)
def test_a_process_killed_around_the_count_of_its_chord(
    quiet: Quiet, traced: Traced, tmp_path: Path, module: str, owner: str, method: str, after: bool
) -> None:
    if owner == "RedisBackend" and not hasattr(RedisBackend, method):
        pytest.skip("this Celery claims the body otherwise")
    patch = tmp_path / "patch"
    patch.mkdir()
    flag = str(tmp_path / "killed")
    source = dedent(KILLER).format(flag=flag, module=module, owner=owner, method=method, after=after)
    (patch / "sitecustomize.py").write_text(source)
    path = os.pathsep.join([str(patch), os.environ.get("PYTHONPATH", "")])
    with quiet.workers(PYTHONPATH=path, **QUICK), traced.submit(**quiet.settings) as handle:
        handle.wait(90)
        assert results(handle) == COUNTS
    assert os.path.exists(flag)
    assert set(traced.runs().values()) == {1}


@pytest.mark.parametrize("stage", ["a1", "reduce-a"])
def test_the_queue_is_flushed_in_mid_job(quiet: Quiet, traced: Traced, stage: str) -> None:
    gate = traced.gate(f"wait-{stage}")
    with quiet.workers(concurrency=1, **QUICK), traced.submit(**quiet.settings) as handle:
        eventually(lambda: traced.runs().get(stage), "the task runs")
        quiet.store.call(("DEL", quiet.name))
        gate.unlink()
        handle.wait(90)
        assert results(handle) == COUNTS
    assert set(traced.runs().values()) == {1}


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("stage", ["c2", "reduce-c"])
def test_redis_forgets_everything_in_mid_job(
    server: RedisServer, traced: Traced, tmp_path: Path, stage: str, waits: bool
) -> None:
    """What had committed is not run again; the job is entered again by who waits for it, or by a worker."""
    gate = traced.gate(f"wait-{stage}")
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    with workers(tmp_path, server.tcp_url, queue="q", **QUICK), traced.submit(**settings) as handle:
        committed = [line for line in LINES if line != stage]
        store = open_storage(str(tmp_path / "storage"))

        def others_done() -> bool:
            keys = [layout.commit(handle.id, 0, "map", LINES.index(line)) for line in committed]
            return bool(traced.runs().get(stage)) and all(store.stat(key) for key in keys)

        eventually(others_done, "all but one task have committed")
        assert isinstance(handle._store, RedisJobStore)
        if waits:
            look_once(handle)
        else:
            holder = ("EXISTS", f"mrcelery:job:{handle.id}:holder")
            eventually(lambda: handle._store.call(holder) == [1], "a worker looks after the job")  # type: ignore[union-attr]
        handle._store.call(("FLUSHALL",))
        gate.unlink()
        if not waits:
            eventually(lambda: handle._store.state(handle.id) == "succeeded", "the job ends")  # type: ignore[union-attr]
        handle.wait(90)
        assert results(handle) == COUNTS
        assert handle.report().totals.tasks == 8
    assert [traced.runs()[line] for line in committed] == [1] * len(committed)


@pytest.mark.parametrize("cleaned", [False, True])
def test_what_was_cleaned_is_not_lost(quiet: Quiet, traced: Traced, cleaned: bool) -> None:
    """To one who saw a job run at its last look, it is gone either way; storage tells the two apart."""
    with traced.submit(**quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)
        reconciler = Reconciler(quiet.app)
        reconciler.look()
        storage = open_storage(quiet.settings["storage"])
        if cleaned:
            storage.delete([info.key for info in storage.list(layout.job_root(handle.id))])
        quiet.store.drop(handle.id)
        reconciler.look()
        assert quiet.store.state(handle.id) == ("" if cleaned else "queued")
        quiet.store.drop(handle.id)
        reconciler.close()


def test_redis_restarts_empty_and_its_workers_are_replaced(server: RedisServer, traced: Traced, tmp_path: Path) -> None:
    """Nobody but the waiting client knows of the job, and storage."""
    gate = traced.gate("wait-c2")
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    with traced.submit(**settings) as handle:
        with workers(tmp_path / "first", server.tcp_url, queue="q", **QUICK):
            eventually(
                lambda: handle.status().stages and handle.status().stages[0].succeeded == 5, "all but one are done"
            )
            look_once(handle)
        server.stop()
        gate.unlink()
        server.start()
        with workers(tmp_path / "second", server.tcp_url, queue="q", **QUICK):
            handle.wait(90)
        assert results(handle) == COUNTS
    assert traced.runs() == {**dict.fromkeys(LINES, 1), "c2": 2, "reduce-a": 1, "reduce-b": 1, "reduce-c": 1}


def test_a_worker_that_is_added_later(quiet: Quiet, traced: Traced, tmp_path: Path) -> None:
    gate = traced.gate("wait-a1")
    with quiet.workers(concurrency=1, **QUICK), traced.submit(**quiet.settings) as handle:
        eventually(lambda: traced.runs().get("a1"), "the first task runs")
        with workers(tmp_path / "more", quiet.server.tcp_url, 1, queue=quiet.name, concurrency=1, **QUICK):
            eventually(lambda: len(traced.runs()) == 6, "the others run beside it")
            gate.unlink()
            handle.wait(90)
        assert results(handle) == COUNTS
    assert set(traced.runs().values()) == {1}


def test_late_steps_publish_nothing_again(quiet: Quiet, traced: Traced) -> None:
    with traced.submit(**quiet.settings) as handle:
        quiet.take()
        for _ in range(2):
            quiet.run("mrcelery.start", job=handle.id)
        assert len(quiet.take()) == 6
        quiet.run("mrcelery.barrier", job=handle.id, step=0)  # too early
        assert quiet.take() == []
        for number in range(6):
            kwargs = {"job": handle.id, "step": 0, "task": number, "attempt": 0}
            quiet.app.tasks["mrcelery.map"].apply(kwargs=kwargs, throw=True)
        for _ in range(2):
            quiet.run("mrcelery.barrier", job=handle.id, step=0)
        quiet.run("mrcelery.start", job=handle.id)
        assert len(quiet.take()) == 2
        assert handle.status().stage == "reduce"
        quiet.run("mrcelery.finish", job=handle.id, step=0)  # too early
        assert quiet.take() == []
        assert handle.status().state == "running"


@pytest.mark.parametrize("failing", ["b1", "reduce-b"])
def test_retry(quiet: Quiet, traced: Traced, failing: str) -> None:
    """A job that failed goes on; what had committed is not run again."""
    cause = traced.gate(f"fail-{failing}")
    with quiet.workers(concurrency=1, **QUICK), traced.submit(**quiet.settings) as handle:
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
    with quiet.workers(**QUICK), traced.submit(**quiet.settings) as handle:
        with pytest.raises(JobFailedError):
            handle.wait(90)
        again = command("retry", handle.id, *connection)
        assert again.returncode == 1
        assert "told to fail" in again.stderr
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
    with workers(tmp_path, server.tcp_url, queue="q", **QUICK), traced.submit(**settings) as handle:
        with pytest.raises(JobFailedError):
            handle.wait(90)
        handle._store.call(("FLUSHALL",))  # type: ignore[union-attr]
        cause.unlink()
        handle.retry()
        handle.wait(90)
        assert results(handle) == COUNTS


def kept(handle: mrcelery.JobHandle, storage: str) -> set[str]:
    return {info.key for info in open_storage(storage).list(layout.job_root(handle.id))}


def test_a_cancelled_job_is_retried_from_its_beginning(quiet: Quiet, traced: Traced) -> None:
    gate = traced.gate("wait-reduce-b")
    with quiet.workers(**QUICK), traced.submit(**quiet.settings) as handle:
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
        with quiet.workers(**QUICK):
            eventually(lambda: handle.status().stages[0].succeeded == 1, "one map has committed")
            assert len(kept(handle, quiet.settings["storage"])) > 3
            quiet.store.call(("DEL", quiet.name))  # with what its reconciler has published
            assert handle.cancel()
            names = (layout.spec, layout.code, layout.report, layout.report_page)
            left = {layout.plan_page(handle.id, 0, 0), *(name(handle.id) for name in names)}
            eventually(lambda: kept(handle, quiet.settings["storage"]) == left, "its data is gone")
            handle.retry()
            handle.wait(90)
            assert results(handle) == COUNTS


@pytest.mark.parametrize("begun", [True, False])
def test_a_cancelled_job_is_retried_where_there_are_no_workers(quiet: Quiet, traced: Traced, begun: bool) -> None:
    """The client removes its data itself."""
    with traced.submit(**quiet.settings) as handle:
        if begun:
            quiet.run("mrcelery.start", job=handle.id)
            kwargs = {"job": handle.id, "step": 0, "task": 0, "attempt": 0}
            quiet.app.tasks["mrcelery.map"].apply(kwargs=kwargs, throw=True)
            assert any(key.endswith("commit.json") for key in kept(handle, quiet.settings["storage"]))
        quiet.take()
        assert handle.cancel()
        handle.retry()
        assert handle.status().state == "queued"
        assert not any(key.endswith("commit.json") for key in kept(handle, quiet.settings["storage"]))
        with quiet.workers(**QUICK):
            handle.wait(90)
        assert results(handle) == COUNTS
        assert handle.report().totals.tasks == 8
    assert traced.runs()["a1"] == (2 if begun else 1)


@pytest.mark.parametrize("why", ["a task is held", "its storage is not here"])
def test_a_cancelled_job_is_not_cleaned_by_a_client_that_cannot_know(
    quiet: Quiet, traced: Traced, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mrcelery.handle, "_STOPPING", 1.0)
    with traced.submit(**quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)
        message = quiet.take()[-1]
        if why == "a task is held":
            quiet.store.call(("HSET", "unacked", "a-tag", json.dumps([json.loads(message), "", quiet.name])))
        else:
            quiet.store.update(handle.id, {"storage": str(tmp_path / "elsewhere")})
        assert handle.cancel()
        with pytest.raises(UsageError, match="no worker has removed its data yet: try again when workers listen"):
            handle.retry()
        assert handle.status().state == "cancelled"
        quiet.store.call(("HDEL", "unacked", "a-tag"))
        quiet.store.drop(handle.id)


# The first attempt at the slow lines takes ten minutes, longer than any test; another attempt none.
SLOW = """
    import os, time
    from mrcelery import MRJob

    class Slow(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--folder")

        def mapper_init(self):
            self.slow = None

        def mapper(self, _, line):
            if self.slow is None:
                try:
                    open(os.path.join(self.options.folder, line), "x").close()
                    self.slow = line == "slow"
                except FileExistsError:
                    open(os.path.join(self.options.folder, line + "-again"), "x").close()
                    self.slow = False
            time.sleep(1.0 if self.slow else 0.001)
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.mark.parametrize("speculative", [True, False])
def test_a_straggler_gets_a_backup(quiet: Quiet, job_file: JobFile, tmp_path: Path, speculative: bool) -> None:
    folder = tmp_path / "seen"
    folder.mkdir()
    lines = ["fast", "slow", "much", "more"]
    text = tmp_path / "lines.txt"
    text.write_text("".join(f"{line}\n" * 600 for line in lines))
    settings = {**quiet.settings, "split_size": 3000, "reducers": 1, "speculative": speculative}
    with (
        quiet.workers(concurrency=1, **QUICK),
        workers(tmp_path / "more", quiet.server.tcp_url, 1, queue=quiet.name, concurrency=1, **QUICK),
        mrcelery.submit(job_file(SLOW), str(text), args=["--folder", str(folder)], **settings) as handle,
    ):
        again = folder / "slow-again"
        if not speculative:
            eventually(
                lambda: handle.status().stages and handle.status().stages[0].succeeded == 3, "all but one are done"
            )
            with pytest.raises(WaitTimeoutError):
                handle.wait(12)
            assert not again.exists()
            handle.cancel()
            return
        handle.wait(PATIENCE)  # much less than the slow one takes
        assert results(handle) == dict.fromkeys(lines, 600)
        assert again.exists()
        assert sorted(path.name for path in folder.glob("*-again")) == ["slow-again"]
        eventually(lambda: not quiet.held(), "the slow attempt has stopped")


@pytest.mark.parametrize("begun", [True, False])
def test_a_storage_that_is_away_as_a_job_starts(
    quiet: Quiet, traced: Traced, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for by a job that goes on from it, and told at once to the client of a new one."""

    def away(*_: Any) -> None:
        raise StorageUnreachableError("away")

    monkeypatch.setattr(tasks, "start", away)
    with traced.submit(**quiet.settings) as handle:
        if begun:
            quiet.store.update(handle.id, {"started": "1.0"})
        with pytest.raises(Retry if begun else tasks.AttemptFailed):
            quiet.run("mrcelery.start", job=handle.id)
        assert handle.status().state == ("queued" if begun else "failed")
