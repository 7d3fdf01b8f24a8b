"""The heartbeat of a running attempt: it polls whether its job has ended, and reports its progress."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mrcelery.attempt.progress_file import ProgressFile
from mrcelery.errors import BrokerUnreachableError, JobStoppedError, SupersededError
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.base import JobStore
from mrcelery.schema.states import FINAL
from mrcelery.schema.task_id import TaskId

POLL_SECONDS = 0.25
"""How often a running attempt polls whether its job has ended."""

REPORT_SECONDS = 1.0
"""How often a running attempt reports its progress; a shorter one never does."""


def poller(
    store: JobStore,
    task: TaskId,
    *,
    attempt: str,
    worker: str,
    progress: ProgressFile,
    records: Callable[[], int],
    share: Callable[[], None] | None = None,
) -> Callable[[], None]:
    """Make the function by which an attempt polls whether its job has ended or another attempt was quicker.

    It touches the attempt's progress file and, once a second, reports to the job store how many records were read, as
    returned by ``records``. ``share`` is called while someone follows the job's output. It also collects garbage,
    mostly the young: cycles that user code leaves behind must not wait for the end of a long attempt, whose collector
    is off (:func:`collector_off`). It raises :class:`JobStoppedError` or :class:`SupersededError`; before its commit an
    attempt does not need the job store, so one that is away costs it at most half its time.
    """
    began = time.time()
    due = time.monotonic() + POLL_SECONDS
    report_due = time.monotonic() + REPORT_SECONDS
    polls = 0

    def poll() -> None:
        nonlocal due, polls, report_due
        now = time.monotonic()
        if now < due:
            return
        due = now + POLL_SECONDS
        polls += 1
        progress.touch(records())
        if not gc.isenabled():
            # Each collection skips the objects that survived an earlier one of its generation.
            gc.collect(2 if polls % 64 == 0 else 1 if polls % 8 == 0 else 0)
        try:
            state, done, followed = store.poll(task)
        except BrokerUnreachableError:
            due = time.monotonic() + max(POLL_SECONDS, time.monotonic() - now)
            return
        if state in FINAL:
            raise JobStoppedError(f"job {task.job} has ended")
        if done:
            raise SupersededError(f"{task.kind} task {task.task} of job {task.job} was committed by another attempt")
        if followed and share is not None:
            share()
        if now >= report_due:
            report_due = now + REPORT_SECONDS
            stage_marks.report_running(store, task, attempt, began=began, records=records(), worker=worker)

    return poll


@contextmanager
def collector_off() -> Iterator[None]:
    """Turn the cyclic collector off during an attempt; its poller collects young objects instead.

    Blocks of fresh tuples make the collector scan millions of live objects in vain: a merge is eight times slower with
    it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
            gc.collect(1)  # the attempt's objects are free by now, and its job's parser is full of cycles
