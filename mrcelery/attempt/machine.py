"""Deciding whether the machine or the job is at fault for a failure.

A disk that is full or read-only, or a shortage of inodes, files or processes: a sick machine fails every task it is
given, as fast as it can take them. So the machine itself is tested: after the attempt has removed its own files, the
machine has to do what every attempt does. If it cannot, the job was not at fault.
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
"""Bytes that a probe writes: with less space than that, no attempt can finish."""

PROBE_FILES = 16
"""Files that a probe keeps open at once."""

FEW_FILES = 256
"""If a process reaches a limit of open files below this, the machine is at fault; otherwise the job leaks files."""

MANY_THREADS = 64
"""From this many threads in one process on, the job is at fault."""

FOLDERS = ("alive", "tasks", "code", "marks")
"""Folders that attempts create in the scratch folder."""

BROKEN = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EUCLEAN, errno.ENOTCONN)
"""Disk errors that no job can cause, although the next write may succeed."""

_NO_PROCESS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_FOR_THREADS = (errno.EAGAIN, errno.ENOMEM)
"""Errors of the system if a process has too many threads."""
_NO_THREAD = "can't start new thread"


def ailment(jobs: OpenJobs) -> str:
    """Test what every attempt needs of this machine; return the problem and its remedy, "" if the machine is well."""
    try:
        jobs.make_scratch()
        _try_files(jobs.scratch_path)
        _try_process()
    except SickMachineError as e:
        return str(e)
    except OSError as e:
        return "" if _is_hoarding(e) else refused(e, jobs.scratch_path)
    except RuntimeError as e:  # Python raises this if the system refuses a thread
        return "" if _is_hoarding(e) else f"{e}: raise the limit of processes on the worker"
    return ""


def _is_hoarding(e: BaseException) -> bool:
    """Check whether this process itself, and so its job, has used up the resource."""
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
        os.fsync(opened[-1])  # some file systems report the error only then
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
        error = CorruptDataError(f"{e.filename} is gone, and the job still needs it: submit the job again")
    elif isinstance(e, (ConnectionError, TimeoutError)):
        error = TaskError(f"{e}: see that the worker reaches what the job reads and writes")
        error.retryable = True
    elif (ours and e.errno in BROKEN) or ailment(jobs):
        error = SickMachineError(refused(e, jobs.scratch_path))
    else:
        # The job itself may have filled the disk: then there is space again now.
        error = TaskError(refused(e, jobs.scratch_path))
        error.retryable = error.elsewhere = True  # on a worker that has space
    error.attempt = attempt
    return error


def _is_ours(path: str, scratch: str) -> bool:
    """Check whether a file on this machine is the engine's: in its scratch folder, or provided by the kernel."""
    return path.startswith(("/proc/", "/sys/", "/dev/")) or os.path.abspath(path).startswith(
        os.path.abspath(scratch) + os.sep
    )


def sickness(error: BaseException, jobs: OpenJobs) -> SickMachineError | None:
    """Return the error to raise in place of an error from user code or the coordinator; None if that error is theirs.

    Only for what a machine can do to a program: an error of the system, or a refused thread.
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
    """Yield an error and its causes, each once."""
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
    """Check whether user code failed because of a module that is missing or damaged here, but may be fine elsewhere.

    False if a line of the job itself raised the error, or if the file is one of the job's.
    """
    cause = error.__cause__
    if not isinstance(error, UserCodeError):
        return False
    if error.lacks_module or cause is None:  # an error sent by the job process has lost its cause
        return error.lacks_module
    if isinstance(cause, ImportError) and cause.name:
        return not is_shipped(cause.path or "")
    if raised_by_user(cause) or not str(error).startswith(NO_IMPORT):
        return False
    # A package's truncated file raises these.
    return isinstance(cause, (ImportError, EOFError, ValueError, SyntaxError)) and not is_shipped(
        getattr(cause, "filename", None) or ""
    )
