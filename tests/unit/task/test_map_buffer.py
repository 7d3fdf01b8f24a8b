"""The map side's buffer, with budgets so small that everything spills."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery import MRJob, ops
from mrcelery.errors import CodecError
from mrcelery.protocols import JSONProtocol
from mrcelery.records.hashing import hash_partition
from mrcelery.records.order import order_key
from tests.support.stages import Combined, Words, run_job


class Declared(MRJob):
    mapper = Words.mapper
    reducer = ops.Sum()


class Encoded(Combined):
    INTERNAL_PROTOCOL = JSONProtocol


class EncodedOp(Words):
    INTERNAL_PROTOCOL = JSONProtocol
    combiner = ops.Sum()


WORDS = ["ab", "c", "dé", "中", "😀", "x0", "x1", "x2", "x3", "x4"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=60), max_size=4)


class Sometimes(Words):
    """Words that count one each, except those that begin with an x."""

    def mapper(self, _: Any, line: Any) -> Any:
        for word in line.split():
            yield word, int(word[1:]) if word[0] == "x" else 1


class SometimesCombined(Sometimes):
    combiner = Combined.combiner


class SometimesDeclared(Sometimes):
    reducer: Any = ops.Sum()


@pytest.mark.parametrize("job", [Combined, Declared, SometimesCombined, SometimesDeclared])
@pytest.mark.parametrize("budget", [200, 2000, 1 << 20])
@pytest.mark.parametrize("tail", ["", "x1 x3 x1 "])
def test_what_is_counted_is_not_lost(tmp_path: Path, job: type[MRJob], budget: int, tail: str) -> None:
    """Few words, many times; then so many that they fill the buffer. Pairs with other values end both."""
    inputs = ["a b a\n" * 2000 + tail * 3 + "a c", " ".join(f"w{i % 400}" for i in range(5000)) + "\n" + tail]
    results, _ = run_job(job, inputs, str(tmp_path), reducers=2, budget=budget)
    want: Counter[str] = Counter()
    for text in inputs:
        for word in text.split():
            want[word] += int(word[1:]) if word[0] == "x" and job.__name__.startswith("Sometimes") else 1
    assert dict(pair for part in results for pair in part) == want


@pytest.mark.parametrize("job", [Words, Combined, Declared, Encoded, EncodedOp])
@given(words=texts, reducers=st.integers(1, 5), budget=st.sampled_from([200, 1000, 1 << 20]))
@settings(max_examples=15, deadline=None)
def test_counts_equal_a_counter_whatever_spills(
    tmp_path_factory: pytest.TempPathFactory, job: type[MRJob], words: list[list[str]], reducers: int, budget: int
) -> None:
    scratch = str(tmp_path_factory.getbasetemp() / "scratch")
    results, tasks = run_job(
        job,
        ["\n".join(" ".join(w[i : i + 7]) for i in range(0, len(w), 7)) for w in words],
        scratch,
        reducers=reducers,
        budget=budget,
    )
    want = Counter(word for w in words for word in w)
    assert dict(pair for part in results for pair in part) == want
    assert sum(len(part) for part in results) == len(want)
    if job not in (Encoded, EncodedOp):
        for r, part in enumerate(results):
            keys = [key for key, _ in part]
            assert keys == sorted(keys)
            assert all(hash_partition(key, reducers) == r for key in keys)
    assert sum(t.records_out for t in tasks if t.id.kind == "map") == sum(want.values())


def test_a_small_budget_really_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrcelery.task import map_buffer

    spilled = []
    spill = map_buffer.MapBuffer._spill

    def counted(self: Any, block: Any) -> Any:
        spilled.append(1)
        return spill(self, block)

    monkeypatch.setattr(map_buffer.MapBuffer, "_spill", counted)
    text = "\n".join(f"w{i % 500}" for i in range(5000))
    results, _ = run_job(Words, [text], str(tmp_path), budget=5000)
    assert len(spilled) > 5
    assert len(results[0]) == 500
    assert list(tmp_path.iterdir()) == []


class MixedKeys(MRJob):
    """Keys of all kinds, lists among them, through a combiner."""

    KEYS = [None, 1, 1.0, True, 2.5, "1", b"1", (1, "a"), [1, "a"], (1,), [[2], "x"], ()]

    def mapper(self, _: Any, line: Any) -> Any:
        yield self.KEYS[int(line)], 1

    def combiner(self, key: Any, ones: Any) -> Any:
        yield key, sum(ones)

    def reducer(self, key: Any, ones: Any) -> Any:
        yield repr(order_key(key)), sum(ones)


@pytest.mark.parametrize("budget", [100, 1 << 20])
def test_keys_of_all_types_group_as_python_says(tmp_path: Path, budget: int) -> None:
    numbers = [i * 5 % len(MixedKeys.KEYS) for i in range(240)]
    results, _ = run_job(MixedKeys, ["\n".join(map(str, numbers))] * 2, str(tmp_path), reducers=3, budget=budget)
    pairs = [pair for part in results for pair in part]
    want: Counter[str] = Counter()
    for number in numbers * 2:
        key = MixedKeys.KEYS[number]
        want["one" if key in (1,) and not isinstance(key, (tuple, list)) else repr(order_key(key))] += 1
    got: Counter[str] = Counter()
    for key, count in pairs:
        got["one" if key in {repr(order_key(k)) for k in (1, 1.0, True)} else key] += count
    assert got == want
    assert len(pairs) == len(want)


def test_a_value_no_codec_takes_is_refused_by_name(tmp_path: Path) -> None:
    class Strange(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield line, object()

        def reducer(self, key: Any, values: Any) -> Any:
            yield key, 1

    with pytest.raises(CodecError, match="no codec takes a value of type object"):
        run_job(Strange, ["x"], str(tmp_path))


@pytest.mark.parametrize("key", [float("nan"), frozenset({1}), {"a": 1}])
@pytest.mark.parametrize("with_combiner", [False, True])
def test_what_cannot_be_a_key_is_refused(tmp_path: Path, key: Any, with_combiner: bool) -> None:
    class Strange(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield key, 1

        def reducer(self, key: Any, values: Any) -> Any:
            yield None, 1

        if with_combiner:

            def combiner(self, key: Any, values: Any) -> Any:
                yield key, 1

    with pytest.raises(CodecError, match="cannot be a key"):
        run_job(Strange, ["x"], str(tmp_path), reducers=2)


class Reused(MRJob):
    """Continues to change what it has yielded, as user code may."""

    def mapper_init(self) -> Any:
        self.record: dict[str, Any] = {"words": [], "last": None}
        self.pair: list[Any] = ["all", 0]

    def mapper(self, _: Any, line: Any) -> Any:
        for word in line.split():
            self.record["words"].append(word)
            self.record["last"] = word
            yield "records", self.record
            yield ["key", self.record["words"]], 1
            yield "tuples", (word, self.record["words"])
            self.pair[1] += 1
            yield self.pair

    def mapper_final(self) -> Any:
        yield "final", self.record["words"]
        self.record["words"].clear()

    def reducer(self, key: Any, values: Any) -> Any:
        values = list(values)
        yield key, values
        values.clear()


REUSED = [
    (["key", ["a"]], [1]),
    (["key", ["a", "b"]], [1]),
    ("all", [1, 2]),
    ("final", [["a", "b"]]),
    ("records", [{"words": ["a"], "last": "a"}, {"words": ["a", "b"], "last": "b"}]),
    ("tuples", [["a", ["a"]], ["b", ["a", "b"]]]),
]


@pytest.mark.parametrize("protocol", [None, JSONProtocol])
@pytest.mark.parametrize("with_combiner", [False, True])
def test_what_is_yielded_counts_as_it_was_then(tmp_path: Path, protocol: Any, with_combiner: bool) -> None:
    class Job(Reused):
        INTERNAL_PROTOCOL = OUTPUT_PROTOCOL = protocol
        if with_combiner:

            def combiner(self, key: Any, values: Any) -> Any:
                self.kept = list(values)
                for value in self.kept:
                    yield key, value
                self.kept.clear()

    ((pairs,), _) = run_job(Job, ["a b"], str(tmp_path))
    assert sorted(pairs, key=repr) == sorted(REUSED, key=repr)


def test_collected_values_count_as_they_were(tmp_path: Path) -> None:
    class Job(MRJob):
        record: dict[str, Any]
        mapper_init = Reused.mapper_init

        def mapper(self, _: Any, line: Any) -> Any:
            self.record["words"].append(line)
            yield "k", self.record["words"]

        reducer = ops.CollectList()

    assert run_job(Job, ["a\nb"], str(tmp_path))[0] == [[("k", [["a"], ["a", "b"]])]]
