"""The class that a user writes: arguments, files, counters, and what is refused in words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.base import MRJob, importing, shipped_files
from tests.support.plain_jobs import WordCount


class WithArgs(MRJob):
    def configure_args(self) -> None:
        super().configure_args()
        self.add_passthru_arg("--limit", type=int, default=3)
        self.add_file_arg("--stop-words")
        self.add_file_arg("--more", action="append", default=[])
        self.pass_arg_through("--limit")

    def load_args(self, args: list[str]) -> None:
        super().load_args(args)
        self.doubled = self.options.limit * 2

    def mapper(self, _: Any, line: str) -> Any:
        yield line, self.doubled


def test_arguments_parse_and_reach_load_args() -> None:
    job = WithArgs(["--limit", "5", "--stop-words", "s.txt", "--more", "a", "--more", "b"])
    assert job.doubled == 10
    assert job.file_args() == {"stop_words": ["s.txt"], "more": ["a", "b"]}
    assert not job.is_task()
    assert WithArgs().file_args() == {"stop_words": [], "more": []}


def test_the_parser_is_there_before_required_arguments_are() -> None:
    class Needy(WithArgs):
        def configure_args(self) -> None:
            super().configure_args()
            self.add_passthru_arg("--pattern", required=True)

    with pytest.raises(UsageError, match="required: --pattern"):
        Needy([])
    options = {option for action in Needy.argument_parser()._actions for option in action.option_strings}
    assert options == {"--limit", "--stop-words", "--more", "--pattern"}


def test_in_a_task_file_arguments_are_local_paths() -> None:
    token = shipped_files.set({"s.txt": "/scratch/s.txt", "b": "/scratch/b"})
    try:
        job = WithArgs(["--stop-words", "s.txt", "--more", "a", "--more", "b"])
    finally:
        shipped_files.reset(token)
    assert job.options.stop_words == "/scratch/s.txt"
    assert job.options.more == ["a", "/scratch/b"]
    assert job.is_task()


def test_a_default_file_is_shipped_only_where_it_is(tmp_path: Path) -> None:
    there = tmp_path / "there.txt"
    there.write_text("x")

    class Job(WithArgs):
        def configure_args(self) -> None:
            self.add_passthru_arg("--limit", type=int, default=0)
            self.add_file_arg("--stop-words", default=str(there))
            self.add_file_arg("--more", action="append", default=["not-there"])

    assert Job().file_args() == {"stop_words": [str(there)], "more": []}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--limit", "x"], r"WithArgs: argument --limit: invalid int value: 'x'"),
        (["--unknown", "1"], r"WithArgs: unrecognized arguments: --unknown 1"),
        (["--help"], r"unrecognized arguments: --help"),
    ],
)
def test_bad_arguments_are_usage_errors(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=message):
        WithArgs(args)
    assert capsys.readouterr() == ("", "")


def test_file_arguments_are_checked_when_they_are_declared() -> None:
    job = WordCount()
    for kwargs in ({"type": int}, {"action": "store_true"}):
        with pytest.raises(argparse.ArgumentTypeError):
            job.add_file_arg("--file", **kwargs)
    with pytest.raises(ValueError, match="--nothing"):
        job.pass_arg_through("--nothing")


def test_counters_count_and_status_is_passed_on() -> None:
    job = WordCount()
    said: list[str] = []
    job.set_status("nobody listens")
    job.status_hook = said.append
    job.increment_counter("words", "seen")
    job.increment_counter("words", "seen", 2)
    job.increment_counter(ValueError("x"), 404, -1)
    job.set_status(12)
    assert job.counters == {"words": {"seen": 3}, "x": {"404": -1}}
    assert said == ["12"]
    assert WordCount().counters == {}
    with pytest.raises(TypeError, match="integer"):
        job.increment_counter("words", "seen", 1.5)  # type: ignore[arg-type]


def test_files_lie_beside_the_job() -> None:
    class Shipping(WordCount):
        FILES = ["words.txt", "/abs/x#y"]

    here = Path(__file__).parent
    assert Shipping().files() == [str(here / "words.txt"), "/abs/x#y"]
    Shipping.FILES = "words.txt"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="make it a list"):
        Shipping().files()


def test_run_while_importing_is_refused() -> None:
    with importing(), pytest.raises(JobLoadError, match="__main__"):
        WordCount.run()


def test_mrjobs_runner_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"mrcelery\.run"):
        WordCount().make_runner()
