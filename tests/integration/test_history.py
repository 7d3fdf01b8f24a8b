"""``list``: what the fleet knows and what storage has kept of it, as one list."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import mrcelery
from mrcelery.reporting.history import created_by_id
from mrcelery.reporting.report import Report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode, encode
from mrcelery.storage import open_storage
from tests.support.s3_endpoint import VARIABLE
from tests.support.s3_proxy import Log, proxy
from tests.support.services import PATIENCE, Fleet, command, environment, free_port


def listed(env: dict[str, str], *args: str) -> list[dict[str, Any]]:
    ran = command("list", *args, "--json", env=env)
    assert (ran.returncode, ran.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return found


def ids(env: dict[str, str], *args: str) -> list[str]:
    return [one["job"] for one in listed(env, *args)]


@pytest.fixture
def past(tmp_path: Path) -> tuple[dict[str, str], list[str]]:
    """A storage with three jobs in it, and no broker; their ids, newest first."""
    folder = tmp_path
    (folder / "text").write_text("a b\n")
    jobs: list[str] = []
    for name, more in (("First one", {}), ("second", {"owner": "zoe"}), ("First two", {"client_token": "t"})):
        with mrcelery.run(
            "mrcelery.examples.word_count", str(folder / "text"), runner="inline", storage=str(folder / "store"),
            name=name, **more,
        ) as job:  # fmt: skip
            jobs.insert(0, job.id)
    return environment(MRCELERY_STORAGE=str(folder / "store")), jobs


def change(env: dict[str, str], job: str, **more: Any) -> None:
    """Have a job's report say something else."""
    storage, key = open_storage(env["MRCELERY_STORAGE"]), object_keys.report(job)
    storage.write(key, encode(replace(decode(storage.read(key), Report), **more)))


def test_storage_alone(past: tuple[dict[str, str], list[str]]) -> None:
    env, jobs = past
    found = listed(env)
    assert [one["job"] for one in found] == jobs  # the token's, whose id has no time, where it belongs
    assert {one["state"] for one in found} == {"succeeded"}
    assert found[1]["owner"] == "zoe"
    assert all(one["created"] <= one["started"] <= one["finished"] <= time.time() for one in found)
    shown = command("list", env=env).stdout.splitlines()
    assert shown[0].split() == ["JOB", "STATE", "NAME", "SUBMITTED", "TOOK", "OWNER"]
    assert "First two" in shown[1]


def test_a_job_that_failed_says_why(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "from mrcelery import MRJob\nclass Fails(MRJob):\n    def mapper(self, _, line):\n        yield 1 // 0, 1\n"
    )
    (tmp_path / "text").write_text("a\n")
    env = environment(MRCELERY_STORAGE=str(tmp_path / "store"))
    job = ("submit", tmp_path / "job.py", tmp_path / "text", "--runner", "inline", "--storage", tmp_path / "store")
    assert command(*job, env=env).returncode == 1
    (failed,) = listed(env, "--state", "failed")
    assert failed["message"].startswith("ZeroDivisionError")


def test_filters(past: tuple[dict[str, str], list[str]]) -> None:
    env, jobs = past
    newest, second, oldest = jobs
    assert ids(env, "--limit", "2") == jobs[:2]
    assert ids(env, "--name", "First*") == [newest, oldest]
    assert ids(env, "--name", "first*") == []
    assert ids(env, "--owner", "zoe") == [second]
    assert ids(env, "--since", "1h") == jobs
    assert ids(env, "--since", "0s") == []
    assert ids(env, "--until", "1h") == []
    assert ids(env, "--until", "0s") == jobs
    change(env, oldest, state="failed")
    change(env, second, state="cancelled")
    assert ids(env, "--state", "failed") == [oldest]
    assert ids(env, "--state", "failed", "--state", "cancelled") == [second, oldest]
    ran = command("list", "--state", "lost", env=env)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    storage = open_storage(env["MRCELERY_STORAGE"])
    storage.delete([object_keys.report(oldest)])
    assert ids(env, "--state", "unknown") == [oldest]
    storage.write(object_keys.spec(oldest), b"{}")
    (damaged,) = listed(env, "--state", "unknown")
    assert "is damaged" in damaged["message"]
    assert damaged["created"] == created_by_id(oldest)


def test_as_one_list(fleet: Fleet, word_count: str, text: Path, tmp_path: Path) -> None:
    settings = {**fleet.settings, "storage": str(tmp_path / "store"), "owner": os.urandom(4).hex()}
    env = {**fleet.env, "MRCELERY_STORAGE": settings["storage"]}
    jobs: list[str] = []
    for number in range(4):
        with mrcelery.submit(word_count, str(text), **settings) as job:
            job.wait(PATIENCE)
            jobs.insert(0, job.id)
            if number in (0, 2):
                job.runner.store.drop(job.id)  # type: ignore[union-attr]
    mine = ("--owner", settings["owner"])
    assert ids(env, *mine) == jobs
    assert ids(env, *mine, "--limit", "3") == jobs[:3]
    known = {k: v for k, v in env.items() if k != "MRCELERY_STORAGE"}
    assert ids(known, *mine) == [jobs[0], jobs[2]]


@pytest.fixture
def log(bucket: str) -> Iterator[Log]:
    with proxy() as log:
        yield log


def test_what_it_asks_of_s3(log: Log, bucket: str, text: Path, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """One listing, whatever lies in the jobs' folders, and two small objects for each job that is shown."""
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    jobs: list[str] = []
    for _ in range(3):
        with mrcelery.run("mrcelery.examples.word_count", str(text), runner="inline", storage=root, keep=True) as job:
            jobs.insert(0, job.id)
    log.requests.clear()
    env = environment(MRCELERY_STORAGE=root)
    assert ids(env, "--limit", "2") == jobs[:2]
    assert log.billed() == {"LIST": 1, "GET": 4}
    log.requests.clear()
    assert ids(env, "--since", "0s") == []
    assert log.billed() == {"LIST": 1}
    # The storage is away: what the fleet knows is shown, and that there may be more.
    monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = environment(MRCELERY_STORAGE=root, AWS_MAX_ATTEMPTS="1")
    assert command("list", env=away).returncode == 3
    ran = command("list", env={**away, "MRCELERY_BROKER": fleet.server.tcp_url})
    assert (ran.returncode, ran.stdout.split()[0]) == (0, "JOB")
    assert ran.stderr.startswith("mrcelery: only jobs that the fleet knows are shown: the S3 endpoint")
