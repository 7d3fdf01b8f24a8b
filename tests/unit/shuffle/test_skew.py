"""How evenly partitions are filled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mrcelery.shuffle.skew import Skew


def of(*records: int) -> dict[str, int]:
    skew = Skew(len(records))
    for partition, count in enumerate(records):
        skew.add(partition, count, 10 * count)
    return skew.counters()


def test_equal_partitions_and_one_that_has_all() -> None:
    assert of(5, 5, 5, 5)["largest to mean, percent"] == 100
    assert of(0, 20, 0, 0) == {
        "partitions": 4,
        "empty partitions": 3,
        "records, largest partition": 20,
        "records, median partition": 0,
        "bytes, largest partition": 200,
        "bytes, median partition": 0,
        "largest to mean, percent": 400,
    }


def test_nothing_is_uneven_in_one_partition_or_without_records() -> None:
    assert of(7) == {}
    assert of(0, 0) == {}


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
def test_a_share_is_between_the_mean_and_all(records: list[int]) -> None:
    found = of(*records)
    assert (found == {}) is not any(records)
    if found:
        assert 100 <= found["largest to mean, percent"] <= 100 * len(records)
        assert found["empty partitions"] == records.count(0)


def test_what_many_map_tasks_leave_adds_up() -> None:
    skew = Skew(2)
    for _ in range(3):
        skew.add(1, 2, 5)
    assert skew.counters()["bytes, largest partition"] == 15
    assert skew.counters()["records, largest partition"] == 6
