"""Partition bounds in total order: as even as they can be, the same each time, in bounded memory."""

from __future__ import annotations

import io
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError
from mrcelery.records.order import order_key
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Commit, Part, ShuffleInput
from mrcelery.shuffle.bounds import Ranges, Sample
from mrcelery.shuffle.index import Index, IndexedWriter, decode_index
from mrcelery.shuffle.part_lists import PartLists
from mrcelery.shuffle.skew import Skew
from mrcelery.storage import open_storage


def run_of(keys: list[Any], values: list[Any] | None = None) -> tuple[bytes, bytes, Part]:
    """Return a sorted run: its bytes, its index, and the part that its commit names."""
    out = io.BytesIO()
    writer = IndexedWriter(out)
    writer.write(sorted(keys, key=order_key), values or [None] * len(keys))
    writer.close()
    data = out.getvalue()
    return data, data[writer.data_end :], Part(0, "run", len(data), len(keys), 0, 0, writer.data_end)


def sample(runs: list[list[Any]], **limits: int) -> Sample:
    found = Sample(**limits)
    for keys in runs:
        _, index, _ = run_of(keys)
        found.add(decode_index(index, "run"), len(index))
    return found


def sizes(keys: list[Any], cuts: list[Any], n: int) -> list[int]:
    bounds = list(map(order_key, cuts))
    counts = Counter(sum(bound <= order_key(key) for bound in bounds) for key in keys)
    return [counts[r] for r in range(n)]


def test_ten_records_are_spread_over_four() -> None:
    keys = list("jihgfedcba")
    for runs in ([keys], [keys[:5], keys[5:]], [[key] for key in keys]):
        assert sorted(sizes(keys, sample(runs).cuts(4), 4)) == [2, 2, 3, 3]


