"""Submit a job, leave and return later, with the real command, as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import Fleet, command, eventually, results

JobFile = Callable[..., str]

GATE = """
    import logging, os, sys, time
    from mrcelery import MRJob

    class Gate(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate")

        def mapper(self, _, line):
            self.increment_counter("gate", "lines")
            print("printed", line)
            print("to stderr", line, file=sys.stderr)
            logging.getLogger("mine").warning("logged %s", line)
            while not os.path.exists(self.options.gate):
                yield "waiting", 0
                time.sleep(0.002)
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
def gate_job(job_file: JobFile) -> str:
    return job_file(GATE, "gate.py")


def detach(fleet: Fleet, job: str, text: Path, gate: Path, *more: str) -> str:
    done = command("submit", job, text, "--detach", *more, "--", "--gate", gate, env=fleet.env)
    assert done.returncode == 0, done.stderr
    (identity,) = done.stdout.split()
    return identity


def read(fleet: Fleet, *args: str) -> Any:
    done = command(*args, "--json", env=fleet.env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def runs_of(fleet: Fleet, name: str) -> list[str]:
    """Return the running jobs with this name; other tests' jobs may run on the fleet too."""
    return [one["job"] for one in read(fleet, "list", "--state", "running") if one["name"] == name]


def running(fleet: Fleet, job: str) -> bool:
    return bool(read(fleet, "status", job)["status"]["state"] == "running")


def check_refusals_while_running(fleet: Fleet, job: str) -> None:
    waited = command("wait", job, "--timeout", "0.2s", env=fleet.env)
    assert waited.returncode == 4
    assert f"{job} is still running" in waited.stderr
    early = command("cat", job, env=fleet.env)
    assert early.returncode == 2
    assert "wait until it ends" in early.stderr
    assert job in [one["job"] for one in read(fleet, "list", "--state", "running")]
    kept = command("clean", job, env=fleet.env)
    assert "cancel it first" in kept.stderr


def check_success(fleet: Fleet, job: str) -> None:
    waited = command("wait", job, env=fleet.env)
    assert (waited.returncode, waited.stdout) == (0, "")
    *_, last = command("wait", job, "--json", env=fleet.env).stdout.splitlines()
    assert (json.loads(last)["event"], json.loads(last)["state"]) == ("succeeded", "succeeded")
    status = read(fleet, "status", job)["status"]
    assert status["state"] == "succeeded"
    assert status["finished"] >= status["started"] >= status["created"]
    assert [(s["kind"], s["succeeded"], s["total"]) for s in status["stages"]] == [("map", 1, 1), ("reduce", 2, 2)]
    shown = command("status", job, env=fleet.env)
    assert shown.returncode == 0
    assert "succeeded" in shown.stdout


def check_counters_and_logs(fleet: Fleet, job: str) -> None:
    assert read(fleet, "counters", job)["gate"] == {"lines": 2}
    assert "lines=2" in command("counters", job, env=fleet.env).stdout
    log = command("logs", job, env=fleet.env)
    assert log.returncode == 0
    for said in ("printed is a rose", "to stderr a rose is a rose", "WARNING mine: logged is a rose"):
        assert said in log.stdout
    assert "map 0" in log.stdout
    none = command("logs", job, "--kind", "reduce", env=fleet.env)
    assert none.stdout == ""
    assert "no matching logs" in none.stderr


def check_cleaning(fleet: Fleet, job: str) -> None:
    root = Path(fleet.settings["storage"]) / "jobs" / job
    assert root.exists()
    dry = command("clean", job, "--dry-run", env=fleet.env)
    assert f"would remove {job}" in dry.stdout
    assert root.exists()
    cleaned = read(fleet, "clean", job)
    assert [one["job"] for one in cleaned] == [job]
    assert not root.exists()
    gone = command("status", job, env=fleet.env)
    assert gone.returncode == 2
    assert f"job {job} is not known here" in gone.stderr


def test_a_job_from_submit_to_clean(fleet: Fleet, gate_job: str, text: Path, gate: Path, tmp_path: Path) -> None:
    job = detach(fleet, gate_job, text, gate, "--name", "My Gate", "-R", "2")
    assert job.startswith("my-gate-")
    eventually(lambda: running(fleet, job), "the job runs")
    status = read(fleet, "status", job)["status"]
    assert (status["job"], status["name"], status["finished"]) == (job, "My Gate", 0)
    assert status["owner"]
    check_refusals_while_running(fleet, job)

    gate.touch()
    check_success(fleet, job)

    printed = command("cat", job, env=fleet.env)
    assert printed.returncode == 0
    pairs = {json.loads(k): json.loads(v) for k, v in (line.split("\t") for line in printed.stdout.splitlines())}
    pairs.pop("waiting", None)
    assert pairs == {"a rose is a rose": 1, "is a rose": 1}

    check_counters_and_logs(fleet, job)

    (listed,) = [one for one in read(fleet, "list") if one["job"] == job]
    assert listed["state"] == "succeeded"

    home = tmp_path / "home"
    fetched = command("fetch", job, home, env=fleet.env)
    assert fetched.returncode == 0, fetched.stderr
    assert sorted(path.name for path in home.iterdir()) == ["_SUCCESS", "part-00000", "part-00001"]
    assert command("cat", home, env=fleet.env).stdout == printed.stdout
    again = command("cancel", job, env=fleet.env)
    assert again.returncode == 0
    assert "ended already: succeeded" in again.stdout

    check_cleaning(fleet, job)


def test_cancel(fleet: Fleet, gate_job: str, text: Path, gate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = detach(fleet, gate_job, text, gate, "-o", str(output))
    eventually(lambda: running(fleet, job), "the job runs")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "mrcelery", "wait", job], env=fleet.env, stderr=subprocess.PIPE, text=True
    )
    done = command("cancel", job, env=fleet.env)
    assert (done.returncode, done.stdout) == (0, f"{job} cancelled\n")
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 5
    assert f"job {job} was cancelled" in said
    assert command("wait", job, env=fleet.env).returncode == 5
    assert command("cat", job, env=fleet.env).returncode == 5
    status = read(fleet, "status", job)["status"]
    assert status["state"] == "cancelled"
    # The mapper would run forever. If the fleet runs the next job, all 4 cancelled ones have stopped.
    for _ in range(4):
        assert read(fleet, "cancel", detach(fleet, gate_job, text, gate)).popitem()[1] == "cancelled"
    gate.touch()
    with mrcelery.run(gate_job, str(text), args=["--gate", str(gate)], **fleet.settings) as handle:
        assert len(results(handle)) == 2
    assert not output.exists() or list(output.iterdir()) == []


def test_a_client_that_is_killed(fleet: Fleet, gate_job: str, text: Path, gate: Path, tmp_path: Path) -> None:
    """After ``kill -9`` of the waiting client the job keeps running, and another client finds it by its token."""
    token = os.urandom(8).hex()
    args = ["submit", gate_job, str(text), "--name", token, "--client-token", token, "-o", str(tmp_path / "out")]
    own = ["--", "--gate", str(gate)]
    client = subprocess.Popen(
        [sys.executable, "-m", "mrcelery", *args, *own],
        env=fleet.env,
        stderr=subprocess.DEVNULL,
    )

    (identity,) = eventually(lambda: runs_of(fleet, token), "the job runs")
    client.kill()
    client.wait()
    again = command(*args, "--detach", *own, env=fleet.env)
    assert again.stdout.split() == [identity]  # the same job, not a second one
    assert identity not in [one["job"] for one in read(fleet, "list", "--state", "queued")]
    gate.touch()
    assert command("wait", identity, env=fleet.env).returncode == 0
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_bytes())["job"] == identity


