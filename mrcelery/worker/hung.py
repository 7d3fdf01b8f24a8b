"""Ending attempts that do not end themselves: their job has ended, or they make no progress.

An attempt polls its job at least every quarter of a second, between two records. User code that stays in one call for
longer cannot be interrupted there: its process is killed. That counts as a failed attempt if the job is still running.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from mrcelery.attempt.progress_file import HUNG, last_progress, progress_path
from mrcelery.jobstore.base import JobStore
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import Kind
from mrcelery.schema.task_id import TaskId
from mrcelery.worker.tasks import open_jobs

log = logging.getLogger(__name__)

GRACE_SECONDS = 1.0
"""How long an attempt may keep running after its job has ended: it polls four times in that time."""

KINDS: dict[str, Kind] = {"mrcelery.map": "map", "mrcelery.reduce": "reduce"}


class AttemptSupervisor:
    """Supervises the attempts of one worker. ``timeout``: seconds without progress; 0 for no limit."""

    def __init__(self, app: Any, store: JobStore, timeout: float) -> None:
        self._app = app
        self._store = store
        self._timeout = timeout
        self._first_seen: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._ended_since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._killed: WeakSet[Any] = WeakSet()
        self._supervised = 0.0

    @cached_property
    def _scratch(self) -> str:
        return open_jobs(self._app).scratch_path

    def supervise(self, requests: Iterable[Any]) -> set[Any]:
        """Kill attempts that should have ended; return the requests that hang, whose leases must lapse."""
        now = time.monotonic()
        if now - self._supervised > 10 * GRACE_SECONDS:
            self._first_seen.clear()  # first pass, or this machine was suspended: no attempt had time to make progress
        self._supervised = now
        attempts = [r for r in requests if r.name in KINDS and r.time_start]
        ended = {job for job in {r.kwargs["job"] for r in attempts} if self._store.state(job) in FINAL}
        hung = set()
        for request in attempts:
            since = self._first_seen.setdefault(request, now)
            if request.kwargs["job"] in ended:
                self._ended_since.setdefault(request, now)
            silent = now - max(since, last_progress(progress_path_of(self._scratch, request)))
            if now - self._ended_since.get(request, now) >= GRACE_SECONDS:
                self._kill(request, "its job has ended")
            elif self._timeout and silent > self._timeout:
                hung.add(request)
                why = f"it made no progress for {silent:.0f} s ({HUNG})"
                # Set before the kill, because the death may be noticed at once.
                request.hung = f"{why} and was killed"
                self._kill(request, why)
        return hung

    def _kill(self, request: Any, why: str) -> None:
        pid = request.worker_pid
        if request in self._killed or pid == os.getpid():  # a thread cannot be killed
            return
        self._killed.add(request)
        log.warning("killing process %d of %s: %s", pid, request.id, why)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(OSError):
            os.unlink(progress_path_of(self._scratch, request))


def progress_path_of(scratch: str, request: Any) -> str:
    """Return the path of the progress file of the attempt that a request runs."""
    named = request.kwargs
    task = TaskId(named["job"], named["step"], KINDS[request.name], named["task"])
    return progress_path(scratch, task, request.worker_pid)
