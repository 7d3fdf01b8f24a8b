"""The job API: arguments, steps, hooks, counters, and what is refused in words."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from mrcelery import ops, protocols
from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.base import MRJob, importing, shipped_files
from mrcelery.job.hooks import hooks, step_specs
from mrcelery.job.step import MRStep


class WordCount(MRJob):
    def mapper(self, _: Any, line: str) -> Any:
        for word in line.split():
            yield word, 1

    def combiner(self, word: str, counts: Any) -> Any:
        yield word, sum(counts)

    def reducer(self, word: str, counts: Any) -> Any:
        yield word, sum(counts)


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


def identity(key: Any, value: Any) -> Any:
    yield key, value


def test_hooks_are_bound_to_the_instance() -> None:
    job = WordCount([])
    found = hooks(job, 0)
    assert found.mapper is not None
    assert list(found.mapper(None, "a b")) == [("a", 1), ("b", 1)]
    assert found.reducer is not None
    assert list(found.reducer("a", [1, 2])) == [("a", 3)]
    assert found.combiner == job.combiner
    assert (found.has_mapper, found.has_reducer, found.sort_values) == (True, True, False)
    assert found.partition is None
    assert (found.reduce_op, found.combine_op) == (None, None)
    assert (found.input_protocol, found.internal_protocol, found.output_protocol) == (None, None, None)


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


def test_steps_chain_and_protocols_stand_at_the_ends() -> None:
    class Chain(WordCount):
        INPUT_PROTOCOL = protocols.JSONValueProtocol
        INTERNAL_PROTOCOL = protocols.ReprProtocol
        OUTPUT_PROTOCOL = protocols.TextProtocol

        def steps(self) -> list[MRStep]:
            return [
                MRStep(mapper=self.mapper, reducer=self.reducer, jobconf={"mapreduce.job.reduces": "1"}),
                MRStep(reducer_init=list, combiner_final=list),
                MRStep(mapper_final=list),
            ]

    job = Chain()
    first, second, third = (hooks(job, i) for i in range(3))
    assert isinstance(first.input_protocol, protocols.JSONValueProtocol)
    assert isinstance(first.internal_protocol, protocols.ReprProtocol)
    assert first.output_protocol is None
    assert (second.input_protocol, second.output_protocol) == (None, None)
    assert isinstance(third.output_protocol, protocols.TextProtocol)
    assert second.reducer is not None
    assert second.combiner is not None
    assert list(second.reducer("k", [1, 2])) == list(second.combiner("k", [1, 2])) == [("k", 1), ("k", 2)]
    assert (second.mapper, second.has_mapper, third.has_mapper, third.has_reducer) == (None, False, True, False)
    assert [(s.has_reducer, s.reducers) for s in step_specs(job, 7)] == [(True, 1), (True, 7), (False, 0)]


def test_the_number_of_reducers_goes_by_step_user_job_default() -> None:
    class Configured(WordCount):
        JOBCONF = {"mapred.reduce.tasks": 5}

    assert [s.reducers for s in step_specs(WordCount(), 3)] == [3]
    assert [s.reducers for s in step_specs(Configured(), 3)] == [5]
    assert [s.reducers for s in step_specs(Configured(), 3, reducers=2)] == [2]
    Configured.JOBCONF = {"mapred.reduce.tasks": "many"}
    with pytest.raises(UsageError, match=r"mapred\.reduce\.tasks is 'many'"):
        step_specs(Configured(), 3)


def test_a_declared_reducer_combines_too() -> None:
    class Declared(MRJob):
        mapper = WordCount.mapper
        reducer = ops.Mean()

    found = hooks(Declared(), 0)
    assert found.reduce_op == found.combine_op == ops.Mean()
    assert (found.reducer, found.combiner, found.has_reducer) == (None, None, True)
    assert [s.reducers for s in step_specs(Declared(), 2)] == [2]

    class Combined(WordCount):
        combiner = ops.Sum()  # type: ignore[assignment]

    found = hooks(Combined(), 0)
    assert (found.combine_op, found.reduce_op, found.combiner) == (ops.Sum(), None, None)
    assert found.reducer is not None
    step = MRStep(mapper=identity, reducer=ops.TopK(3))
    assert step.hooks["reducer"] == ops.TopK(3)


def test_native_additions_are_found() -> None:
    class Native(MRJob):
        SORT_VALUES = True

        def mapper_batch(self, batch: Any) -> Any:
            return batch

        def partition(self, key: Any, n: int) -> int:
            return len(key) % n

    found = hooks(Native(), 0)
    assert found.mapper_batch is not None
    assert found.mapper is None
    assert found.has_mapper
    assert found.sort_values is True
    assert found.partition is not None
    assert found.partition("abc", 2) == 1
    assert found.batch == ""
    Native.BATCH = "table"
    assert hooks(Native(), 0).batch == "table"


@pytest.mark.parametrize(
    ("error", "kwargs", "message"),
    [
        (TypeError, {"maper": identity}, "unexpected keyword argument 'maper'"),
        (TypeError, {"mapper": 3}, "mapper must be a function, not 3"),
        (ValueError, {}, "no mapper and no reducer"),
        (ValueError, {"mapper": None}, "no mapper and no reducer"),
        (UsageError, {"mapper_cmd": "cat"}, "mapper_cmd is not supported"),
        (UsageError, {"mapper_raw": identity}, "mapper_raw is not supported"),
        (UsageError, {"mapper": identity, "reducer_pre_filter": "grep x"}, "reducer_pre_filter is not supported"),
        (UsageError, {"reducer": ops.Sum}, r"ops.Sum\(...\)"),
        (UsageError, {"mapper": ops.Sum()}, "only a reducer or a combiner"),
        (UsageError, {"combiner": ops.Count(), "reducer": identity}, r"combiner cannot be Count\(\)"),
        (UsageError, {"reducer": ops.Mean(), "combiner": identity}, "leave the combiner out"),
        (UsageError, {"reducer": ops.Sum(), "reducer_final": identity}, "runs without reducer_final"),
        (UsageError, {"mapper": identity, "mapper_batch": identity}, "leave one out"),
    ],
)
def test_a_step_that_cannot_run_is_refused(error: type[Exception], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=message):
        MRStep(**kwargs)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "does nothing: define a mapper"),
        ({"steps": lambda self: [3]}, "return a list of MRStep"),
        ({"mapper_cmd": lambda self: "cat"}, "mapper_cmd is not supported"),
        ({"spark": lambda self, i, o: None}, "spark is not supported"),
        ({"pick_protocols": lambda self, n, t: None}, "pick_protocols is not supported"),
        ({"HADOOP_OUTPUT_FORMAT": "org.x.Format"}, "Java classes"),
        ({"PARTITIONER": "org.apache.hadoop.mapred.lib.BinaryPartitioner"}, r"partition\(self, key, n\)"),
        ({"INTERNAL_PROTOCOL": protocols.JSONProtocol(), "mapper": identity}, "set it to a protocol class"),
        ({"reducer": ops.Sum}, r"ops.Sum\(...\)"),
        ({"BATCH": "tables", "mapper_batch": identity}, 'BATCH is \'tables\': set it to "list" or "table"'),
    ],
)
def test_a_job_that_cannot_run_is_refused(attributes: dict[str, Any], message: str) -> None:
    job = type("Job", (MRJob,), attributes)()
    with pytest.raises(UsageError, match=message):
        hooks(job, 0)


def test_hadoops_hash_partitioner_is_what_we_do_anyway() -> None:
    class Hashed(WordCount):
        PARTITIONER = "org.apache.hadoop.mapred.lib.HashPartitioner"

    assert hooks(Hashed(), 0).partition is None


def test_an_error_in_steps_shows_the_users_traceback() -> None:
    class Broken(MRJob):
        def steps(self) -> list[MRStep]:
            return [MRStep(mapper=self.maper)]  # type: ignore[attr-defined]

    with pytest.raises(JobLoadError, match=r"Broken.steps\(\) raised AttributeError") as caught:
        step_specs(Broken(), 1)
    assert "MRStep(mapper=self.maper)" in caught.value.traceback
    assert "mrcelery/job.py" not in caught.value.traceback


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
