"""One attempt at a task, from its first mark in the job store to its commit."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Protocol

from mrcelery import layout
from mrcelery.commit import commit, committed
from mrcelery.errors import JobStoppedError, MRCeleryError, TaskError
from mrcelery.job import hooks
from mrcelery.jobstore.base import FINAL
from mrcelery.mapper import run_map
from mrcelery.protocols import pickle_allowed
from mrcelery.records import Commit, Failure, Kind, ShuffleInput, decode, encode
from mrcelery.reducer import run_reduce
from mrcelery.runtime import ActiveJob, Runtime
from mrcelery.task import Task

POLL_SECONDS = 0.25
"""How often a running task looks whether its job has ended."""

LOG_LIMIT = 1 << 20
"""Characters kept of what an attempt prints and logs: the first half and the last."""


def run_attempt(runtime: Runtime, job: str, step: int, kind: Kind, number: int, *, capture: bool = True) -> Commit:
    """Run a task and return the commit that counts, this attempt's or an earlier one's.

    ``capture``: keep what user code prints and logs in storage instead of letting it through.
    Raises :class:`JobStoppedError` where the job has ended, and any other
    :class:`mrcelery.errors.MRCeleryError` for what made the attempt fail.
    """
    store = runtime.store
    if store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    active = runtime.job(job)
    count = store.next_attempt(job, step, kind, number)
    if count > 1:
        earlier = committed(active.storage, job, step, kind, number)
        if earlier is not None:
            store.add_commit(job, step, kind, number, encode(earlier))
            return earlier
        most = active.spec.request.options.max_attempts
        if count > most:
            raise TaskError(
                f"{kind} task {number} was started {most} times and never came to an end: its process died or was "
                "killed each time, by a crash in its code or for want of memory; the workers' logs have the signal"
            )
    attempt = f"{count}-{secrets.token_hex(3)}"
    try:
        with _collector_off():
            mine = _run(runtime, active, step, kind, number, attempt, capture)
    except MRCeleryError as e:
        e.attempt = attempt
        raise
    winner = commit(active.storage, mine)
    store.add_commit(job, step, kind, number, encode(winner))
    return winner


def _run(
    runtime: Runtime, active: ActiveJob, step: int, kind: Kind, number: int, attempt: str, capture: bool
) -> Commit:
    request, storage = active.spec.request, active.storage
    scratch = os.path.join(runtime.scratch, "tasks", f"{active.id}-{step}-{kind}-{number}-{attempt}")
    began = time.monotonic()
    allowed = pickle_allowed.set(request.options.allow_pickle)
    code = runtime.code(active)
    try:
        with _captured(active, step, kind, number, attempt, capture), code.activate():
            job = code.job(list(request.args))
            job.status_hook = lambda text: runtime.store.update(active.id, {"status": text})
            task = Task(
                job_id=active.id,
                step=step,
                kind=kind,
                number=number,
                attempt=attempt,
                options=request.options,
                reducers=active.spec.steps[step].reducers,
                last_step=step == len(active.spec.steps) - 1,
                storage=storage,
                job=job,
                hooks=hooks(job, step),
                scratch=scratch,
                poll=_poller(runtime, active.id),
            )
            if kind == "map":
                parts = run_map(task, runtime.split(active, step, number))
            else:
                key = layout.shuffle_input(active.id, step, number)
                parts = run_reduce(task, decode(storage.read(key), ShuffleInput, key))
            # Only plain data may go on: a counter name could be any object of the user's.
            counters = {
                str(group): {str(name): int(amount) for name, amount in names.items()}
                for group, names in job.counters.items()
            }
    finally:
        pickle_allowed.reset(allowed)
        shutil.rmtree(scratch, ignore_errors=True)
    return Commit(
        job=active.id,
        step=step,
        kind=kind,
        task=number,
        attempt=attempt,
        parts=parts,
        counters=counters,
        records_in=task.records_in,
        records_out=task.records_out,
        bytes_in=task.bytes_in,
        bytes_out=sum(part.bytes for part in parts),
        seconds=round(time.monotonic() - began, 6),
        host=socket.gethostname(),
    )


@contextmanager
def _collector_off() -> Iterator[None]:
    """Do without the cyclic collector in an attempt; the poller collects what is young instead.

    Blocks of fresh tuples make it scan millions of live objects for nothing: a merge is eight times
    slower with it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
            gc.collect(1)  # the attempt's objects are free by now, and its job's parser is full of cycles


class _Poller(Protocol):
    def __call__(self) -> None: ...


def _poller(runtime: Runtime, job: str) -> _Poller:
    """A check that asks the job store now and then whether the job has ended.

    It also collects what is young: cycles that user code leaves behind must not wait for the end of a
    long attempt, whose collector is off.
    """
    due = time.monotonic() + POLL_SECONDS

    def poll() -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due:
            due = now + POLL_SECONDS
            if not gc.isenabled():
                gc.collect(0)
            if runtime.store.state(job) in FINAL:
                raise JobStoppedError(f"job {job} has ended")

    return poll


class _Log(StringIO):
    """Keeps the first and the last of what is written, within a limit."""

    def __init__(self) -> None:
        super().__init__()
        self._head = ""

    def write(self, text: str, /) -> int:
        written = super().write(text)
        if self.tell() > LOG_LIMIT:
            kept = self.getvalue()
            if not self._head:
                self._head = kept[: LOG_LIMIT // 2] + "\n[...]\n"
                kept = kept[LOG_LIMIT // 2 :]
            self.seek(0)
            self.truncate()
            super().write(kept[-LOG_LIMIT // 2 :])
        return written

    def text(self) -> str:
        return self._head + self.getvalue()


@contextmanager
def _captured(
    active: ActiveJob, step: int, kind: str, number: int, attempt: str, capture: bool
) -> Iterator[None]:
    """Keep what user code prints and logs meanwhile as the attempt's log in storage."""
    if not capture:
        yield
        return
    log = _Log()
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: not record.name.startswith(_OURS))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        root.removeHandler(handler)
        if text := log.text():
            key = layout.log(active.id, step, kind, number, attempt)
            active.storage.write(key, text.encode("utf-8", "backslashreplace"))


_OURS = ("mrcelery", "celery", "kombu", "amqp", "redis", "boto", "urllib3", "s3transfer")


def failure(error: MRCeleryError, *, job: str, step: int = -1, kind: str = "", task: int = -1) -> Failure:
    """What the job's record says of an error."""
    return Failure(
        error=type(error).__name__,
        message=str(error),
        exit_code=error.exit_code,
        traceback=getattr(error, "traceback", ""),
        job=job,
        step=step,
        kind=kind,
        task=task,
        attempt=error.attempt,
        file=getattr(error, "file", ""),
        offset=-1 if (offset := getattr(error, "offset", None)) is None else offset,
        record=getattr(error, "record", ""),
    )


def fail_job(runtime: Runtime, failed: Failure) -> bool:
    """End a job as failed; the first failure stays."""
    return runtime.store.move(
        failed.job, "failed", {"failure": encode(failed).decode(), "finished": repr(time.time())}
    )
