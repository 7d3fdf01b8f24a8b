"""The command line: arguments, stdout and stderr, exit codes. Jobs run inline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrcelery.cli.errors import guard, show_error
from mrcelery.cli.main import COMMANDS, cli, run_command
from mrcelery.errors import JobCancelledError, JobFailedError, WaitTimeoutError
from mrcelery.schema.structs import Failure

TEXT = "a b c\nb c\nc\n"

JOB = """
from mrcelery import MRJob

class WordCount(MRJob):
    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--min", type=int, default=0, help="least count")
        self.add_passthru_arg("--also", nargs="*", default=[])
        self.add_passthru_arg("-q", "--question", action="store_true")

    def mapper(self, _, line):
        if "boom" in line:
            raise ValueError("no bombs")
        for word in line.split() + self.options.also:
            self.increment_counter("words", "seen")
            yield word, 1

    def reducer(self, word, counts):
        count = sum(counts)
        if count >= self.options.min:
            yield word, count

if __name__ == "__main__":
    WordCount.run()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MRCELERY_BROKER", "CELERY_BROKER_URL", "MRCELERY_STORAGE", "MRCELERY_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MRCELERY_RUNNER", "inline")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wc.py").write_text(JOB)
    (tmp_path / "in.txt").write_text(TEXT)


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def last(self) -> Any:
        """The last line of what ``--json`` printed."""
        return json.loads(self.out.splitlines()[-1])

    def counts(self) -> dict[str, int]:
        return {json.loads(k): json.loads(v) for k, v in (line.split("\t") for line in self.out.splitlines())}


Mr = Callable[..., Ran]


@pytest.fixture
def mr(capsys: pytest.CaptureFixture[str]) -> Mr:
    def run(*args: str) -> Ran:
        code = run_command(cli, list(args), "mrcelery")
        return Ran(code, *capsys.readouterr())

    return run


def test_results_go_to_stdout_and_nothing_else(mr: Mr) -> None:
    ran = mr("submit", "wc.py", "in.txt")
    assert (ran.code, ran.counts(), ran.err) == (0, Counter(TEXT.split()), "")


def test_total_order_and_its_counters(mr: Mr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ("--storage", str(tmp_path / "store"))
    for number, option in enumerate((["--partitioner", "range"], ["-D", "mapreduce.job.partitioner.class=range"], [])):
        if not option:
            monkeypatch.setenv("MRCELERY_PARTITIONER", "range")
        out = f"out-{number}"
        job = mr("submit", "wc.py", "in.txt", "-o", out, "-R", "2", "--json", *option, *here).last()["job"]
        assert list(mr("cat", out).counts()) == sorted(set(TEXT.split()))
        shown = mr("counters", job, *here).out
        assert "mrcelery shuffle, step 0\n" in shown
        assert "\tempty partitions=0\n" in shown


def test_what_follows_two_dashes_is_the_jobs(mr: Mr) -> None:
    assert mr("submit", "wc.py", "in.txt", "--", "--min", "2").counts() == {"b": 2, "c": 3}
    ran = mr("submit", "wc.py", "in.txt", "--min", "2")
    assert (ran.code, ran.out) == (2, "")
    assert "no such option --min" in ran.err
    assert "after --" in ran.err


def test_output_json_and_cat(mr: Mr, tmp_path: Path) -> None:
    ran = mr("submit", "wc.py", "in.txt", "-o", "out", "--json", "-R", "3", "--compress", "gzip")
    report = ran.last()
    assert (ran.code, report["state"], report["counters"]["words"]) == (0, "succeeded", {"seen": 6})
    assert len(report["parts"]) == 3
    assert mr("cat", "out").counts() == Counter(TEXT.split())
    (tmp_path / "out" / "_SUCCESS").unlink()
    ran = mr("cat", "./out")
    assert (ran.counts(), "has no _SUCCESS" in ran.err) == (Counter(TEXT.split()), True)


def test_keep_keeps_the_intermediate_data(mr: Mr, tmp_path: Path) -> None:
    def left(*flags: str) -> set[str]:
        storage = tmp_path / f"store{len(flags)}"
        assert mr("submit", "wc.py", "in.txt", "--storage", str(storage), *flags).code == 0
        return {path.name for path in storage.rglob("*") if path.is_file()}

    assert "commit.json" in left("--keep")
    assert "commit.json" not in left()


def test_dry_run_runs_nothing(mr: Mr, tmp_path: Path) -> None:
    plan = json.loads(mr("submit", "wc.py", "in.txt", "--dry-run", "--json", "-o", "out", "--split-size", "4").out)
    assert (plan["map_tasks"], plan["reduce_tasks"], plan["bytes"], plan["dollars"]) == (3, [1], len(TEXT), 0)
    assert "map tasks (M)" in mr("submit", "wc.py", "in.txt", "--dry-run").out
    assert not (tmp_path / "out").exists()


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
        (["submit", "wc.py", "in.txt", "--partitioner", "field"], "write field:1"),
        (["submit", "wc.py", "in.txt", "-D", "mapreduce.job.partitioner.class=My"], "partitioner My is not supported"),
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
    ],
)
def test_usage_is_one_line_and_exit_code_2(mr: Mr, args: list[str], says: str) -> None:
    ran = mr(*args)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("mrcelery: ")
    assert says in ran.err


