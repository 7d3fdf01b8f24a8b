"""What storage knows of a job's generations."""

from __future__ import annotations

from pathlib import Path

from mrcelery.attempt.decision import Latest, decide, latest, retried
from mrcelery.storage import open_storage


def test_the_latest_generation(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    assert latest(storage, "j", 0) == Latest(0, None)
    assert latest(storage, "j", 3) == Latest(3, None), "which the job store knows"
    first = decide(storage, "j", 0, "failed", "{}")
    assert latest(storage, "j", 0) == Latest(0, first)
    retried(storage, "j", 1)
    retried(storage, "j", 1)  # as where two clients do, or one does again
    assert latest(storage, "j", 0) == Latest(1, None)
    retried(storage, "j", 2)  # the end of 1 could not be recorded
    third = decide(storage, "j", 3, "succeeded")  # nor could the retry
    assert latest(storage, "j", 0) == Latest(3, third)
    assert decide(storage, "j", 3, "cancelled") == third
