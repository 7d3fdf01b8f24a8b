"""Errors on the command line: their order, their exit codes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from mrcelery.cli.errors import guard, show_error
from mrcelery.errors import JobCancelledError, JobFailedError, WaitTimeoutError
from mrcelery.schema.structs import Failure


def test_no_broker_is_exit_code_3(mr: Any) -> None:
    ran = mr("submit", "wc.py", "in.txt", "-r", "celery", "--broker", "redis://127.0.0.1:1", "--storage", "store")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    ran = mr("doctor", "--broker", "redis://127.0.0.1:1", "--storage", "store")
    assert ran.code == 3
    assert "FAIL  broker" in ran.out
    assert "ok    storage" in ran.out


def test_the_users_traceback_comes_first(mr: Any, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("fine\nboom\n")
    ran = mr("submit", "wc.py", "in.txt")
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert 'raise ValueError("no bombs")' in ran.err
    assert ran.err.index("no bombs") < ran.err.index("mrcelery: ") < ran.err.index("in.txt, byte 5")
    assert "record 'boom'" in lines[-1]


def test_a_combiner_that_yields_no_pair_is_named(mr: Any, tmp_path: Path) -> None:
    (tmp_path / "combines.py").write_text(
        "from mrcelery import MRJob\n"
        "class Combines(MRJob):\n"
        "    def mapper(self, _, line):\n        yield 'a', len(line)\n"
        "    def combiner(self, key, values):\n        yield sum(values)\n"
        "    def reducer(self, key, values):\n        yield key, sum(values)\n"
    )
    (tmp_path / "in.txt").write_text("x\nyyy\n")
    ran = mr("submit", "combines.py", "in.txt")
    assert ran.code == 1
    assert "mrcelery: the combiner yielded 4, which is not a (key, value) pair" in ran.err
    assert ran.err.splitlines()[-1] == "  key 'a'"


def test_a_job_that_does_not_import_shows_why(mr: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import math\nmath.nope\n")
    ran = mr("submit", "broken.py", "in.txt")
    assert ran.code == 2
    assert ran.err.splitlines()[0] == "Traceback (most recent call last):"
    assert ran.err.splitlines()[-1].startswith("mrcelery: broken.py does not import: AttributeError")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WaitTimeoutError("x"), 4),
        (JobCancelledError("x"), 5),
        (JobFailedError(Failure(error="E", message="x", exit_code=3)), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    def call() -> int:
        raise error

    assert guard(call) == code


def test_a_failure_says_where_user_code_raised_once() -> None:
    failure = Failure(error="UserCodeError", message="ValueError: bad", traceback="Traceback\n  at\nValueError: bad\n")
    error = JobFailedError(failure)
    assert str(error) == "ValueError: bad\n\nTraceback\n  at\nValueError: bad"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(JobFailedError(Failure(error="E", message="lost"))) == "lost"


def test_where_it_failed(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure(
        error="UserCodeError",
        message="bad",
        traceback="Traceback\n",
        job="j-1",
        step=1,
        kind="map",
        task=3,
        attempt="2-ab",
        file="s3://b/k",
        offset=7,
        record="'x'",
    )
    show_error(JobFailedError(failure))
    assert capsys.readouterr().err.splitlines() == [
        "Traceback",
        "mrcelery: bad",
        "  job j-1, step 1, map task 3, attempt 2-ab",
        "  s3://b/k, byte 7",
        "  record 'x'",
    ]
