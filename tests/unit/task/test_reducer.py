"""The reduce stage by itself: the order of values, and where its runs are merged."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from mrcelery import MRJob
from mrcelery.errors import CodecError
from tests.support.stages import Words, run_job


class Values(MRJob):
    """Every key's values as they arrive, for the order of values."""

    def mapper(self, _: Any, line: Any) -> Any:
        key, value = line.split(",")
        yield key, int(value)

    def reducer(self, key: Any, values: Any) -> Any:
        yield key, list(values)


@pytest.mark.parametrize("budget", [150, 1 << 20])
def test_values_come_in_order_of_map_task_and_of_emission(tmp_path: Path, budget: int) -> None:
    inputs = ["\n".join(f"{'abc'[(i * 7 + m) % 3]},{m * 1000 + i}" for i in range(200)) for m in range(4)]
    want = defaultdict(list)
    for text in inputs:
        for line in text.split("\n"):
            key, value = line.split(",")
            want[key].append(int(value))
    results, _ = run_job(Values, inputs, str(tmp_path), reducers=2, budget=budget)
    assert dict(pair for part in results for pair in part) == want


class SortedValues(Values):
    SORT_VALUES = True


@pytest.mark.parametrize("budget", [150, 1 << 20])
def test_sort_values_sorts_them_by_value(tmp_path: Path, budget: int) -> None:
    inputs = ["\n".join(f"k,{(i * 7919 + m) % 1000}" for i in range(300)) for m in range(3)]
    results, _ = run_job(SortedValues, inputs, str(tmp_path), budget=budget)
    want = sorted(int(line.split(",")[1]) for text in inputs for line in text.split("\n"))
    assert results == [[("k", want)]]


def test_a_scratch_folder_that_is_full_is_no_error_of_the_users(tmp_path: Path) -> None:
    """The reducer draws on a merge that cannot write its files."""
    scratch = tmp_path / "scratch"
    scratch.write_text("a file, where a folder should be")
    with pytest.raises(FileExistsError):
        run_job(Words, ["a b", "b c", "c d"], str(scratch))


def test_values_without_an_order_cannot_be_sorted(tmp_path: Path) -> None:
    class Sorted(Words):
        SORT_VALUES = True

        def mapper(self, _: Any, line: Any) -> Any:
            yield line, {}

    with pytest.raises(CodecError, match="SORT_VALUES cannot order the values"):
        run_job(Sorted, ["a"], str(tmp_path))
