"""What the engine finds in a job: its hooks, protocols and steps."""

from __future__ import annotations

from typing import Any

import pytest

from mrcelery import ops, protocols
from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.base import MRJob
from mrcelery.job.hooks import hooks, step_specs
from mrcelery.job.step import MRStep
from tests.support.plain_jobs import WordCount, identity


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
    ("attributes", "message"),
    [
        ({}, "does nothing: define a mapper"),
        (
            {"mapper": lambda self, k, v: [], "reduce": lambda self, k, vs: []},
            r"reduce\(\) does nothing: did you mean reducer",
        ),
        ({"map": lambda self, k, v: []}, r"map\(\) does nothing: did you mean mapper"),
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
