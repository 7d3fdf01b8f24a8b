"""Accumulators of one key become one, whatever the key."""

from __future__ import annotations

from mrcelery import MRJob, ops
from tests.support.stages import run_job


def test_unhashable_keys_fold_in_a_declared_reducer(tmp_path):
    class Lists(MRJob):
        def mapper(self, _, line):
            yield [line, {"a": 1}["a"]], 1

        reducer = ops.Sum()

    results, _ = run_job(Lists, ["x\ny\nx"] * 3, str(tmp_path), budget=150)
    assert results == [[(["x", 1], 6), (["y", 1], 3)]]
