"""What is said of a process that died."""

from __future__ import annotations

import pytest

from mrcelery.task.memory_limit import EXIT_CODE, HELD_TOO_MUCH
from mrcelery.worker.lost import cause_of_death


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        ("signal 9 (SIGKILL)", "its process ended by signal 9 (SIGKILL): out of memory?"),
        ("signal 11 (SIGSEGV)", "its process ended by signal 11 (SIGSEGV)"),
        ("exitcode 3", "its process ended with exit status 3"),
        (f"exitcode {EXIT_CODE}", HELD_TOO_MUCH),
        ("", "its process ended"),
    ],
)
def test_how_a_process_ended_is_told(ended: str, reason: str) -> None:
    assert cause_of_death(f"Worker exited prematurely: {ended} Job: 3.") == reason