def test_a_token_of_a_client_that_died_before_the_job_was_on_the_queue(
    fleet: Fleet, word_count: str, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**fleet.settings, "client_token": os.urandom(8).hex()}

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RedisJobStore, "push", die)
        mrcelery.submit(word_count, str(text), **given)
    with mrcelery.submit(word_count, str(text), **given) as job:
        assert job.wait(60).state == "succeeded"


def test_a_token_of_a_job_that_is_done(fleet: Fleet, word_count: str, text: Path, tmp_path: Path) -> None:
    args: list[str | Path] = ["submit", word_count, text, "-o", tmp_path / "out", "--client-token", os.urandom(8).hex()]
    assert command(*args, env=fleet.env).returncode == 0
    assert command(*args, env=fleet.env).returncode == 0


def test_the_first_ctrl_c_detaches(fleet: Fleet, gate_job: str, text: Path, gate: Path) -> None:
    name = f"interrupted-{os.urandom(8).hex()}"
    client = subprocess.Popen(
        [sys.executable, "-m", "mrcelery", "submit", gate_job, str(text), "--name", name, "--", "--gate", str(gate)],
        env=fleet.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    (identity,) = eventually(lambda: runs_of(fleet, name), "the job runs")
    os.kill(client.pid, signal.SIGINT)
    out, said = client.communicate(timeout=60)
    assert client.returncode == 130
    assert out == ""
    assert f"Detached: job {identity} is still running" in said
    assert f"mrcelery wait {identity}" in said
    assert "Traceback" not in said
    assert running(fleet, identity)
    gate.touch()
    assert command("wait", identity, env=fleet.env).returncode == 0


def test_a_job_that_nobody_knows(fleet: Fleet) -> None:
    for args in (["status"], ["wait"], ["cancel"], ["counters"], ["cat"]):
        done = command(*args, "nothing-20261120-000000-abcdef", env=fleet.env)
        assert done.returncode == 2, (args, done.stderr)
        assert "is not known here" in done.stderr
        assert "Traceback" not in done.stderr


def test_results_come_home_from_s3(fleet: Fleet, bucket: str, word_count: str, text: Path, tmp_path: Path) -> None:
    """A waiting client uploads local input and downloads the results to a local OUTPUT."""
    env = {**fleet.env, "MRCELERY_STORAGE": f"s3://{bucket}/{os.urandom(4).hex()}"}
    output = tmp_path / "out"
    done = command("submit", word_count, text, "-o", output, "-R", "2", env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert sorted(path.name for path in output.iterdir()) == ["_SUCCESS", "part-00000", "part-00001"]
    assert command("cat", output, env=env).stdout.count("\n") == 3
    refused = command("submit", word_count, text, "-o", tmp_path / "other", "--detach", env=env)
    assert refused.returncode == 2
    assert "--detach cannot copy results" in refused.stderr
    printed = command("submit", word_count, "-", env=env, stdin="x y x\n")
    assert printed.returncode == 0, printed.stderr
    assert sorted(printed.stdout.splitlines()) == ['"x"\t2', '"y"\t1']
