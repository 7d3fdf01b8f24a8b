"""How many pairs a task takes at once, by a clock of the test's own."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.task.pace import SLICE_SECONDS, Pace, columns, sampled_size, size_of


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("mrcelery.task.pace.time.monotonic", lambda: self.now)

    def steps(self, pace: Pace, count: int, seconds: float, size: int) -> list[int]:
        """The steps of a task whose pairs take so long each, and have so many bytes."""
        found = []
        for _ in range(count):
            found.append(pace.step())
            self.now += found[-1] * seconds
            pace.took(size)
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_small_quick_pairs_are_soon_taken_by_the_most(clock: Clock) -> None:
    assert clock.steps(Pace(1 << 30, 1000), 8, 0.0, 16) == [1, 4, 16, 64, 256, 1000, 1000, 1000]


def test_slow_pairs_are_taken_one_by_one(clock: Clock) -> None:
    assert clock.steps(Pace(1 << 30, 1000), 5, 2 * SLICE_SECONDS, 16) == [1] * 5


def test_a_pace_that_has_become_too_fast_falls_again(clock: Clock) -> None:
    pace = Pace(1 << 30, 1000)
    clock.steps(pace, 6, 0.0, 16)
    assert clock.steps(pace, 6, 1.0, 16) == [1000, 250, 62, 15, 3, 1]


@pytest.mark.parametrize("size", [0, 16, 1000, 1 << 20, 1 << 40])
def test_what_is_taken_stays_within_a_share_of_the_budget(clock: Clock, size: int) -> None:
    budget = 16 << 20
    steps = clock.steps(Pace(budget, 1 << 20), 20, 0.0, size)
    assert all(step == 1 or step * size <= budget // 16 for step in steps)
    assert min(steps) == 1  # a pair that is larger than the budget is taken too


def test_columns_are_the_keys_and_the_values() -> None:
    assert columns([("a", 1), ("b", None)]) == (["a", "b"], [1, None])
    assert columns([]) == ([], [])


def test_a_shared_object_is_not_counted_for_each_place() -> None:
    big = "x" * 100_000
    assert sampled_size([]) == 0
    assert sampled_size([big]) == big.__sizeof__()
    assert sampled_size([big] * 16) == big.__sizeof__() // 16


nested = st.recursive(
    st.none() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=8) | st.tuples(inner, inner),
    max_leaves=10,
)


@given(nested)
def test_a_container_weighs_more_than_what_is_in_it(value: Any) -> None:
    assert size_of([value]) == [value].__sizeof__() + size_of(value)
    assert size_of({"k": value}) == {"k": value}.__sizeof__() + size_of("k") + size_of(value)
    assert size_of(value) >= value.__sizeof__()


def test_a_long_container_is_sampled() -> None:
    items = ["y" * 1000] * 10_000
    assert size_of(items) == pytest.approx(sys.getsizeof(items) + 10_000 * size_of(items[0]), rel=0.01)
