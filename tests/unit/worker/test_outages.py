"""When a task that a storage outage ended runs again."""

from __future__ import annotations

from typing import Any

import pytest

from mrcelery.errors import StorageOutageError
from mrcelery.worker.outages import again, counted


def test_a_task_waits_for_so_long_in_all_and_not_longer() -> None:
    kwargs: dict[str, Any] = {"job": "j", "task": 3}
    waited, tries = 0.0, 0
    with pytest.raises(StorageOutageError, match=r"did not recover within 60 s \(--storage-patience\).*: no answer"):
        while True:
            then = again(kwargs, StorageOutageError("no answer", seconds=2.0), 60.0)
            kwargs, tries = then.kwargs, tries + 1
            waited += 2.0 + then.countdown
            assert 0 <= then.countdown <= 30.0
            assert kwargs["awaited"] == pytest.approx(waited, abs=0.01)
            assert counted(kwargs, tries + 1) == 1, "one retry was for something else"
            assert waited <= 60.0 + 2.0
    assert waited >= 58.0
    assert (kwargs["job"], kwargs["task"]) == ("j", 3)


def test_a_stranger_is_not_awaited_for_long() -> None:
    """An address at which nothing has ever answered is probably wrong; once a job has started, it is not."""
    unknown = StorageOutageError("no answer", seconds=25.0, met=False)
    with pytest.raises(StorageOutageError, match="within 20 s"):
        again({}, unknown, 600.0, stranger=True)
    assert again({}, unknown, 600.0).kwargs["outages"] == 1
    assert again({}, StorageOutageError("503", seconds=25.0), 600.0, stranger=True).kwargs["outages"] == 1