def test_detached_results_cannot_come_home(mr: Mr, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("submit", "wc.py", "in.txt", "--detach", "-o", "out", "-r", "celery")
    ran = mr(*args, "--broker", "redis://127.0.0.1:1", "--storage", "s3://bucket/x")
    assert ran.code == 2
    assert "mrcelery fetch" in ran.err


def test_no_broker_is_exit_code_3(mr: Mr) -> None:
    ran = mr("submit", "wc.py", "in.txt", "-r", "celery", "--broker", "redis://127.0.0.1:1", "--storage", "store")
    assert (ran.code, ran.err.count("\n")) == (3, 1)
    ran = mr("doctor", "--broker", "redis://127.0.0.1:1", "--storage", "store")
    assert ran.code == 3
    assert "FAIL  broker" in ran.out
    assert "ok    storage" in ran.out


def test_the_users_traceback_comes_first(mr: Mr, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("fine\nboom\n")
    ran = mr("submit", "wc.py", "in.txt")
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert 'raise ValueError("no bombs")' in ran.err
    assert ran.err.index("no bombs") < ran.err.index("mrcelery: ") < ran.err.index("in.txt, byte 5")
    assert "record 'boom'" in lines[-1]


def test_a_job_that_does_not_import_shows_why(mr: Mr, tmp_path: Path) -> None:
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


def test_jobs_of_a_storage(mr: Mr) -> None:
    job = mr("submit", "wc.py", "in.txt", "-o", "out", "--json", "--storage", "store").last()["job"]
    here = ("--storage", "store")
    assert "succeeded" in mr("status", job, *here).out
    assert json.loads(mr("status", job, "--json", *here).out)["status"]["state"] == "succeeded"
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


def test_clean_spares_what_may_still_run(mr: Mr, tmp_path: Path) -> None:
    (tmp_path / "store" / "jobs" / "x-20990101-000000-abcdef").mkdir(parents=True)
    (tmp_path / "store" / "jobs" / "x-20990101-000000-abcdef" / "spec.json").write_text("{}")
    old = tmp_path / "store" / "jobs" / "x-20200101-000000-abcdef"
    old.mkdir()
    (old / "spec.json").write_text("{}")
    ran = mr("clean", "--older-than", "0s", "--storage", "store", "--json")
    assert [job["job"] for job in json.loads(ran.out)] == ["x-20200101-000000-abcdef"]


def test_logs(mr: Mr, tmp_path: Path) -> None:
    for number, kind in ((0, "map"), (7, "map"), (0, "reduce")):
        folder = tmp_path / "store" / "jobs" / "j" / "step-0" / f"{kind}-{number:05d}"
        folder.mkdir(parents=True)
        (folder / "log.1-ab").write_text(f"{kind} {number}\n")
        (folder / "commit.json").write_text("{}")
    out = mr("logs", "j", "--storage", "store", "--kind", "map").out
    assert out == "==> step 0 map 0 attempt 1-ab <==\nmap 0\n==> step 0 map 7 attempt 1-ab <==\nmap 7\n"
    assert "reduce 0" not in mr("logs", "j", "--storage", "store", "--task", "7").out
    assert "no logs" in mr("logs", "j", "--storage", "store", "--step", "1").err


def test_config_show(mr: Mr, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCELERY_SIGNING_KEY", "s3cret")
    shown = json.loads(mr("config", "show", "--json").out)
    assert shown["signing_key"] == {"value": "****", "origin": "MRCELERY_SIGNING_KEY"}
    assert shown["queue"] == {"value": "celery", "origin": "default"}
    assert "s3cret" not in mr("config", "show").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(mr: Mr, shell: str) -> None:
    assert "_MRCELERY_COMPLETE" in mr("completion", shell).out


def test_every_command_has_help_with_what_the_list_says(mr: Mr) -> None:
    assert all(name in mr("--help").out for name in COMMANDS)
    for name in COMMANDS:
        ran = mr(name, "--help")
        assert ran.code == 0, name
        assert name == "config" or "Examples:" in ran.out, name


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


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000").write_text("line\n" * 100_000)
    shell = f"{sys.executable} -m mrcelery cat out | head -n 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "line\n0\n"
    assert "Broken" not in ran.stderr
    assert "Traceback" not in ran.stderr
