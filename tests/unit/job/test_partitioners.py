"""Partitioners by name, the order of precedence, and Hadoop's fields of a key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery import MRJob, MRStep
from mrcelery.errors import UsageError
from mrcelery.job.hooks import hooks, step_specs
from mrcelery.job.partitioners import FieldPartitioner, named, with_partitioner
from mrcelery.job.step import StepHooks
from mrcelery.records.hashing import hash_partition
from mrcelery.schema.structs import Partitioner, StepSpec
from mrcelery.shuffle.skew import Skew

HADOOP = "org.apache.hadoop.mapred.lib."
OPTIONS = "mapreduce.partition.keypartitioner.options"
CLASS = "mapreduce.job.partitioner.class"


@pytest.mark.parametrize(
    ("name", "jobconf", "expected"),
    [
        ("hash", {}, Partitioner("hash")),
        ("range", {}, Partitioner("range")),
        ("field:1", {}, Partitioner("field", ((1, 1),))),
        ("field:2-3", {}, Partitioner("field", ((2, 3),))),
        ("field:1,3-", {}, Partitioner("field", ((1, 1), (3, 0)))),
        (
            "field:2",
            {"mapreduce.map.output.key.field.separator": ","},
            Partitioner("field", ((2, 2),), ","),
        ),
        ("field:2", {"map.output.key.field.separator": "\\t"}, Partitioner("field", ((2, 2),), "\t")),
        (HADOOP + "HashPartitioner", {}, Partitioner("hash")),
        ("HashPartitioner", {}, Partitioner("hash")),
        (HADOOP + "TotalOrderPartitioner", {}, Partitioner("range")),
        ("org.apache.hadoop.mapreduce.lib.partition.TotalOrderPartitioner", {}, Partitioner("range")),
        (HADOOP + "KeyFieldBasedPartitioner", {}, Partitioner("hash")),
        (HADOOP + "KeyFieldBasedPartitioner", {OPTIONS: "-k1,1"}, Partitioner("field", ((1, 1),))),
        (HADOOP + "KeyFieldBasedPartitioner", {OPTIONS: "-k 1,2"}, Partitioner("field", ((1, 2),))),
        (HADOOP + "KeyFieldBasedPartitioner", {OPTIONS: "-k2"}, Partitioner("field", ((2, 0),))),
        (HADOOP + "KeyFieldBasedPartitioner", {OPTIONS: "-k1,1n -r -k3nr,4"}, Partitioner("field", ((1, 1), (3, 4)))),
        (
            HADOOP + "KeyFieldBasedPartitioner",
            {"mapred.text.key.partitioner.options": "-k1,2", "map.output.key.field.separator": "."},
            Partitioner("field", ((1, 2),), "."),
        ),
    ],
)
def test_names(name: str, jobconf: dict[str, Any], expected: Partitioner) -> None:
    assert named(name, jobconf) == expected


@pytest.mark.parametrize(
    "name", ["ranges", "hash:3", "range:2", "org.x.BinaryPartitioner", "field", "field:", "field:0", "field:3-2",
             "field:a", "field:1-0", "field:-2", "field:1,,2"],
)  # fmt: skip
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="field:1"):
        named(name, {})


@pytest.mark.parametrize("options", ["-k1.2,1.3", "-k0,1", "-k3,2", "1,2", "-k", "-x"])
def test_options_that_cannot_be_are_refused(options: str) -> None:
    with pytest.raises(UsageError, match=r"keypartitioner\.options has .*: write whole fields"):
        named("KeyFieldBasedPartitioner", {OPTIONS: options})


class Plain(MRJob):
    def mapper(self, _: Any, line: str) -> Any:
        yield line, 1

    def reducer(self, key: Any, values: Any) -> Any:
        yield key, sum(values)


class Own(Plain):
    def partition(self, key: Any, n: int) -> int:
        return 0


def kind(job: type[MRJob], **given: Any) -> str:
    (spec,) = step_specs(job([]), 4, **given)
    return spec.partitioner.kind


def declaring(**attributes: Any) -> type[MRJob]:
    return type("Declaring", (Plain,), attributes)


def test_precedence() -> None:
    in_step = declaring(steps=lambda self: [MRStep(mapper=self.mapper, reducer=self.reducer, jobconf={CLASS: "range"})])
    step_and_own = type("Both", (Own,), {"steps": in_step.steps})
    declared = declaring(PARTITIONER="range")
    method = declaring(partitioner=lambda self: "range")
    in_conf = declaring(JOBCONF={"mapred.partitioner.class": HADOOP + "TotalOrderPartitioner"})
    assert kind(Plain) == "own"
    assert kind(Plain, partitioner_default="range") == "range"
    for job in (in_step, step_and_own, declared, method, in_conf):
        assert kind(job) == "range"
        assert kind(job, partitioner_default="hash") == "range"
        assert kind(job, define={CLASS: "hash"}) == "hash"
        assert kind(job, partitioner="field:1", define={CLASS: "hash"}) == "field"
    assert kind(Own) == "own"
    assert kind(Own, partitioner_default="range") == "own"
    assert kind(Own, define={CLASS: "range"}) == "range"
    assert kind(Own, partitioner="hash") == "hash"


def test_definitions_win_over_the_jobs_fields() -> None:
    job = declaring(PARTITIONER=HADOOP + "KeyFieldBasedPartitioner", JOBCONF={OPTIONS: "-k1,1"})
    assert step_specs(job([]), 4)[0].partitioner.fields == ((1, 1),)
    assert step_specs(job([]), 4, define={OPTIONS: "-k2,2"})[0].partitioner.fields == ((2, 2),)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mapreduce.job.reducer", "mapreduce.job.reduces"),
        ("mapred.reduce.task", "mapred.reduce.tasks"),
        ("mapreduce.job.partitoner.class", CLASS),
        ("mapreduce.output.key.field.separator", "mapreduce.map.output.key.field.separator"),
    ],
)
def test_misspelt_properties_are_refused(name: str, meant: str) -> None:
    in_step = declaring(steps=lambda self: [MRStep(mapper=self.mapper, reducer=self.reducer, jobconf={name: "1"})])
    with pytest.raises(UsageError, match=f"{name} does nothing: did you mean {meant}"):
        step_specs(Plain([]), 4, define={name: "1"})
    for job in (in_step, declaring(JOBCONF={name: "1"})):
        with pytest.raises(UsageError, match=f"did you mean {meant}"):
            step_specs(job([]), 4)


@pytest.mark.parametrize(
    "name",
    [
        "my.own.reduces",
        "mapreduce.job.reduce.class",
        "mapreduce.map.memory.mb",
        "mapred.map.tasks",
        "mapreduce.partition.keycomparator.options",
        "stream.map.output.field.separator",
    ],
)
def test_other_properties_are_the_jobs_own(name: str) -> None:
    assert step_specs(Plain([]), 4, define={name: "1"})


@pytest.mark.parametrize("attributes", [{"PARTITIONER": "range"}, {"JOBCONF": {CLASS: "hash"}}])
def test_two_partitioners_of_one_job_are_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"both partition\(\) and PARTITIONER"):
        step_specs(type("Both", (Own,), attributes)([]), 4)


def test_total_order_needs_two_partitions() -> None:
    (spec,) = step_specs(declaring(PARTITIONER="range")([]), 1)
    assert not spec.total_order
    (spec,) = step_specs(declaring(PARTITIONER="range")([]), 2)
    assert spec.total_order


def test_a_map_only_step_has_none() -> None:
    class MapOnly(MRJob):
        PARTITIONER = "range"
        mapper = Plain.mapper

    assert step_specs(MapOnly([]), 4)[0].partitioner == Partitioner()


def test_hooks() -> None:
    own = hooks(Own([]), 0)

    def arranged(partitioner: Partitioner, reducers: int = 4) -> StepHooks:
        return with_partitioner(own, StepSpec(has_reducer=True, reducers=reducers, partitioner=partitioner))

    assert arranged(Partitioner()) == own
    assert arranged(Partitioner("hash")).partition is None
    ranged = arranged(Partitioner("range"))
    assert ranged.partition is None
    assert ranged.total_order
    assert not arranged(Partitioner("range"), 1).total_order
    by_field = arranged(Partitioner("field", ((1, 1),)))
    assert by_field.partition is not None
    assert by_field.partition(("a", 2), 8) == hash_partition("a", 8)


def by(spec: str, separator: str = "\t") -> FieldPartitioner:
    return FieldPartitioner(named(f"field:{spec}", {"mapreduce.map.output.key.field.separator": separator}))


ONE = 1_000_003


@pytest.mark.parametrize(
    ("spec", "key", "counts"),
    [
        ("1", ("a", 1), "a"),
        ("1", ["a", 1], "a"),
        ("2", ("a", 1), 1),
        ("2", ("a", 1.0), 1),
        ("1", "a\tb", "a"),
        ("1", b"a\tb", b"a"),
        ("2-3", ("a", 1, None, 5), (1, None)),
        ("1,3", "a\tb\tc", ("a", "c")),
        ("2-", "a\tb\tc", ("b", "c")),
        ("2-3", ("a", 1), 1),  # fewer fields: those there are
        ("1", "no separator", "no separator"),
        ("1", 42, 42),
        ("1", None, None),
        ("1-2", ((1, 2), [3]), ((1, 2), [3])),
    ],
)
def test_fields(spec: str, key: Any, counts: Any) -> None:
    assert by(spec)(key, ONE) == hash_partition(counts, ONE)


@pytest.mark.parametrize("key", ["a", b"a", ("a",), [], (), 3, None])
def test_a_key_without_the_fields_goes_to_the_first_partition(key: Any) -> None:
    assert by("2-3")(key, ONE) == 0


def test_separators() -> None:
    assert by("2", ",")("a,b", ONE) == by("1", ",")(b"b,c", ONE) == hash_partition("b", ONE)
    assert by("2", "::")("a::b::c", ONE) == hash_partition("b", ONE)


without_tabs = st.text(st.characters(codec="utf-8", exclude_characters="\t"))


@given(without_tabs, st.lists(st.text(), max_size=3), st.integers(1, 9))
def test_keys_that_agree_in_the_field_meet(first: str, rest: list[str], n: int) -> None:
    expected = by("1")((first,), n)
    assert 0 <= expected < n
    assert by("1")((first, *rest), n) == expected
    assert by("1")("\t".join([first, *rest]), n) == expected


def test_skew() -> None:
    skew = Skew(4)
    for partition, records, size in ((0, 1, 10), (2, 5, 50), (2, 5, 60), (3, 1, 8)):
        skew.add(partition, records, size)
    assert skew.counters() == {
        "partitions": 4,
        "empty partitions": 1,
        "records, largest partition": 10,
        "records, median partition": 1,
        "bytes, largest partition": 110,
        "bytes, median partition": 8,
        "largest to mean, percent": 333,
    }
    assert Skew(4).counters() == {}
    one = Skew(1)
    one.add(0, 3, 3)
    assert one.counters() == {}
