"""If Redis restarts with an older snapshot, nothing of an ended job runs again, and no retry is forgotten."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mrcelery
from mrcelery.errors import JobFailedError, MRCeleryError
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import Gate, RedisServer, command, eventually, workers

JobFile = Callable[..., str]
QUEUE = "older"
TASKS = 4

JOB = """
    import os, time
    from mrcelery import MRJob

    class Gated(MRJob):
        def mapper(self, _, line):
            open(os.path.join(line, f"{os.getpid()}-{time.time_ns()}"), "w").close()
            while not os.path.exists(os.path.join(line, "go")):
                time.sleep(0.02)
                yield "waits", 0
            if os.path.exists(os.path.join(line, "fail")):
                raise ValueError("as it is told to")
            yield "seen", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


class Scene:
    """A fleet that runs a job of four map tasks, two at a time, with a Redis whose snapshot can be restored."""

    def __init__(self, server: RedisServer, job: str, folder: Path) -> None:
        self.server, self.folder, self.out = server, folder, folder / "out"
        self.gate = Gate(folder, TASKS)
        self.seen = folder / "seen"
        self.fleet = ("--broker", server.tcp_url, "--storage", str(folder / "storage"))
        self.handle = mrcelery.submit(
            job, str(self.gate.text), str(self.out), runner="celery", broker=server.tcp_url, queue=QUEUE,
            storage=str(folder / "storage"), split_size=self.gate.split_size, reducers=1,
        )  # fmt: skip
        assert isinstance(self.handle._store, RedisJobStore)
        self.store = self.handle._store

    @property
    def state(self) -> str:
        try:
            return self.store.state(self.handle.id)
        except MRCeleryError:
            return ""  # Redis is restarting

    def save(self) -> None:
        self.store.call(("SAVE",))
        shutil.copy(self.server.folder / "dump.rdb", self.folder / "older.rdb")

    def restore(self) -> None:
        self.server.stop()
        shutil.copy(self.folder / "older.rdb", self.server.folder / "dump.rdb")
        self.server.start()

    def starts(self) -> int:
        return len(set(os.listdir(self.seen)) - {"go", "fail"})

    def tell(self, what: str) -> None:
        (self.seen / what).touch()

    def end(self, how: str) -> None:
        """Make the job and all its tasks end."""
        if how == "cancelled":
            assert self.handle.cancel()
        if how == "failed":
            self.tell("fail")
        self.gate.open()
        eventually(lambda: self.state == how.replace("cleaned", "succeeded"), f"it has {how}")
        eventually(lambda: not self.store.call(("HLEN", "unacked"))[0], "nothing of it is held")
        if how == "cleaned":
            found = command("clean", self.handle.id, *self.fleet)
            assert found.returncode == 0, found.stderr
            assert self.state == ""

    def queued(self) -> int:
        (left,) = self.store.call(("LLEN", QUEUE))
        assert isinstance(left, int)
        return left


@contextmanager
def scene(server: RedisServer, job: str, folder: Path) -> Iterator[Scene]:
    with workers(folder / "workers", server.tcp_url, queue=QUEUE, MRCELERY_VISIBILITY_TIMEOUT="5"):
        made = Scene(server, job, folder)
        with made.handle:
            eventually(lambda: made.gate.starts() == 2, "two tasks run")
            yield made


def published(out: Path) -> list[tuple[str, int]]:
    """Return the modification times of OUTPUT and its files; a claim changes the time of the folder itself."""
    return [(path.name, path.stat().st_mtime_ns) for path in (out, *sorted(out.glob("*")))] if out.exists() else []


