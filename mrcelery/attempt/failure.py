"""Why an attempt or a job failed: errors from around user code, and the record of an error in a job."""

from __future__ import annotations

import errno
import time

from mrcelery.attempt.decision import decide, settle
from mrcelery.attempt.progress_file import HUNG
from mrcelery.config import show_size
from mrcelery.errors import AttemptsLostError, MRCeleryError, TaskError, UnreachableError, mask, writable
from mrcelery.jobstore.base import JobStore, generation_of
from mrcelery.jobstore.requests import storage_of
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Failure, Losses
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk without space or without inodes."""


def failure(error: MRCeleryError, *, job: str, step: int = -1, kind: str = "", task: int = -1) -> Failure:
    """Describe an error as the job's record and its report show it."""
    return Failure(
        error=type(error).__name__,
        message=writable(str(error)),
        exit_code=error.exit_code,
        traceback=mask(writable(getattr(error, "traceback", ""))),
        job=job,
        step=step,
        kind=kind,
        task=task,
        attempt=error.attempt,
        file=mask(writable(getattr(error, "file", ""))),
        offset=-1 if (offset := getattr(error, "offset", None)) is None else offset,
        record=mask(getattr(error, "record", "")),
    )


def fail_job(store: JobStore, failed: Failure, generation: int, secret: str | bytes | None) -> bool:
    """End a generation of a job as failed; False if it has ended already: the first failure stays.

    If a request or an end is damaged, or not signed with the ``secret``, that is recorded as the failure instead.
    """
    fields, text = store.fields(failed.job), encode(failed).decode()
    if generation_of(fields) != generation:
        return False
    if fields.get("started") and "removed" not in fields:  # else it has nothing in storage
        try:
            if root := storage_of(store, failed.job, fields, secret):
                end = decide(open_storage(root), JobSeal(failed.job, secret), generation, "failed", text)
                return settle(store, end) and end.failure == text
        except UnreachableError:
            pass  # the storage may have failed
        except TaskError as e:
            text = encode(failure(e, job=failed.job, step=failed.step, kind=failed.kind, task=failed.task)).decode()
    # The job may have been retried while the storage kept this process waiting.
    return store.move(failed.job, "failed", {"failure": text, "finished": repr(time.time())}, generation=generation)


def never_ended(task: TaskId, most: int, lost: Losses) -> AttemptsLostError:
    """Make the error for a task that was started ``most`` times and never ended."""
    reason = lost.reason or "its process died or was killed each time, because its code crashed or memory ran out"
    remedy = "correct what crashes in the job's code, or raise --memory"
    if HUNG in reason:
        remedy = f"report progress from long-running code (set_status), or raise {HUNG} on the workers"
    times = f"{most} time{'s' if most > 1 else ''}"
    return AttemptsLostError(
        f"{task.kind} task {task.task} was started {times} and never ended: {reason}; {remedy}; "
        "`mrcelery logs` and the workers' logs may have more"
    )


def too_little_memory(e: MemoryError | None, memory: int, attempt: str) -> TaskError:
    """Make the error for an attempt that reached its ceiling of ``memory`` bytes outside user code.

    ``e`` is None if its process had to be killed, in a long call into C.
    """
    error = TaskError(
        f"{type(e or MemoryError()).__name__}: the task needs more memory than its ceiling allows: raise --memory from "
        f"{show_size(memory)}"
    )
    error.attempt = attempt
    return error


def refused(e: OSError, scratch: str) -> str:
    """Describe what the system refused on this machine, and what to do about it."""
    return f"{writable(str(e.filename or scratch))}: {e.strerror or e}: {_remedy(e)}"


def _remedy(e: OSError) -> str:
    if isinstance(e, FileNotFoundError):
        return "keep other programs from removing files there, or set MRCELERY_SCRATCH to another folder"
    if e.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files on the worker (ulimit -n)"
    if e.errno in (errno.EAGAIN, errno.ENOMEM):
        return "raise the limit of processes on the worker, or give it more memory"
    if e.errno in DISK_FULL:
        return "make room on the worker, or set MRCELERY_SCRATCH to a folder that has it"
    return "make it writable for the worker, or set MRCELERY_SCRATCH to a folder that is"
