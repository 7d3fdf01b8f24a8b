"""What suites of job stores share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from mrcelery.jobstore.base import JobStore

Open = Callable[[], JobStore]

FIELDS = {"name": "word count", "owner": "Zoë", "created": "1000.5", "output": ""}


def race(connect: Open, threads: int, act: Callable[[JobStore, int], Any]) -> list[Any]:
    """What ``act`` gives in many threads that start together, each with a client of its own."""
    start = threading.Barrier(threads)
    given: list[Any] = [None] * threads

    def run(number: int) -> None:
        mine = connect()
        start.wait()
        try:
            given[number] = act(mine, number)
        except BaseException as e:
            given[number] = e

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return given
