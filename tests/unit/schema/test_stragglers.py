"""Which attempts are stragglers."""

from __future__ import annotations

from itertools import permutations

import pytest

from mrcelery.schema.stragglers import Policy, Running, is_slow, usual_rate

POLICY = Policy(slower=3.0, patience=5.0)


def running(seconds: float, records: int) -> Running:
    return Running(0, "worker", seconds, records, 0.0)


def test_the_usual_rate_is_the_median_in_any_order() -> None:
    assert usual_rate([]) == 0.0
    assert usual_rate([7.0]) == 7.0
    for rates in permutations([1.0, 2.0, 1000.0]):
        assert usual_rate(rates) == 2.0


@pytest.mark.parametrize(
    ("seconds", "records", "slow"),
    [
        (10.0, 33, True),  # 3.3 records a second, where 10 are usual
        (10.0, 34, False),
        (5.0, 0, True),
        (4.9, 0, False),  # it has not had its time yet
        (1000.0, 10_000, False),  # long, but as quick as the others
    ],
)
def test_a_straggler_is_slower_by_the_factor_and_has_run_for_a_while(seconds: float, records: int, slow: bool) -> None:
    assert is_slow(running(seconds, records), 10.0, POLICY) is slow


def test_nobody_is_slow_before_a_task_has_committed() -> None:
    assert not is_slow(running(1000.0, 0), usual_rate([]), POLICY)