@pytest.mark.parametrize("how", ["succeeded", "failed", "cancelled", "cleaned"])
def test_tasks_of_a_job_that_has_ended(how: str, server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """Messages that the snapshot restores run nothing; OUTPUT is unchanged, and the job's end is the same as before."""
    with scene(server, job_file(JOB), tmp_path) as made:
        made.save()
        assert made.queued() == 2
        made.end(how)
        starts, before = made.starts(), published(made.out)
        expected = "failed" if how == "cleaned" else how
        made.restore()
        # The workers may not have compared it with storage yet.
        assert made.state in ("running", expected)
        eventually(lambda: made.state == expected, "it is brought up to date")
        eventually(lambda: not made.queued() and not made.store.call(("HLEN", "unacked"))[0], "all messages are read")
        assert made.starts() == starts
        assert published(made.out) == before
        shown = command("status", made.handle.id, *made.fleet)
        assert expected in shown.stdout, shown.stderr
        if how == "cleaned":
            assert "is gone from" in shown.stdout
            assert not list((tmp_path / "storage" / "jobs").glob("*")), "nothing comes back to storage"


@pytest.mark.parametrize("asks", ["status", "list"])
def test_what_a_client_is_told_without_workers(
    asks: str, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    with scene(server, job_file(JOB), tmp_path) as made:
        made.save()
        made.end("succeeded")
    made.restore()
    assert made.state == "running"
    shown = command(asks, *([made.handle.id] if asks == "status" else []), *made.fleet)
    assert "succeeded" in shown.stdout, shown.stderr
    assert made.state == "succeeded", "and so it is from now on"
    made.store.close()


@pytest.mark.parametrize("waits", [True, False])
def test_a_retry_that_the_snapshot_does_not_know(
    waits: bool, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """The running generation continues, even if no client waits for it."""
    with scene(server, job_file(JOB), tmp_path) as made:
        made.end("failed")
        made.save()
        (made.seen / "go").unlink()
        (made.seen / "fail").unlink()
        made.handle.retry()
        starts = made.starts()
        eventually(lambda: made.starts() == starts + 2, "the next generation runs")
        made.restore()
        made.gate.open()
        if waits:
            made.handle.wait(120)
        eventually(lambda: made.state == "succeeded", "it goes on and ends")
        assert made.store.fields(made.handle.id)["revived"] == "1"
        assert dict(made.handle)["seen"] == TASKS
        made.restore()  # and again after it has ended
        starts = made.starts()
        shown = command("retry", made.handle.id, *made.fleet)
        assert "succeeded: only a job that failed or was cancelled" in shown.stderr
        assert made.starts() == starts


def test_a_retry_of_a_job_that_was_cleaned(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """A snapshot restores the job as failed; its data is gone, and the error says so."""
    with scene(server, job_file(JOB), tmp_path) as made:
        made.end("failed")
        made.save()
        assert command("clean", made.handle.id, *made.fleet).returncode == 0
        made.restore()
        shown = command("retry", made.handle.id, *made.fleet)
        assert shown.returncode == 1
        assert f"the data of job {made.handle.id} is gone" in shown.stderr
        with pytest.raises(JobFailedError, match="submit it again"):
            made.handle.wait(120)
        assert not list((tmp_path / "storage" / "jobs").glob("*")), "nothing comes back to storage"


def test_a_job_is_compared_once_in_each_run_of_the_server(server: RedisServer) -> None:
    server.command[server.command.index("--save") + 1] = "3600 1"  # saved at a shutdown
    ours, others = RedisJobStore(server.tcp_url), RedisJobStore(server.tcp_url)
    ours.create("j", {"created": "1"}, b"")
    first = ours.unsure("j", ours.compared("j")[1])
    assert first
    ours.note_compared("j", first)
    for store in (ours, others):
        assert store.compared("j") == ("queued", first)
        assert store.unsure("j", store.compared("j")[1]) == ""
    ours.call(("SAVE",))
    server.stop()
    server.start()
    for store in (ours, others):
        assert store.compared("j") == ("queued", first)
        second = store.unsure("j", first)
        assert second not in ("", first)
    ours.note_compared("j", second, here=True)
    assert ours.unsure("j", first) == ""
    assert others.unsure("j", others.compared("j")[1]) == second
    ours.close()
    others.close()


def test_a_job_that_is_registered_again_in_an_emptied_redis(server: RedisServer) -> None:
    """A store that had compared the job must compare it again."""
    store = RedisJobStore(server.tcp_url)
    for _ in range(2):
        store.create("j", {"created": "1"}, b"")
        run = store.unsure("j", store.compared("j")[1])
        assert run
        store.note_compared("j", run)
        assert store.unsure("j", store.compared("j")[1]) == ""
        store.call(("FLUSHALL",))
    store.close()


def test_a_server_that_does_not_say_who_it_is(server: RedisServer) -> None:
    """A connection takes the place of the server's run id: each process compares each job once."""
    store = RedisJobStore(server.tcp_url)
    store.call(("ACL", "SETUSER", "default", "-info"))
    store.create("j", {"created": "1"}, b"")
    run = store.unsure("j", store.compared("j")[1])
    store.note_compared("j", run)
    assert store.unsure("j", store.compared("j")[1]) == ""
    store.close()
    assert store.unsure("j", store.compared("j")[1]) not in ("", run)
    store.close()
