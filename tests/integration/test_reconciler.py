"""The workers' reconcilers repair jobs whose messages, processes or whole Redis are lost while they run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from celery.backends.redis import RedisBackend
from celery.exceptions import Retry

import mrcelery
from mrcelery.attempt.decision import decide, retried
from mrcelery.errors import StorageUnreachableError, WaitTimeoutError
from mrcelery.jobstore.queue_scan import PIECE, SEPARATOR, in_flight
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema import object_keys
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.worker import tasks
from mrcelery.worker.reconciler import Reconciler
from tests.support.services import PATIENCE, Quiet, RedisServer, eventually, results, workers
from tests.support.traced import COUNTS, LINES, QUICK, Traced, look_once

JobFile = Callable[..., str]


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
        with quiet.workers(env=QUICK):
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
        ("mrcelery.jobstore.redis", "RedisJobStore", "add_commit", False),  # committed, not recorded in Redis
        ("celery.backends.redis", "RedisBackend", "on_chord_part_return", False),  # recorded, not counted by the chord
        ("celery.backends.redis", "RedisBackend", "_chord_publish_claim_expires", False),  # body claimed
        ("celery.backends.redis", "RedisBackend", "on_chord_part_return", True),  # counted, not acknowledged
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
    with quiet.workers(PYTHONPATH=path, env=QUICK), traced.submit(**quiet.settings) as handle:
        handle.wait(90)
        assert results(handle) == COUNTS
    assert os.path.exists(flag)
    assert set(traced.runs().values()) == {1}


@pytest.mark.parametrize("stage", ["a1", "reduce-a"])
def test_the_queue_is_flushed_in_mid_job(quiet: Quiet, traced: Traced, stage: str) -> None:
    gate = traced.gate(f"wait-{stage}")
    with quiet.workers(concurrency=1, env=QUICK), traced.submit(**quiet.settings) as handle:
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
    """A waiting client or a worker registers the job again; what had committed does not run again."""
    gate = traced.gate(f"wait-{stage}")
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    with workers(tmp_path, server.tcp_url, queue="q", env=QUICK), traced.submit(**settings) as handle:
        committed = [line for line in LINES if line != stage]
        store = open_storage(str(tmp_path / "storage"))

        def others_done() -> bool:
            keys = [object_keys.commit(TaskId(handle.id, 0, "map", LINES.index(line))) for line in committed]
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
    """A reconciler finds a running job missing from Redis; by storage it knows whether the job was cleaned or lost."""
    with traced.submit(**quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)
        reconciler = Reconciler(quiet.app)
        reconciler.reconcile()
        storage = open_storage(quiet.settings["storage"])
        if cleaned:
            storage.delete([info.key for info in storage.list(object_keys.job_root(handle.id))])
        quiet.store.drop(handle.id)
        reconciler.reconcile()
        assert quiet.store.state(handle.id) == ("" if cleaned else "queued")
        quiet.store.drop(handle.id)
        reconciler.close()


@pytest.mark.parametrize("then", ["", "retried", "damaged"])
def test_what_has_ended_since_the_last_look_is_not_lost(quiet: Quiet, traced: Traced, then: str) -> None:
    """An ended job is restored only if it was retried, or if the record of its end is damaged; ``start`` decides."""
    with traced.submit(**quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)
        reconciler = Reconciler(quiet.app)
        reconciler.reconcile()
        storage, seal = open_storage(quiet.settings["storage"]), JobSeal(handle.id)
        decide(storage, seal, 0, "failed")
        if then == "retried":
            retried(storage, seal, 1)
        elif then == "damaged":
            storage.write(object_keys.end(handle.id, 0), b"{")
        quiet.store.drop(handle.id)
        reconciler.reconcile()
        assert quiet.store.state(handle.id) == ("queued" if then else "")
        quiet.store.drop(handle.id)
        reconciler.close()


def test_redis_forgets_a_job_that_began_since_it_was_looked_at(quiet: Quiet, traced: Traced) -> None:
    with traced.submit(**quiet.settings) as handle:
        reconciler = Reconciler(quiet.app)
        reconciler.reconcile()
        quiet.run("mrcelery.start", job=handle.id)
        quiet.store.drop(handle.id)
        reconciler.reconcile()
        assert quiet.store.state(handle.id) == "queued"
        quiet.store.drop(handle.id)
        reconciler.close()


@pytest.mark.parametrize("asked", ["fields", "unsure"])
def test_redis_forgets_a_job_while_it_is_looked_at(
    quiet: Quiet, traced: Traced, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced.submit(**quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)
        reconciler = Reconciler(quiet.app)
        reconciler.reconcile()
        store = reconciler._store
        with monkeypatch.context() as patch:
            ask = getattr(store, asked)

            def lose(job: str, *more: Any) -> Any:
                if job:  # without a job, the call is about the server
                    quiet.store.drop(handle.id)
                return "another run" if job and more else ask(job, *more)

            patch.setattr(store, asked, lose)
            reconciler.reconcile()
        reconciler.reconcile()
        assert quiet.store.state(handle.id) == "queued"
        quiet.store.drop(handle.id)
        reconciler.close()


def test_redis_restarts_empty_and_its_workers_are_replaced(server: RedisServer, traced: Traced, tmp_path: Path) -> None:
    """Only the waiting client and storage still know the job; it ends, and what had committed does not run again."""
    gate = traced.gate("wait-c2")
    settings = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage"), "queue": "q"}
    with traced.submit(**settings) as handle:
        with workers(tmp_path / "first", server.tcp_url, queue="q", env=QUICK):
            eventually(
                lambda: handle.status().stages and handle.status().stages[0].succeeded == 5, "all but one are done"
            )
            look_once(handle)
        server.stop()
        gate.unlink()
        server.start()
        with workers(tmp_path / "second", server.tcp_url, queue="q", env=QUICK):
            handle.wait(90)
        assert results(handle) == COUNTS
    assert traced.runs() == {**dict.fromkeys(LINES, 1), "c2": 2, "reduce-a": 1, "reduce-b": 1, "reduce-c": 1}


def test_a_worker_that_is_added_later(quiet: Quiet, traced: Traced, tmp_path: Path) -> None:
    gate = traced.gate("wait-a1")
    with quiet.workers(concurrency=1, env=QUICK), traced.submit(**quiet.settings) as handle:
        eventually(lambda: traced.runs().get("a1"), "the first task runs")
        with workers(tmp_path / "more", quiet.server.tcp_url, 1, queue=quiet.name, concurrency=1, env=QUICK):
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


# The first attempt at the slow lines takes minutes, a second one about a second.
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
        quiet.workers(concurrency=1, env=QUICK),
        workers(tmp_path / "more", quiet.server.tcp_url, 1, queue=quiet.name, concurrency=1, env=QUICK),
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
        handle.wait(2 * PATIENCE)  # a fifth of the slow attempt's time
        assert results(handle) == dict.fromkeys(lines, 600)
        assert again.exists()
        assert sorted(path.name for path in folder.glob("*-again")) == ["slow-again"]
        eventually(lambda: not quiet.held(), "the slow attempt has stopped")


@pytest.mark.parametrize("begun", [True, False])
def test_a_storage_that_is_away_as_a_job_starts(
    quiet: Quiet, traced: Traced, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that had already started waits for the storage; a new one fails at once."""

    def away(*_: Any) -> None:
        raise StorageUnreachableError("away")

    monkeypatch.setattr(tasks, "start", away)
    with traced.submit(**quiet.settings) as handle:
        if begun:
            quiet.store.update(handle.id, {"started": "1.0"})
        with pytest.raises(Retry if begun else tasks.AttemptFailed):
            quiet.run("mrcelery.start", job=handle.id)
        assert handle.status().state == ("queued" if begun else "failed")
