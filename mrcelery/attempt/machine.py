"""Whose fault a failure is: the machine's, or the job's.

A full disk and a read-only one, inodes, files and processes that ran out: a sick machine fails whatever it is given,
as fast as it can take it. So the judge of an error is the machine itself: it is asked, after the attempt has removed
what was its own, to do what every attempt does. If it cannot, that was no fault of the job's.
"""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress

from mrcelery.attempt.failure import refused
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.errors import (
    CorruptDataError,
    MRCeleryError,
    SickMachineError,
    StorageUnreachableError,
    TaskError,
    UserCodeError,
)
from mrcelery.job.tracebacks import is_shipped, raised_by_user
from mrcelery.shipping.workspace import NO_IMPORT

PROBE_BYTES = 1 << 20
"""Bytes that a probe writes: with less room than that no attempt comes to its end."""

PROBE_FILES = 16
"""Files that a probe has open at once."""

FEW_FILES = 256
"""A limit of open files below which it is the machine's fault that a process reaches it; else the job leaks them."""

MANY_THREADS = 64
"""Threads of one process that are the job's own fault."""

FOLDERS = ("alive", "tasks", "code", "marks")
"""What attempts make in the scratch folder."""

BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.ENOTCONN)
"""Errors of a disk that no job can cause, although the next write may succeed."""

_NO_PROCESS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_FOR_THREADS = (errno.EAGAIN, errno.ENOMEM)
"""Errors of a system in which a process has too many threads."""
_NO_THREAD = "can't start new thread"


def ailment(jobs: OpenJobs) -> str:
    """Try what every attempt needs of this machine; return what is wrong with it and what to do, "" if it is well."""
    try:
        jobs.make_scratch()
        _try_files(jobs.scratch_path)
        _try_process()
    except SickMachineError as e:
        return str(e)
    except OSError as e:
        return "" if _is_hoarding(e) else refused(e, jobs.scratch_path)
    except RuntimeError as e:  # Python's for a thread that the system refuses
        return "" if _is_hoarding(e) else f"{e}: raise the limit of processes on the worker"
    return ""


def _is_hoarding(e: BaseException) -> bool:
    """Whether this process itself, so its job, holds what there is no more of."""
    if isinstance(e, OSError) and e.errno == errno.EMFILE:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= FEW_FILES
    if isinstance(e, OSError) and e.errno not in _FOR_THREADS:
        return False
    return threading.active_count() >= MANY_THREADS


def _try_files(scratch: str) -> None:
    opened: list[int] = []
    paths: list[str] = []
    try:
        for folder in FOLDERS:
            folder = os.path.join(scratch, folder)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            path = os.path.join(folder, f"probe.{os.getpid()}.{threading.get_ident()}")
            opened.append(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            paths.append(path)
        left = memoryview(bytes(PROBE_BYTES))
        while left:
            left = left[os.write(opened[-1], left) :]
        os.fsync(opened[-1])  # some file systems find out only then
        opened += [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(PROBE_FILES)]
    finally:
        for file in opened:
            os.close(file)
        for path in paths:
            with suppress(OSError):
                os.unlink(path)


def _try_process() -> None:
    thread = threading.Thread(target=int, daemon=True)
    thread.start()
    thread.join()
    try:
        subprocess.run(["true"], check=False, stdin=subprocess.DEVNULL)
    except OSError as e:
        if e.errno in _NO_PROCESS:  # else the image has no such command
            raise


def of_the_machine(e: OSError, attempt: str, jobs: OpenJobs) -> TaskError:
    """Make the error for what the system refused an attempt of ours; user code's errors are wrapped already."""
    error: TaskError
    ours = not e.filename or _is_ours(os.fsdecode(e.filename), jobs.scratch_path)
    if isinstance(e, FileNotFoundError) and not ours:
        error = CorruptDataError(f"{e.filename} is gone, which the job still needs: submit it again")
    elif isinstance(e, (ConnectionError, TimeoutError)):
        error = TaskError(f"{e}: see that the worker reaches what the job reads and writes")
        error.retryable = True
    elif (ours and e.errno in BROKEN) or ailment(jobs):
        error = SickMachineError(refused(e, jobs.scratch_path))
    else:
        # What fills a disk may be the job itself: then there is room again now.
        error = TaskError(refused(e, jobs.scratch_path))
        error.retryable = error.elsewhere = True  # by a worker that has room
    error.attempt = attempt
    return error


def _is_ours(path: str, scratch: str) -> bool:
    """Whether a file is of the engine's own on this machine: in its scratch folder, or what the kernel reports."""
    return path.startswith(("/proc/", "/sys/", "/dev/")) or os.path.abspath(path).startswith(
        os.path.abspath(scratch) + os.sep
    )


def sickness(error: BaseException, jobs: OpenJobs) -> SickMachineError | None:
    """Return the error to raise in place of one that user code or the coordinator met; None if it is theirs.

    Only of what a machine can do to a program: an error of the system's, or a thread that it refused.
    """
    if isinstance(error, SickMachineError):
        return error
    judged = not isinstance(error, MRCeleryError) or isinstance(error, (UserCodeError, StorageUnreachableError))
    if not judged or not any(_is_of_the_system(one) for one in _chain(error)):
        return None
    wrong = ailment(jobs)
    if not wrong:
        return None
    sick = SickMachineError(wrong, traceback=getattr(error, "traceback", ""))
    sick.attempt = getattr(error, "attempt", "")
    return sick


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]


def _is_of_the_system(error: BaseException) -> bool:
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error.args))


def cannot_import(error: BaseException) -> bool:
    """Whether user code failed for a module that is absent or damaged here, and that other machines may have.

    Not for a line of the job's own that raised, nor for a file of the job's.
    """
    cause = error.__cause__
    if not isinstance(error, UserCodeError):
        return False
    if error.lacks_module or cause is None:  # one that came from the job's process has no cause any more
        return error.lacks_module
    if isinstance(cause, ImportError) and cause.name:
        return not is_shipped(cause.path or "")
    if raised_by_user(cause) or not str(error).startswith(NO_IMPORT):
        return False
    # A truncated file of a package gives these.
    return isinstance(cause, (ImportError, EOFError, ValueError, SyntaxError)) and not is_shipped(
        getattr(cause, "filename", None) or ""
    )
