"""The mrcelery command: its help, wrong usage, and the commands about a job, one after the other."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from mrcelery.cli.main import COMMANDS
from tests.support.command_line import TEXT


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["submit", "nope.py", "in.txt"], "nope.py: no such file"),
        (["submit", "wc.py"], "no input"),
        (["submit", "wc.py", "nope.txt"], "'nope.txt' does not exist"),
        (["submit", "wc.py", "in.txt", "--split-size", "x"], "split_size: 'x' from --split-size"),
        (["submit", "wc.py", "in.txt", "-D", "x"], "'x' is not NAME=VALUE"),
        (["submit", "wc.py", "in.txt", "--detach"], "--detach needs a fleet"),
        (["submit", "wc.py", "in.txt", "--json"], "give -o OUTPUT"),
        (["submit", "wc.py", "in.txt", "-o", "."], "exists and is not empty"),
        (["submit", "wc.py", "in.txt", "--", "--min", "x"], "invalid int value: 'x'"),
        (["submit", "wc.py", "in.txt", "-R", "x"], "reducers: 'x' from --reducers"),
        (["submit", "wc.py", "in.txt", "--reducer", "3"], "did you mean --reducers"),
        (
            ["submit", "wc.py", "in.txt", "--num-cores", "3"],
            "no such option --num-cores, which is mrjob's: give --workers",
        ),
        (["submit", "wc.py", "in.txt", "--cat-output"], "run `mrcelery cat OUTPUT` after the job"),
        (
            ["submit", "wc.py", "in.txt", "-c", "x.conf"],
            "no such option -c, which is mrjob's: settings are in mrcelery",
        ),
        (["submit", "wc.py", "in.txt", "-v"], "run `mrcelery logs JOB` after the job; see `mrcelery help port-from"),
        (["submit", "wc.py", "in.txt", "--partitioner", "field"], "write field:1"),
        (["submit", "wc.py", "in.txt", "-D", "mapreduce.job.partitioner.class=My"], "partitioner My is not supported"),
        (["submit", "wc.py", "in.txt", "-D", "mapreduce.job.reduce=3"], "did you mean mapreduce.job.reduces?"),
        (["submit", "wc.py", "in.txt", "-r", "celery", "--broker", "http://x"], "is not a Redis address: use redis://"),
        (["submit", "wc.py", "in.txt", "-r", "spark"], "'spark' is not one of 'inline', 'local', 'celery'"),
        (["submit"], "missing argument 'JOB': see mrcelery submit --help"),
        (["submti"], "no such command 'submti', did you mean 'submit': see mrcelery --help"),
        (["wait", "x", "--timeout", "soon"], "give a time such as"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
        (["list"], "no fleet is configured"),
        (["status", "x", "--storage", "store"], "not known"),
        (["cat", "./nothing"], "does not exist"),
        (["clean"], "--storage"),
        (["worker"], "a worker needs a broker"),
        (["worker", "--broker", "redis://localhost", "--storage", "gs://b"], "is on Google Cloud Storage"),
    ],
)
def test_usage_is_one_line_and_exit_code_2(mr: Any, args: list[str], says: str) -> None:
    ran = mr(*args)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("mrcelery: ")
    assert says in ran.err


def test_jobs_of_a_storage(mr: Any) -> None:
    job = mr("submit", "wc.py", "in.txt", "-o", "out", "--json", "--storage", "store").last()["job"]
    here = ("--storage", "store")
    assert "succeeded" in mr("status", job, *here).out
    status = json.loads(mr("status", job, "--json", *here).out)["status"]
    assert status["state"] == "succeeded"
    assert 0 < status["created"] <= status["started"] <= status["finished"]
    assert mr("counters", job, *here).out == "words\n\tseen=6\n"
    assert json.loads(mr("counters", job, "--json", *here).out) == {"words": {"seen": 6}}
    assert mr("cat", job, *here).counts() == Counter(TEXT.split())
    assert mr("wait", job, *here).code == 0
    assert mr("fetch", job, "home", *here).code == 0
    assert mr("cat", "home/").counts() == Counter(TEXT.split())

    assert mr("clean", *here).out == ""
    assert f"would remove {job}" in mr("clean", job, "--dry-run", *here).out
    assert f"removed {job}" in mr("clean", "--older-than", "0s", *here).out
    assert mr("status", job, *here).code == 2
    assert mr("cat", "out").counts() == Counter(TEXT.split())


def test_every_command_has_help_with_what_the_list_says(mr: Any) -> None:
    assert all(name in mr("--help").out for name in COMMANDS)
    for name in COMMANDS:
        ran = mr(name, "--help")
        assert ran.code == 0, name
        assert name == "config" or "Examples:" in ran.out, name
