"""A submission is complete and right before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.client.api import attach
from mrcelery.client.submission import Submission, job_id
from mrcelery.errors import (
    ConfigError,
    InputError,
    UsageError,
)
from tests.support.word_count import WordCount, inline

pytestmark = pytest.mark.usefixtures("alone")


def test_what_is_wrong_is_said_before_anything_starts() -> None:
    for error, match, call in (
        (InputError, "nope", lambda: mrcelery.submit(WordCount, "nope.txt", runner="inline")),
        (UsageError, "no input", lambda: mrcelery.submit(WordCount, [], runner="inline")),
        (ConfigError, "reducerz.*did you mean 'reducers'", lambda: inline(WordCount, reducerz=3)),
        (ConfigError, "runner.*spark", lambda: mrcelery.submit(WordCount, "in.txt", runner="spark")),
        (ConfigError, "needs a broker", lambda: mrcelery.submit(WordCount, "in.txt", runner="celery")),
        (ConfigError, "needs a storage", lambda: mrcelery.submit(WordCount, "in.txt", broker="redis://h")),
        (UsageError, "output format", lambda: inline(WordCount, output_format="xml")),
        (ConfigError, "no fleet", lambda: attach("job")),
    ):
        with pytest.raises(error, match=match):
            call()


def test_a_broker_means_a_fleet() -> None:
    options: dict[str, Any] = {"broker": "redis://host", "storage": "s3://bucket/x"}
    assert Submission.prepare(WordCount, "in.txt", **options).runner == "celery"
    assert Submission.prepare(WordCount, "in.txt", runner="local", **options).runner == "local"
    assert Submission.prepare(WordCount, "in.txt").runner == "local"
    assert Submission.prepare(WordCount, "in.txt", "out", **options).brings_home
    assert not Submission.prepare(WordCount, "in.txt", "s3://bucket/out", **options).brings_home
    assert not Submission.prepare(WordCount, "in.txt", "out", broker="redis://host", storage="shared").brings_home


def test_a_flag_wins_over_the_class_and_the_class_over_the_files(tmp_path: Path) -> None:
    class Json(WordCount):
        INPUT = "jsonl"
        JOBCONF = {"mapreduce.job.reduces": "5"}

    (tmp_path / "mrcelery.toml").write_text('input_format = "whole-file"\n')
    assert Submission.prepare(Json, "in.txt").options.input_format == "jsonl"
    assert Submission.prepare(WordCount, "in.txt").options.input_format == "whole-file"
    assert Submission.prepare(Json, "in.txt", input_format="text").options.input_format == "text"
    for expected, options in ((5, {}), (3, {"jobconf": {"mapreduce.job.reduces": "3"}}), (2, {"reducers": 2})):
        assert Submission.prepare(Json, "in.txt", **options).steps[0].reducers == expected


def test_job_ids() -> None:
    assert job_id("Word Count!").rsplit("-", 3)[0] == "word-count"
    assert job_id("") != job_id("")
    assert job_id("A", "token") == job_id("A", "token") != job_id("A", "other")


def made(text: str, tmp_path: Path, **options: Any) -> Submission:
    """A submission of a job file with these lines in its class."""
    (tmp_path / "job.py").write_text(
        "from mrcelery import MRJob\nclass Job(MRJob):\n    def mapper(self, _, line):\n        yield line, 1\n" + text
    )
    return Submission.prepare(str(tmp_path / "job.py"), [str(tmp_path)], runner="inline", **options)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("SORT_VALUE = True", "Job.SORT_VALUE does nothing: did you mean SORT_VALUES"),
        ("PARTITIONNER = 'range'", "did you mean PARTITIONER"),
        ("INPUT_FORMAT = 'csv'", "did you mean INPUT"),
        ("JOB_CONF = {}", "did you mean JOBCONF"),
        ("ARCHIVE = ['a.zip']", "did you mean ARCHIVES"),
        ("JOBCONF = ['a=b']", "Job.JOBCONF is .*: make it a dict"),
        ("JOBCONF = {1: 2}", "make it a dict"),
        ("def jobconf(self): return None", "make it a dict"),
        ("JOBCONF = {'mapreduce.job.reduces': 20000}", "from 1 to 10,000, as each map task writes a part"),
        ("JOBCONF = {'tsv.header': 'false'}", "tsv.header does nothing: call it csv.header"),
    ],
)
def test_nothing_that_a_class_declares_vanishes(attribute: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        made(f"    {attribute}\n", tmp_path)


@pytest.mark.parametrize("attribute", ["LIMIT = 3", "WORDS = {'a'}", "JOBCONF = {'csv.header': 'false', 'mine': 1}"])
def test_constants_of_its_own_are_the_jobs(attribute: str, tmp_path: Path) -> None:
    assert made(f"    {attribute}\n", tmp_path).name == "Job"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("csv.header", r"-D csv.header does nothing: this job reads text and writes json, so give --input-format"),
        ("records.key", "so give --input-format records, or leave it out"),
        ("CSV.Header", "did you mean csv.header"),
        ("csv_header", "did you mean csv.header"),
        ("parquet-columns", "did you mean parquet.columns"),
    ],
)
def test_no_argument_of_a_format_vanishes(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        made("", tmp_path, jobconf={name: "x"})


@pytest.mark.parametrize(
    ("name", "reads", "writes", "remedy"),
    [
        ("csv.delimiter", "tsv", "json", "give --input-format or --output-format csv"),
        ("csv.delimiter", "text", "tsv", "give --input-format or --output-format csv"),
        ("csv.columns", "csv", "json", "give --output-format csv"),
        ("csv.multiline", "text", "csv", "give --input-format csv"),
        ("parquet.columns", "text", "parquet", "give --input-format parquet"),
    ],
)
def test_nor_one_that_the_format_takes_on_the_other_side(
    name: str, reads: str, writes: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=f"-D {name} does nothing: this job reads {reads} and writes {writes}, so {remedy}"
    ):
        made("", tmp_path, jobconf={name: "x"}, input_format=reads, output_format=writes, output=str(tmp_path / "out"))


def test_arguments_of_both_formats_are_used(tmp_path: Path) -> None:
    given = {"csv.header": "false", "csv.columns": "a,b"}
    submission = made("", tmp_path, jobconf=given, input_format="tsv", output_format="csv")
    assert submission.options.input_format == "tsv:header=false"
