"""``mrcelery clean`` leaves nothing, whenever an earlier one was killed, and takes nothing that a job may read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.client import uploads
from mrcelery.schema import object_keys
from mrcelery.storage import open_storage
from tests.support.services import Fleet, Quiet, command, environment, eventually, redis_server, results

JobFile = Callable[..., str]

PROBE = "mrcelery.json"


@pytest.fixture
def env(fleet: Fleet, tmp_path: Path) -> dict[str, str]:
    """The fleet with a storage of the test's own."""
    return {**fleet.env, "MRCELERY_STORAGE": str(tmp_path / "storage")}


def left(uri: str) -> set[str]:
    return {info.key for info in open_storage(uri).list()} - {PROBE}


def cleaned(env: dict[str, str], *args: str) -> list[dict[str, Any]]:
    done = command("clean", *args, "--json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def submitted(env: dict[str, str], word_count: str, stdin: str = "a rose\n") -> str:
    done = command("submit", word_count, "-", "--json", env=env, stdin=stdin)
    assert done.returncode == 0, done.stderr
    job: str = json.loads(done.stdout.splitlines()[-1])["job"]
    return job


@pytest.mark.parametrize("size", ["small", "large"])
def test_uploaded_inputs_go_with_the_last_job_that_uses_them(
    fleet: Fleet, bucket: str, word_count: str, tmp_path: Path, size: str
) -> None:
    uri = f"s3://{bucket}/clean-{size}"
    env = {**fleet.env, "MRCELERY_STORAGE": uri}
    more = uploads.SMALL if size == "large" else 0
    jobs = {}
    for name, texts in (("one", ("a", "b")), ("two", ("b", "c"))):
        for text in texts:
            (tmp_path / text).write_text(f"{text}\n" * (1 + more // 2))
        settings = {**fleet.settings, "storage": uri}
        with mrcelery.run(word_count, [str(tmp_path / text) for text in texts], **settings) as handle:
            jobs[name] = handle.id
    # The workers remove what the jobs no longer need after their end.
    eventually(lambda: not any("/part-" in key and "/step-" in key for key in left(uri)), "intermediate data is gone")
    eventually(lambda: not any(key.endswith("commit.json") for key in left(uri)), "commits are gone")
    inputs = {key.rpartition("/")[2] for key in left(uri) if key.startswith("inputs/")}
    assert inputs == {"a", "b", "c"}
    (one,) = cleaned(env, jobs["one"], "--dry-run")
    assert {key.rpartition("/")[2] for key in left(uri) if key.startswith("inputs/")} == inputs
    (really,) = cleaned(env, jobs["one"])
    assert really == one
    assert {key.rpartition("/")[2] for key in left(uri) if key.startswith("inputs/")} == {"b", "c"}
    assert [job["job"] for job in cleaned(env, "--older-than", "0s")] == [jobs["two"]]
    assert left(uri) == set()


def test_standard_input_goes_too(env: dict[str, str], word_count: str) -> None:
    job = submitted(env, word_count)
    assert any(key.endswith("/stdin") for key in left(env["MRCELERY_STORAGE"]))
    assert [one["job"] for one in cleaned(env, job)] == [job]
    assert [path.name for path in Path(env["MRCELERY_STORAGE"]).rglob("*")] == [PROBE]


def test_inputs_of_no_job_go_by_their_age(env: dict[str, str], fleet: Fleet, word_count: str) -> None:
    storage = open_storage(env["MRCELERY_STORAGE"])
    storage.write(object_keys.shared_input("0" * 64, "big.txt"), b"a\n")
    assert cleaned(env) == []
    assert cleaned({**env, "MRCELERY_BROKER": ""}, "--older-than", "0s") == []  # a fleet that is not known here
    assert cleaned(env, "--older-than", "0s") == [{"job": "", "objects": 1, "bytes": 2}]
    assert left(env["MRCELERY_STORAGE"]) == set()


def test_inputs_of_a_job_that_waits_stay(quiet: Quiet, word_count: str, text: Path) -> None:
    """It has no spec yet, only a request."""
    storage = open_storage(quiet.settings["storage"])
    key = object_keys.shared_input("0" * 64, "big.txt")
    storage.write(key, b"a\n")
    env = environment(MRCELERY_BROKER=quiet.server.tcp_url, MRCELERY_STORAGE=quiet.settings["storage"])
    for given in (key, "inputs/", f"inputs/{'0' * 64}/*.txt"):
        with mrcelery.submit(word_count, f"{quiet.settings['storage']}/{given}", **quiet.settings) as handle:
            assert cleaned(env, "--older-than", "0s") == []
            assert storage.stat(key) is not None
            handle.cancel()
            quiet.store.drop(handle.id)


def test_a_job_elsewhere_that_cannot_be_read_is_no_reason_to_keep_them(env: dict[str, str], quiet: Quiet) -> None:
    storage = open_storage(env["MRCELERY_STORAGE"])
    for name, where, removed in (("other", "/elsewhere", 1), ("ours", env["MRCELERY_STORAGE"], 0)):
        storage.write(object_keys.shared_input("0" * 64, "big.txt"), b"a\n")
        quiet.store.create(f"{quiet.name}-{name}", {"storage": where}, b"")
        assert len(cleaned(env, "--older-than", "0s")) == removed
        quiet.store.drop(f"{quiet.name}-{name}")


def test_inputs_stay_while_a_spec_cannot_be_read(env: dict[str, str]) -> None:
    storage = open_storage(env["MRCELERY_STORAGE"])
    storage.write(object_keys.shared_input("0" * 64, "big.txt"), b"a\n")
    storage.write(object_keys.spec("odd-20990101-000000-abcdef"), b"{}")
    done = command("clean", "--older-than", "0s", env=env)
    assert done.returncode == 0
    assert done.stderr.startswith(
        "mrcelery: uploaded inputs are kept, as the specs of these jobs cannot be read: odd-2099"
    )
    assert storage.stat(object_keys.shared_input("0" * 64, "big.txt")) is not None


KILLED = """
import os, signal, sys
from pathlib import Path
from mrcelery.cli.main import cli, run_command

left = int(sys.argv[1])
for name in ("unlink", "rmdir"):
    def counted(self, *args, _real=getattr(Path, name), **more):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return _real(self, *args, **more)
    setattr(Path, name, counted)
sys.exit(run_command(cli, ["clean", sys.argv[2]], "mrcelery"))
"""


@pytest.mark.parametrize("known", [True, False], ids=["fleet", "storage-alone"])
def test_a_clean_that_is_killed_leaves_what_the_next_one_finds(
    env: dict[str, str], word_count: str, known: bool
) -> None:
    """Killed before each of its removals in turn."""
    submitting, env = env, env if known else {**env, "MRCELERY_BROKER": ""}
    for at in range(0, 40, 3):
        job = submitted(submitting, word_count, f"{at}\n")
        killed = subprocess.run([sys.executable, "-c", KILLED, str(at), job], env=env, capture_output=True)
        cleaned(env, "--older-than", "0s")
        assert left(env["MRCELERY_STORAGE"]) == set(), at
        folders = [path for path in Path(env["MRCELERY_STORAGE"], "jobs").glob("*") if known]
        assert folders == [], at
        assert job not in command("list", env=env).stdout
        if killed.returncode == 0:
            return
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    pytest.fail("a clean of one job takes more than 40 removals")


def test_a_job_of_the_local_runner_stays_out_of_a_fleets_storage(
    env: dict[str, str], word_count: str, text: Path, tmp_path: Path
) -> None:
    with redis_server():
        pass  # a server must be there, else this skips
    before = command("list", "--json", env=env).stdout
    for runner in ("local", "inline"):
        done = command("submit", word_count, text, "-r", runner, env=env)
        assert done.returncode == 0, done.stderr
        assert "rose" in done.stdout
        no_broker = {name: value for name, value in env.items() if name != "MRCELERY_BROKER"}
        assert command("submit", word_count, text, "-r", runner, env=no_broker).returncode == 0
        with mrcelery.run(word_count, str(text), runner=runner) as handle:
            assert results(handle) == {"a": 3, "rose": 3, "is": 2}
    assert left(env["MRCELERY_STORAGE"]) == set()
    assert command("list", "--json", env=env).stdout == before
    # Where it is asked for, it is used.
    mine = tmp_path / "mine"
    assert command("submit", word_count, text, "-r", "inline", "--storage", str(mine), env=env).returncode == 0
    assert left(str(mine)) != set()
    own = environment(MRCELERY_STORAGE=str(tmp_path / "own"), MRCELERY_RUNNER="inline")
    assert command("submit", word_count, text, env=own).returncode == 0
    assert left(str(tmp_path / "own")) != set()
