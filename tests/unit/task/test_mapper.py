"""The map and reduce stages by themselves, with budgets so small that everything spills."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery import MRJob, ops
from mrcelery.errors import UserCodeError
from mrcelery.protocols import JSONProtocol
from mrcelery.records.hashing import hash_partition
from tests.support.stages import Words, run_job


class Combined(Words):
    def combiner(self, word, counts):
        yield word, sum(counts)


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
    """Words that count one, but for those that begin with an x."""

    def mapper(self, _, line):
        for word in line.split():
            yield word, int(word[1:]) if word[0] == "x" else 1


class SometimesCombined(Sometimes):
    combiner = Combined.combiner


class SometimesDeclared(Sometimes):
    reducer = ops.Sum()


@pytest.mark.parametrize("job", [Combined, Declared, SometimesCombined, SometimesDeclared])
@pytest.mark.parametrize("budget", [pytest.param(200, marks=pytest.mark.slow), 2000, 1 << 20])
@pytest.mark.parametrize("tail", ["", "x1 x3 x1 "])
def test_what_is_counted_is_not_lost(tmp_path, job, budget, tail) -> None:
    """Many of few words, and of so many that the buffer is full of them; then pairs of another value."""
    inputs = ["a b a\n" * 2000 + tail * 3 + "a c", " ".join(f"w{i % 400}" for i in range(5000)) + "\n" + tail]
    results, _ = run_job(job, inputs, str(tmp_path), reducers=2, budget=budget)
    want = Counter()
    for text in inputs:
        for word in text.split():
            want[word] += int(word[1:]) if word[0] == "x" and job.__name__.startswith("Sometimes") else 1
    assert dict(pair for part in results for pair in part) == want


@pytest.mark.parametrize("job", [Words, Combined, Declared, Encoded, EncodedOp])
@given(words=texts, reducers=st.integers(1, 5), budget=st.sampled_from([200, 1000, 1 << 20]))
@settings(max_examples=15, deadline=None)
def test_counts_equal_a_counter_whatever_spills(tmp_path_factory, job, words, reducers, budget):
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


def test_a_small_budget_really_spills(tmp_path, monkeypatch):
    from mrcelery.task import map_buffer

    spilled = []
    spill = map_buffer.MapBuffer._spill
    monkeypatch.setattr(map_buffer.MapBuffer, "_spill", lambda self, block: (spilled.append(1), spill(self, block))[1])
    text = "\n".join(f"w{i % 500}" for i in range(5000))
    results, _ = run_job(Words, [text], str(tmp_path), budget=5000)
    assert len(spilled) > 5
    assert len(results[0]) == 500
    assert list(tmp_path.iterdir()) == []


class Hooks(MRJob):
    def mapper_init(self):
        self.n = 0
        yield "init", 1

    def mapper(self, _, line):
        self.n += 1

    def mapper_final(self):
        yield "lines", self.n

    def combiner_init(self):
        yield "combiners", 0

    def combiner(self, key, values):
        yield key, sum(values)

    def combiner_final(self):
        yield "combiners", 1

    def reducer_init(self):
        self.seen = []
        yield "reducers", 1

    def reducer(self, key, values):
        self.seen.append(key)
        return [(key, sum(values))]  # a plain function may return its pairs

    def reducer_final(self):
        yield "seen", self.seen


def test_all_hooks_run_and_may_yield(tmp_path):
    results, _ = run_job(Hooks, ["a\nb", "c"], str(tmp_path))
    pairs = dict(results[0])
    assert pairs["init"] == 2
    assert pairs["lines"] == 3
    assert pairs["reducers"] == 1
    assert pairs["combiners"] == 2
    assert pairs["seen"] == ["combiners", "init", "lines"]


def test_a_users_partition_decides(tmp_path):
    class ByLength(Words):
        def partition(self, key, n):
            return len(key) % n

    results, _ = run_job(ByLength, ["a bb ccc dddd bb"], str(tmp_path), reducers=2)
    assert results == [[("bb", 2), ("dddd", 1)], [("a", 1), ("ccc", 1)]]


@pytest.mark.parametrize("answer", [2, -1, "0", None, 0.0, True])
def test_a_partition_out_of_range_is_refused(tmp_path, answer):
    class Wrong(Words):
        def partition(self, key, n):
            return answer

    with pytest.raises(UserCodeError, match=r"partition\('a', 2\) returned .*: return an int from 0 to 1"):
        run_job(Wrong, ["a"], str(tmp_path), reducers=2)


def test_mapper_batch_takes_a_block_and_may_return_a_mapping(tmp_path):
    class Batch(MRJob):
        def mapper_batch(self, lines):
            return Counter(word for line in lines for word in line.split())

        reducer = ops.Sum()

    results, _ = run_job(Batch, ["a b a\nc", "a"], str(tmp_path))
    assert results == [[("a", 3), ("b", 1), ("c", 1)]]


class Reused(MRJob):
    """Goes on with what it has yielded, as user code may."""

    def mapper_init(self):
        self.record = {"words": [], "last": None}
        self.pair = ["all", 0]

    def mapper(self, _, line):
        for word in line.split():
            self.record["words"].append(word)
            self.record["last"] = word
            yield "records", self.record
            yield ["key", self.record["words"]], 1
            yield "tuples", (word, self.record["words"])
            self.pair[1] += 1
            yield self.pair

    def mapper_final(self):
        yield "final", self.record["words"]
        self.record["words"].clear()

    def reducer(self, key, values):
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
def test_what_is_yielded_counts_as_it_was_then(tmp_path, protocol, with_combiner):
    class Job(Reused):
        INTERNAL_PROTOCOL = OUTPUT_PROTOCOL = protocol
        if with_combiner:

            def combiner(self, key, values):
                self.kept = list(values)
                for value in self.kept:
                    yield key, value
                self.kept.clear()

    ((pairs,), _) = run_job(Job, ["a b"], str(tmp_path))
    assert sorted(pairs, key=repr) == sorted(REUSED, key=repr)


def test_collected_values_count_as_they_were(tmp_path):
    class Job(MRJob):
        mapper_init = Reused.mapper_init

        def mapper(self, _, line):
            self.record["words"].append(line)
            yield "k", self.record["words"]

        reducer = ops.CollectList()

    assert run_job(Job, ["a\nb"], str(tmp_path))[0] == [[("k", [["a"], ["a", "b"]])]]


def test_a_scratch_folder_that_is_full_is_no_error_of_the_users(tmp_path):
    """The reducer draws on a merge that cannot write its files."""
    scratch = tmp_path / "scratch"
    scratch.write_text("a file, where a folder should be")
    with pytest.raises(FileExistsError):
        run_job(Words, ["a b", "b c", "c d"], str(scratch))
