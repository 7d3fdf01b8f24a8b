"""A job file that is run as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.command_line import JOB, TEXT, Ran

pytestmark = pytest.mark.usefixtures("job_folder")


def python(*args: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *args]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env={**os.environ, **env}, timeout=60)


@pytest.mark.parametrize(
    ("args", "least"),
    [
        (["in.txt"], 1),
        (["--min", "2", "in.txt"], 2),
        (["--min=3", "in.txt", "-R", "2"], 3),
        (["-r", "inline", "in.txt", "--min", "2", "-q"], 2),
    ],
)
def test_a_job_file_runs_itself(args: list[str], least: int) -> None:
    ran = python("wc.py", *args)
    assert ran.returncode == 0, ran.stderr
    assert Ran(0, ran.stdout, "").counts() == {w: n for w, n in Counter(TEXT.split()).items() if n >= least}


def test_a_job_file_with_a_required_option(tmp_path: Path) -> None:
    job = JOB.replace('"--min", type=int, default=0', '"--min", type=int, required=True')
    (tmp_path / "needy.py").write_text(job)
    assert "least count" in python("needy.py", "--help").stdout
    ran = python("needy.py", "in.txt")
    assert (ran.returncode, ran.stderr.count("\n"), "--min" in ran.stderr) == (2, 1, True), ran.stderr
    ran = python("needy.py", "--min", "3", "in.txt")
    assert Ran(0, ran.stdout, "").counts() == {"c": 3}


def test_a_job_file_with_options_of_many_values() -> None:
    ran = python("wc.py", "--also", "z", "z", "-r", "inline", "in.txt")
    assert Ran(0, ran.stdout, "").counts() == Counter(TEXT.split()) | Counter(z=6)


def test_a_job_file_reads_stdin_and_explains_itself() -> None:
    assert Ran(0, python("wc.py", stdin="x x\n").stdout, "").counts() == {"x": 2}
    shown = python("wc.py", "--help").stdout
    assert "least count" in shown
    assert "--split-size" in shown
    wrong = python("wc.py", "--nope", "in.txt")
    assert (wrong.returncode, wrong.stderr) == (2, "mrcelery: unrecognized arguments: --nope; see --help\n")
