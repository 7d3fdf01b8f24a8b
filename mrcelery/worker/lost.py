"""Attempts whose process died: noticed soon, and recorded with the signal that ended it, for the next attempt.

Also attempts that ended through no fault of their own, because their worker was stopped or had lost the broker: these
do not count against ``--max-attempts``.
"""

from __future__ import annotations

import atexit
import glob
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import bootsteps
from celery.exceptions import Reject, WorkerLostError
from celery.worker.request import Request

from mrcelery.attempt.scratch import sweep
from mrcelery.errors import MRCeleryError
from mrcelery.jobstore import journal, stage_marks
from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.connection import store_url
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.task_id import TaskId
from mrcelery.task.bad_records import note_loss, take_marker
from mrcelery.task.memory_limit import EXIT_CODE, HELD_TOO_MUCH
from mrcelery.worker.health import health
from mrcelery.worker.sick import WorkerIsSick
from mrcelery.worker.tasks import open_jobs

SWEEP_SECONDS = 10.0
"""How often a worker removes files that dead workers have left in its scratch folder."""

POOL_SECONDS = 0.25
"""How often the pool checks for processes that have ended. Celery's interval of five seconds would pass twice: until a
death is noticed, and, after ``worker_lost_wait``, until its task is given up.
"""

_ENDED = re.compile(r"signal \d+(?: \(\w+\))?|exitcode -?\d+")


class PoolWatch(bootsteps.StartStopStep):  # type: ignore[misc]
    """Checks the pool of processes more often than Celery does, and sweeps the scratch folder."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._timer: Any = None
        self._stopped = threading.Event()

    def start(self, worker: Any) -> None:
        """Start the thread that sweeps the scratch folder."""
        threading.Thread(target=self._sweep, args=(worker.app,), name="mrcelery-sweep", daemon=True).start()

    def _sweep(self, app: Any) -> None:
        try:
            scratch = open_jobs(app).scratch_path
        except MRCeleryError:
            return  # the first task reports it
        atexit.register(sweep, scratch, own=True)  # the pool's processes are stopped after this step
        sweep(scratch)
        while not self._stopped.wait(SWEEP_SECONDS):
            sweep(scratch)

    def stop(self, worker: Any) -> None:
        """Stop sweeping."""
        self._stopped.set()

    terminate = stop

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Check the pool repeatedly; called at the start, and after each reconnect."""
        maintain: Callable[[], None] | None = getattr(worker.pool, "maintain_pool", None)
        if self._timer is not None:
            self._timer.cancel()
        if maintain is not None:
            self._timer = hub.call_repeatedly(POOL_SECONDS, maintain)


owed: deque[TaskId] = deque(maxlen=10_000)
"""Tasks with an attempt to excuse once the broker answers again; see :func:`excuse`."""


def excuse(store: JobStore) -> None:
    """Excuse all attempts in :data:`owed`."""
    while owed:
        try:
            which = owed.popleft()  # another thread may be doing the same
        except IndexError:
            return
        try:
            store.excuse_attempt(which)
        except MRCeleryError:
            owed.appendleft(which)
            raise


class OurRequest(Request):  # type: ignore[misc]
    """Any of our tasks, in the worker's main process."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Stop consuming if the machine made the task fail, before the task is delivered again."""
        error = _of(exc_info)
        if isinstance(error, WorkerIsSick):
            queue = str((self.delivery_info or {}).get("routing_key") or "")
            health.failed(queue, str(error.reason), certain=error.certain)
        return super().on_failure(exc_info, send_failed_event, return_ok)


class AttemptRequest(OurRequest):
    """A map or reduce task, in the worker's main process."""

    hung = ""
    """Why its process is being killed, if it made no progress."""

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Excuse the attempt: called if the worker is asked to stop, and the task will run elsewhere."""
        if self.time_start:
            self._excuse()
        super().cancel(pool, signal, emit_retry)

    def _excuse(self) -> None:
        owed.append(self._which)
        # Before the task is delivered again, or this process has ended; if that fails, later.
        with suppress(MRCeleryError), closing(RedisJobStore(store_url(self.app))) as store:
            excuse(store)

    @property
    def _which(self) -> TaskId:
        named = self.kwargs
        return TaskId(named["job"], named["step"], self.task.name.rpartition(".")[2], named["task"])

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Record the death of a process, and excuse an attempt that was rejected for a lost broker."""
        error = _of(exc_info)
        if isinstance(error, WorkerLostError) and not self._already_cancelled:
            self._note(str(error))
        elif isinstance(error, Reject) and error.requeue:
            self._excuse()
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _note(self, message: str) -> None:
        pid = self.worker_pid
        # Not the store of the open jobs: it waits for a broker that restarts, and would block this whole worker.
        with suppress(MRCeleryError, KeyError), closing(RedisJobStore(store_url(self.app))) as store:
            in_hand = None if pid is None else left_by(open_jobs(self.app).scratch_path, pid)
            reason = self.hung or cause_of_death(message)
            note_loss(store, self._which, reason, in_hand, open_jobs(self.app).seal(self._which.job))
            if pid is not None:
                where = journal.of_process(str(self.hostname), pid)
                stage_marks.drop_dead(store, self._which, where)
                journal.killed(store, self._which, where, reason)


def _of(exc_info: Any) -> Any:
    error = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def left_by(scratch: str, pid: int) -> tuple[int, int] | None:
    """Remove a dead process's scratch files, and return the records that it was working on."""
    for folder in glob.glob(os.path.join(glob.escape(scratch), "tasks", f"*.{pid}")):
        shutil.rmtree(folder, ignore_errors=True)
    for mark in glob.glob(os.path.join(glob.escape(scratch), "alive", f"*.{pid}")):
        with suppress(OSError):
            os.unlink(mark)
    return take_marker(scratch, pid)


def cause_of_death(message: str) -> str:
    """Describe how a process ended, from Celery's message."""
    found = _ENDED.search(message)
    if found is None:
        return "its process ended"
    if found[0] == f"exitcode {EXIT_CODE}":
        return HELD_TOO_MUCH
    ended = found[0].replace("exitcode", "exit status")
    return (
        f"its process ended by {ended}: out of memory?"
        if "SIGKILL" in ended
        else (f"its process ended {'by' if ended.startswith('signal') else 'with'} {ended}")
    )
