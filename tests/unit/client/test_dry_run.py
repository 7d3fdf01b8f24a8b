"""What a job would do and cost, without running it."""

from __future__ import annotations

import pytest

from mrcelery.client.submission import Submission
from tests.support.word_count import TEXT, WordCount

pytestmark = pytest.mark.usefixtures("alone")


def test_the_plan_is_priced_without_running() -> None:
    plan = Submission.prepare(WordCount, "in.txt", split_size="10", reducers=3).plan()
    assert (plan.inputs.files, plan.inputs.bytes, plan.inputs.splits, plan.reducers) == (1, len(TEXT), 4, (3,))
    assert plan.cost.dollars == 0
    on_s3 = Submission.prepare(WordCount, "in.txt", storage="s3://bucket/x", runner="local").plan()
    assert on_s3.cost.requests["PUT"] > 0
