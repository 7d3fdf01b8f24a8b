"""mrcelery submit: what goes to standard output, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import TEXT


def test_results_go_to_stdout_and_nothing_else(mr: Any) -> None:
    ran = mr("submit", "wc.py", "in.txt", "-q")
    assert (ran.code, ran.counts(), ran.err) == (0, Counter(TEXT.split()), "")


@pytest.mark.parametrize(
    ("runner", "option", "only"),
    [
        ("inline", ("--workers", "3"), "it is for the local runner"),
        ("inline", ("--max-attempts", "3"), "it is for the local and celery runners"),
        ("inline", ("--no-speculative",), "it is for the local and celery runners"),
        ("inline", ("--queue", "mine"), "it is for the celery runner"),
        ("local", ("--queue", "mine"), "it is for the celery runner"),
        ("local", ("--broker", "redis://127.0.0.1:1/0"), "it is for the celery runner"),
        ("inline", ("--memory", "64MiB"), ""),
        ("local", ("--workers", "1"), ""),
    ],
)
def test_an_option_that_the_runner_has_no_use_for(mr: Any, runner: str, option: tuple[str, ...], only: str) -> None:
    ran = mr("submit", "wc.py", "in.txt", "-q", "-r", runner, *option)
    assert (ran.code, ran.counts()) == (0, Counter(TEXT.split()))
    name = option[0].replace("--no-", "--")
    said = f"mrcelery: warning: the {runner} runner ignores {name}: {only}\n"
    assert ran.err == (said if only else "")


def test_total_order_and_its_counters(mr: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_follows_two_dashes_is_the_jobs(mr: Any) -> None:
    assert mr("submit", "wc.py", "in.txt", "--", "--min", "2").counts() == {"b": 2, "c": 3}
    ran = mr("submit", "wc.py", "in.txt", "--min", "2")
    assert (ran.code, ran.out) == (2, "")
    assert "no such option --min" in ran.err
    assert "after --" in ran.err


def test_the_counters_of_a_job_that_ran_here_are_printed_at_its_end(mr: Any) -> None:
    ran = mr("submit", "wc.py", "in.txt")
    job = re.search(r"counters of job (\S+)\n", ran.err)
    assert job is not None
    assert ran.err == f"mrcelery: counters of job {job[1]}\nwords\n\tseen=6\n"
    assert mr("submit", "wc.py", "in.txt", "-q").err == ""
    Path("in.txt").write_text("a\nboom\n")
    ran = mr("submit", "wc.py", "in.txt", "--split-size", "2")
    assert ran.code == 1
    assert ran.err.endswith("words\n\tseen=1\n")


def test_output_json_and_cat(mr: Any, tmp_path: Path) -> None:
    ran = mr("submit", "wc.py", "in.txt", "-o", "out", "--json", "-R", "3", "--compress", "gzip")
    report = ran.last()
    assert (ran.code, report["state"], report["counters"]["words"]) == (0, "succeeded", {"seen": 6})
    assert len(report["parts"]) == 3
    assert mr("cat", "out").counts() == Counter(TEXT.split())
    (tmp_path / "out" / "_SUCCESS").unlink()
    ran = mr("cat", "./out")
    assert (ran.counts(), "has no _SUCCESS" in ran.err) == (Counter(TEXT.split()), True)


def test_keep_keeps_the_intermediate_data(mr: Any, tmp_path: Path) -> None:
    def left(*flags: str) -> set[str]:
        storage = tmp_path / f"store{len(flags)}"
        assert mr("submit", "wc.py", "in.txt", "--storage", str(storage), *flags).code == 0
        return {path.name for path in storage.rglob("*") if path.is_file()}

    assert "commit.json" in left("--keep")
    assert "commit.json" not in left()


def test_dry_run_runs_nothing(mr: Any, tmp_path: Path) -> None:
    plan = json.loads(mr("submit", "wc.py", "in.txt", "--dry-run", "--json", "-o", "out", "--split-size", "4").out)
    assert (plan["map_tasks"], plan["reduce_tasks"], plan["bytes"], plan["dollars"]) == (3, [1], len(TEXT), 0)
    assert "map tasks (M)" in mr("submit", "wc.py", "in.txt", "--dry-run").out
    assert not (tmp_path / "out").exists()


def test_detached_results_cannot_come_home(mr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("submit", "wc.py", "in.txt", "--detach", "-o", "out", "-r", "celery")
    ran = mr(*args, "--broker", "redis://127.0.0.1:1", "--storage", "s3://bucket/x")
    assert ran.code == 2
    assert "mrcelery fetch" in ran.err


def test_dry_run_lists_what_is_shipped(mr: Any) -> None:
    Path("more.csv").write_text("1,2,3\n")
    ran = mr("submit", "wc.py", "in.txt", "--dry-run", "--files", "more.csv")
    assert "code and files    2 files, " in ran.out
    assert "6 B  files/more.csv  (more.csv)\n" in ran.out
    plan = json.loads(mr("submit", "wc.py", "in.txt", "--dry-run", "--files", "more.csv", "--json").out)
    assert next((one["name"], one["bytes"]) for one in plan["ships"]) == ("files/more.csv", 6)
    Path("data").mkdir()
    Path("data/.env.json").touch()
    Path("data/id_rsa").touch()
    ran = mr("submit", "wc.py", "in.txt", "--dry-run", "--files", "data")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "id_rsa looks like a secret" in ran.err
