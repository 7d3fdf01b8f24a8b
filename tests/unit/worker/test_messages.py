"""What a message may say: it names a job and its parts, which become names of files and objects."""

from __future__ import annotations

from typing import Any

import pytest
from celery.exceptions import Ignore

from mrcelery.worker.tasks import _check_message

GOOD: dict[str, Any] = {"job": "wc-20261128-201123-e165d5", "step": 0, "task": 3, "attempt": 0}


def test_what_ours_say_is_taken() -> None:
    _check_message(GOOD)
    _check_message({"job": "job"})
    _check_message({**GOOD, "generation": 1, "avoid": "worker@host", "passes": 3, "awaited": 1.5, "outages": 1})


@pytest.mark.parametrize(
    "more",
    [
        {"job": "../../etc"}, {"job": ".."}, {"job": "."}, {"job": ""}, {"job": "a/b"}, {"job": None}, {"job": 7},
        {"step": "0/../../../x"}, {"step": -1}, {"step": None}, {"step": True}, {"step": 0.0},
        {"task": "1"}, {"task": -1}, {"task": [1]}, {"generation": "0"}, {"attempt": "../x"}, {"passes": "many"},
    ],
    ids=repr,
)  # fmt: skip
def test_what_names_no_task_is_ignored(more: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Ignore):
        _check_message({**GOOD, **more})
    assert "ignoring a message" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
