"""The same token: one job, whatever becomes of the clients that ask for it; another job with it is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.errors import UsageError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners import enter as entering
from mrcelery.schema import object_keys
from mrcelery.shipping.bundle import load_job
from tests.support.services import (
    PATIENCE,
    WORD_COUNT,
    Fleet,
    Quiet,
    command,
    eventually,
    redis_server,
    results,
    workers,
)

COUNTS = {"a": 3, "is": 2, "rose": 3}
OTHER = WORD_COUNT.replace('"words"', '"other words"')


@pytest.fixture
def given(fleet: Fleet) -> dict[str, Any]:
    return {**fleet.settings, "client_token": os.urandom(8).hex()}


def test_a_repeat_returns_the_job_and_waits_for_it(given: dict[str, Any], word_count: str, text: Path) -> None:
    with (
        mrcelery.submit(word_count, str(text), **given) as first,
        mrcelery.submit(word_count, str(text), **given) as second,
    ):
        assert first.id == second.id
        assert second.wait(PATIENCE).state == "succeeded"
        assert results(second) == COUNTS
        assert len(second.runner.store.jobs(1000)) == len(set(second.runner.store.jobs(1000)))  # type: ignore[union-attr]


def test_something_else_with_the_same_token_is_refused(
    given: dict[str, Any], word_count: str, text: Path, tmp_path: Path, job_file: Callable[..., str]
) -> None:
    with mrcelery.submit(word_count, str(text), **given) as job:
        job.wait(PATIENCE)
        (tmp_path / "other.txt").write_text("x")
        other = job_file(OTHER, "other/wc.py")
        cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            ((other, str(text)), {}, "another job"),
            ((word_count, str(text)), {"name": "renamed"}, "another job"),
            ((word_count, str(tmp_path / "other.txt")), {}, "other inputs"),
            ((word_count, [str(text), str(text)]), {}, "other inputs"),
            ((word_count, str(text), str(tmp_path / "out")), {}, "another output"),
            ((word_count, str(text)), {"reducers": 3}, "other options"),
            ((other, str(text)), {"jobconf": {"a": "b"}}, "another job and other options"),
        ]
        again: Callable[..., mrcelery.JobHandle] = mrcelery.submit
        for args, more, says in cases:
            with pytest.raises(UsageError, match=f"belongs to job {job.id}, which was submitted with {says}: give"):
                again(*args, **given, **more)
        assert mrcelery.submit(word_count, str(text), **given).id == job.id


@pytest.mark.parametrize("second", [WORD_COUNT, OTHER], ids=["the same", "another"])
def test_both_come_at_once(
    quiet: Quiet, text: Path, job_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    """Neither has seen the other's job when they enter theirs: one wins, and its code runs."""
    given = {**quiet.settings, "client_token": os.urandom(8).hex()}
    together = threading.Barrier(2)
    create = RedisJobStore.create

    def meet(self: RedisJobStore, *args: Any) -> bool:
        together.wait(PATIENCE)
        return create(self, *args)

    monkeypatch.setattr(RedisJobStore, "create", meet)
    jobs: list[mrcelery.JobHandle] = []
    refused: list[str] = []

    def submit(job: type[mrcelery.MRJob]) -> None:
        try:
            jobs.append(mrcelery.submit(job, str(text), **given))
        except UsageError as e:
            refused.append(str(e))

    one = load_job(job_file(WORD_COUNT, "one.py"), ())
    two = one if second == WORD_COUNT else load_job(job_file(second, "two.py"), ())
    clients = [threading.Thread(target=submit, args=(job,)) for job in (one, two)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(PATIENCE)
    assert (len(jobs), len(refused)) == ((2, 0) if second == WORD_COUNT else (1, 1))
    assert all("which was submitted with another job" in message for message in refused)
    with quiet.workers():
        for job in jobs:
            job.wait(PATIENCE)
            assert results(job) == COUNTS
            job.close()


@pytest.mark.parametrize("before", ["put_blob", "create", "push"])
def test_the_first_client_dies(
    given: dict[str, Any], word_count: str, text: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RedisJobStore, before, die)
        mrcelery.submit(word_count, str(text), **given)
    with mrcelery.submit(word_count, str(text), **given) as job:
        job.wait(PATIENCE)
        assert results(job) == COUNTS


def test_code_that_goes_through_storage(
    given: dict[str, Any], word_count: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there before anybody can start the job, however long it takes."""
    monkeypatch.setattr(entering, "INLINE_CODE", 10)
    create = RedisJobStore.create

    def late(self: RedisJobStore, job: str, *args: Any) -> bool:
        assert (Path(given["storage"]) / object_keys.code(job)).stat().st_size > 10
        return create(self, job, *args)

    monkeypatch.setattr(RedisJobStore, "create", late)
    with mrcelery.submit(word_count, str(text), **given) as job:
        job.wait(PATIENCE)


def test_a_job_that_the_job_store_has_forgotten(given: dict[str, Any], word_count: str, text: Path) -> None:
    with mrcelery.submit(word_count, str(text), **given) as job:
        job.wait(PATIENCE)
        job.runner.store.drop(job.id)  # type: ignore[union-attr]
    with mrcelery.submit(word_count, str(text), **given) as again:
        assert again.runner.store.state(job.id) == ""  # type: ignore[union-attr]
        assert again.wait(PATIENCE).state == "succeeded"
        assert results(again) == COUNTS
    with pytest.raises(UsageError, match="belongs to job"):
        mrcelery.submit(word_count, str(text), reducers=2, **given)


def test_standard_input(fleet: Fleet, word_count: str) -> None:
    args = ("submit", word_count, "-", "--client-token", os.urandom(8).hex())
    first = command(*args, env=fleet.env, stdin="a b\n")
    again = command(*args, env=fleet.env, stdin="not read\n")
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert sorted(again.stdout.splitlines()) == sorted(first.stdout.splitlines()) == ['"a"\t1', '"b"\t1']


@pytest.mark.parametrize("runner", ["inline", "local"])
def test_runners_of_this_machine(runner: str, word_count: str, text: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"runner": runner, "client_token": "t"}
    with pytest.raises(UsageError, match=f"outlives the {runner} runner, where a repeat finds the job: give --storage"):
        mrcelery.submit(word_count, str(text), **given)
    given["storage"] = str(tmp_path / "store")
    found = []
    for _ in range(2):
        with mrcelery.submit(word_count, str(text), str(tmp_path / "out"), **given) as job:
            job.wait(PATIENCE)
            found.append((job.id, job.report(), results(job)))
    assert found[0] == found[1]  # the report too: nothing ran again
    assert found[0][2] == COUNTS
    with pytest.raises(UsageError, match="other inputs"):
        mrcelery.submit(word_count, word_count, str(tmp_path / "out"), **given)


def test_a_request_is_there_with_its_job(word_count: str, text: Path, tmp_path: Path) -> None:
    """A client that finds the job finds its request too: they appear as one."""
    with redis_server() as server, workers(tmp_path / "w", server.tcp_url):
        seen = RedisJobStore(server.tcp_url)
        given = {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "s"), "client_token": "t"}
        missed: list[str] = []
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                for job in seen.live():
                    if seen.request(job) is None:
                        missed.append(job)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            with mrcelery.submit(word_count, str(text), **given) as job:
                job.wait(PATIENCE)
        finally:
            stop.set()
            looking.join(PATIENCE)
            seen.close()
        eventually(lambda: not looking.is_alive(), "the looker ends")
        assert missed == []
