"""Text that is not UTF-8, or would control a terminal, in everything that a job may output and in its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcelery.reporting.overview import Overview
from mrcelery.reporting.page import job_page
from tests.support.services import Fleet, command, environment

JobFile = Callable[..., str]

LOUD = r"""
    from mrcelery import MRJob

    EVIL = "\udcff\x1b]0;owned\x07\u202e\x9b1m\r<b>"

    class Loud(MRJob):
        def mapper(self, _, line):
            self.increment_counter(EVIL, EVIL, 2)
            self.set_status(EVIL)
            print(EVIL)
            if line == "fail":
                raise ValueError(EVIL)
            yield EVIL, line

        def reducer(self, key, values):
            for value in values:
                yield key, value
"""
SHOWN = r"\udcff\x1b]0;owned\x07\u202e\x9b1m\r<b>"
NAME = os.fsdecode(b"n\xff\x1b]0;owned\x07")
NAME_SHOWN = r"n\udcff\x1b]0;owned\x07"


def quiet(text: str) -> str:
    """Check that printed text has no control characters; return it."""
    assert not set(text) & set("\x1b\x07\u202e\x9b\r"), text
    return text


@pytest.fixture(params=["local", "celery"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    if request.param == "local":
        return environment(MRCELERY_RUNNER="local", MRCELERY_STORAGE=str(tmp_path / "storage"))
    fleet: Fleet = request.getfixturevalue("fleet")
    return fleet.env


def job_named(env: dict[str, str], state: str) -> str:
    done = command("list", "--json", "--name", "n*owned*", "--state", state, env=env)
    return str(json.loads(done.stdout)[0]["job"])


def test_a_job_that_succeeds(env: dict[str, str], job_file: JobFile, text: Path) -> None:
    env = {**env, "MRCELERY_OWNER": NAME}
    done = command("submit", job_file(LOUD), text, "--name", NAME, "-R", "2", env=env)
    assert done.returncode == 0, done.stderr
    quiet(done.stderr)
    assert r"\u001b]0;owned" in done.stdout  # escaped as in JSON
    job = job_named(env, "succeeded")
    assert f"{NAME_SHOWN} " in quiet(command("list", env=env).stdout)
    assert f"\t{SHOWN}=4" in quiet(command("counters", job, env=env).stdout)
    counters = json.loads(command("counters", job, "--json", env=env).stdout)
    assert counters["\\udcff\x1b]0;owned\x07\u202e\x9b1m\r<b>"]  # exact, except what JSON cannot hold
    status = quiet(command("status", job, env=env).stdout)
    assert SHOWN in status
    assert f"of {NAME_SHOWN}" in status
    assert SHOWN in quiet(command("logs", job, env=env).stdout)
    assert "\x1b]0;owned\x07" in command("logs", job, "--raw", env=env).stdout


def test_a_job_that_fails(env: dict[str, str], job_file: JobFile, tmp_path: Path) -> None:
    lines = tmp_path / "lines\x1b[2J.txt"
    lines.write_text("fail\n")
    done = command("submit", job_file(LOUD), lines, "--name", NAME, env=env)
    assert done.returncode == 1, done.stderr
    assert f"mrcelery: ValueError: {SHOWN}" in quiet(done.stderr)
    assert "mrcelery itself failed" not in done.stderr
    job = job_named(env, "failed")
    assert SHOWN in quiet(command("status", job, env=env).stdout)
    logs = command("logs", job, "--failed", env=env)
    assert SHOWN in quiet(logs.stdout)
    assert SHOWN in quiet(logs.stderr)


def test_a_file_or_an_argument_that_is_not_utf8_is_refused_by_name(
    env: dict[str, str], job_file: JobFile, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"in\xff.txt")
    path.write_text("a\n")
    job = job_file(LOUD)
    for arguments in ((str(path),), (str(tmp_path / "*.txt"),)):
        done = command("submit", job, *arguments, env=env)
        assert done.returncode in (1, 2), done.stderr
        assert r"in\udcff.txt' is not UTF-8: rename the file" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_page_escapes_names() -> None:
    found = Overview(job="j", state="queued", name="</script><b>\x1b", owner="<i>", created=1.0, now=2.0)
    page = job_page(found).decode()
    assert "</script><b>" not in page
    assert "<i>" not in page
    assert "<title>&lt;/script&gt;&lt;b&gt;" in page
