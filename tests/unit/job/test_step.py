"""Steps that cannot run are refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from mrcelery import ops
from mrcelery.errors import UsageError
from mrcelery.job.step import MRStep
from tests.support.plain_jobs import identity


@pytest.mark.parametrize(
    ("error", "kwargs", "message"),
    [
        (TypeError, {"maper": identity}, "unexpected keyword argument 'maper'"),
        (TypeError, {"mapper": 3}, "mapper must be a function, not 3"),
        (ValueError, {}, "no mapper and no reducer"),
        (ValueError, {"mapper": None}, "no mapper and no reducer"),
        (UsageError, {"mapper_cmd": "cat"}, "mapper_cmd is not supported"),
        (UsageError, {"mapper_raw": identity}, "mapper_raw is not supported"),
        (UsageError, {"mapper": identity, "reducer_pre_filter": "grep x"}, "reducer_pre_filter is not supported"),
        (UsageError, {"reducer": ops.Sum}, r"ops.Sum\(...\)"),
        (UsageError, {"mapper": ops.Sum()}, "only a reducer or a combiner"),
        (UsageError, {"combiner": ops.Count(), "reducer": identity}, r"combiner cannot be Count\(\)"),
        (UsageError, {"reducer": ops.Mean(), "combiner": identity}, "leave the combiner out"),
        (UsageError, {"reducer": ops.Sum(), "reducer_final": identity}, "cannot run with reducer_final"),
        (UsageError, {"mapper": identity, "mapper_batch": identity}, "leave one out"),
    ],
)
def test_a_step_that_cannot_run_is_refused(error: type[Exception], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(error, match=message):
        MRStep(**kwargs)
