"""Accumulators of one key become one, whatever the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrcelery import MRJob, ops
from tests.support.stages import run_job


def test_unhashable_keys_fold_in_a_declared_reducer(tmp_path: Path) -> None:
    class Lists(MRJob):
        def mapper(self, _: Any, line: Any) -> Any:
            yield [line, {"a": 1}["a"]], 1

        reducer = ops.Sum()

    results, _ = run_job(Lists, ["x\ny\nx"] * 3, str(tmp_path), budget=150)
    assert results == [[(["x", 1], 6), (["y", 1], 3)]]
