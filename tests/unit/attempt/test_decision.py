"""What storage knows of a job's generations."""

from __future__ import annotations

from pathlib import Path

from mrcelery.attempt.decision import Latest, decide, latest, retried
from mrcelery.schema.signing import JobSeal
from mrcelery.storage import open_storage


def test_the_latest_generation(tmp_path: Path) -> None:
    storage, seal = open_storage(str(tmp_path)), JobSeal("j")
    assert latest(storage, seal, 0) == Latest(0, None)
    assert latest(storage, seal, 3) == Latest(3, None), "which the job store knows"
    first = decide(storage, seal, 0, "failed", "{}")
    assert latest(storage, seal, 0) == Latest(0, first)
    retried(storage, seal, 1)
    retried(storage, seal, 1)  # as where two clients do, or one does again
    assert latest(storage, seal, 0) == Latest(1, None)
    retried(storage, seal, 2)  # the end of 1 could not be recorded
    third = decide(storage, seal, 3, "succeeded")  # nor could the retry
    assert latest(storage, seal, 0) == Latest(3, third)
    assert decide(storage, seal, 3, "cancelled") == third