@pytest.mark.parametrize("n", [2, 4, 16, 64])
@pytest.mark.parametrize("maps", [1, 5])
def test_quantiles(n: int, maps: int) -> None:
    rng = random.Random(n)
    runs = [[rng.gauss(0, 1) for _ in range(40_000 // maps)] for _ in range(maps)]
    found = sizes([key for run in runs for key in run], sample(runs).cuts(n), n)
    assert max(found) < 1.25 * 40_000 / n + 8192 / 8
    assert min(found) > 0


def test_a_heavy_key_does_not_starve_the_others() -> None:
    keys = ["m"] * 50_000 + [f"a{i:05}" for i in range(10_000)] + [f"z{i:05}" for i in range(20_000)]
    found = sizes(keys, sample([keys[::2], keys[1::2]]).cuts(5), 5)
    assert max(found) < 62_000
    assert sum(count > 4_000 for count in found) >= 4


def test_a_block_of_equal_records_weighs_what_they_are_worth() -> None:
    """The codec keeps thousands of them in a few bytes, yet the reducer has as many to process."""
    keys = ["a"] * 40_000 + [f"b{i:05}" for i in range(40_000)]
    found = sizes(keys, sample([keys]).cuts(2), 2)
    assert max(found) < 48_000


def test_records_weigh_beside_their_bytes() -> None:
    """Many small records are work for a reducer too, as are a few large ones."""
    keys = [f"{i:05}" for i in range(20_000)]
    _, index, _ = run_of(keys, [b"%d" % i * 40 if i < 1000 else None for i in range(20_000)])
    found = Sample()
    found.add(decode_index(index, "run"), len(index))
    assert 7_000 < sizes(keys, found.cuts(2), 2)[0] < 11_000


def test_large_values_weigh_more() -> None:
    keys = [f"{i:04}" for i in range(1000)]
    _, index, _ = run_of(keys, [b"%d" % i * 5000 if i < 100 else b"" for i in range(1000)])
    found = Sample()
    found.add(decode_index(index, "run"), len(index))
    assert sizes(keys, found.cuts(2), 2)[0] < 100


def test_fewer_keys_than_partitions() -> None:
    assert sample([["a", "b", "b"], ["b", "a"]]).cuts(4) == ["b"]
    assert sample([["a"] * 9]).cuts(4) == []
    assert sample([]).cuts(4) == []
    assert sample([["a", "b", "c", "d", *["e"] * 1000]]).cuts(5) == ["b", "c", "d", "e"]


keys = st.integers(0, 30) | st.sampled_from(["a", "b", b"a", None, 1.5, (1,), [1], (1, None)])


@given(st.lists(st.lists(keys, min_size=1, max_size=30), max_size=5), st.integers(2, 9), st.integers(2, 40))
def test_cuts_are_keys_in_order(runs: list[list[Any]], n: int, most: int) -> None:
    present = {order_key(key) for run in runs for key in run}
    cuts = sample(runs, most=most).cuts(n)
    bounds = list(map(order_key, cuts))
    assert all(a < b for a, b in pairwise(bounds))
    assert set(bounds) <= present
    assert min(present, default=None) not in bounds
    assert cuts == sample(runs, most=most).cuts(n)  # a barrier that runs twice cuts the same
    if sum(map(len, runs)) + len(runs) <= most:
        assert len(cuts) == max(0, min(n, len(present)) - 1)


def test_a_sample_is_bounded_and_still_good() -> None:
    rng = random.Random(1)
    runs = [[rng.random() for _ in range(3000)] for _ in range(60)]
    found = sample(runs, most=500)
    assert len(found._keys) <= 500
    per = sizes([key for run in runs for key in run], found.cuts(8), 8)
    assert max(per) < 1.1 * 180_000 / 8
    large = Sample(most_bytes=100_000)
    for i in range(50):
        _, index, _ = run_of([f"{rng.random()}{'x' * 1000}" for _ in range(100)])
        large.add(decode_index(index, "run"), len(index))
        assert sum(map(len, large._keys)) <= 100_000, i


def divide(tmp_path: Path, runs: list[list[Any]], n: int) -> tuple[list[Any], list[ShuffleInput], dict[str, int]]:
    with (
        patch("mrcelery.records.blocks.BLOCK_RECORDS", 50),
        Ranges(str(tmp_path)) as ranges,
        PartLists(str(tmp_path)) as lists,
    ):
        for keys in runs:
            _, index, part = run_of(keys)
            ranges.add(part, index)
        skew = Skew(n)
        cuts = ranges.divide(n, lists, skew)
        inputs = [decode(lists.encoded(r), ShuffleInput) for r in range(n)]
        return cuts, inputs, skew.counters()


def test_a_sample_has_bounds_of_its_own() -> None:
    """At most about 65,000 keys, and 32 MiB of them, however many runs there are."""
    many, large = Sample(), Sample()
    for run in range(40):
        many.add(Index([0], [1 << 20], [4096], [4096], [run + i * 40 for i in range(4097)]), 1)
        large.add(Index([0], [1 << 20], [8], [8], [run + i * 40 for i in range(9)]), 1 << 20)
    assert 1 << 14 < len(many._keys) <= 1 << 16
    assert 1 < len(large._keys) < 40 * 9
    assert large._bytes <= 32 << 20


def test_each_partition_is_told_its_blocks_and_the_skew(tmp_path: Path) -> None:
    runs = [list(range(i, 4000, 4)) for i in range(4)]
    cuts, inputs, skew = divide(tmp_path, runs, 4)
    assert len(cuts) == 3
    assert [len(given_.parts) for given_ in inputs] == [4] * 4  # one of each run
    for i in range(4):
        # Of each run, only the blocks at the three bounds are read twice.
        assert sum(given_.parts[i].records for given_ in inputs) <= 1000 + 3 * 50
    assert skew["partitions"] == 4
    assert skew["empty partitions"] == 0
    assert skew["records, largest partition"] < 1100
    assert 100 <= skew["largest to mean, percent"] < 110
    assert list(tmp_path.iterdir()) == []


def test_one_key_goes_to_one_partition(tmp_path: Path) -> None:
    cuts, inputs, skew = divide(tmp_path, [["k"] * 300, ["k"] * 100], 3)
    assert cuts == []
    assert [sum(part.records for part in given_.parts) for given_ in inputs] == [400, 0, 0]
    assert skew["empty partitions"] == 2
    assert skew["largest to mean, percent"] == 300


def test_runs_are_gathered_from_storage(tmp_path: Path) -> None:
    storage = open_storage(f"memory://{tmp_path.name}")
    commits = []
    for number in range(40):
        data, _, part = run_of([number * 100 + i for i in range(100)])
        parts = (msgspec.structs.replace(part, key=f"run-{number}"),) if number % 7 else ()  # or the task left nothing
        storage.write(f"run-{number}", data)
        commits.append(
            Commit(
                job="j", step=0, kind="map", task=number, attempt="1", parts=parts, counters={}, records_in=0,
                records_out=0, bytes_in=0, bytes_out=0, seconds=0.0, host="h",
            )
        )  # fmt: skip
    with Ranges(str(tmp_path)) as ranges, PartLists(str(tmp_path)) as lists:
        assert list(ranges.gather(storage, iter(commits))) == commits
        ranges.divide(4, lists, Skew(4))
        told = [part.key for r in range(4) for part in decode(lists.encoded(r), ShuffleInput).parts]
    assert list(dict.fromkeys(told)) == [f"run-{number}" for number in range(40) if number % 7]
    storage.delete(["run-8"])
    with Ranges(str(tmp_path)) as ranges, pytest.raises(CorruptDataError, match="run-8 is gone"):
        list(ranges.gather(storage, iter(commits)))


def test_few_indexes_are_in_memory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(f"memory://{tmp_path.name}")
    data, _, part = run_of([1, 2, 3])
    storage.write("run", data)
    commit = Commit(
        job="j", step=0, kind="map", task=0, attempt="1", parts=(part,), counters={}, records_in=0,
        records_out=0, bytes_in=0, bytes_out=0, seconds=0.0, host="h",
    )  # fmt: skip
    reads: list[str] = []
    read = storage.read

    def counted(key: str, *of: int) -> bytes:
        reads.append(key)
        return read(key, *of)

    monkeypatch.setattr(storage, "read", counted)
    with Ranges(str(tmp_path)) as ranges:
        gathered = ranges.gather(storage, iter([commit] * 100))
        assert next(gathered) == commit
        assert len(reads) == 16
        assert len(list(gathered)) == 99
    assert len(reads) == 100


def test_a_damaged_index_names_its_run(tmp_path: Path) -> None:
    _, index, part = run_of(["a", "b"])
    with Ranges(str(tmp_path)) as ranges, pytest.raises(CorruptDataError, match="the index of run"):
        ranges.add(part, index[:-1])
