"""Progress files, by which a worker's main process distinguishes a slow attempt from one that hangs.

An attempt runs in a child process and keeps a small file, ``alive/<task>.<pid>`` in the scratch folder, with the
monotonic time of its last progress, which is the same clock in all processes of a machine, and the number of records
that it has read. The file is locked while the process lives, and names the process that supervises it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from contextlib import suppress

from mrcelery.schema.task_id import TaskId

HUNG = "MRCELERY_TASK_TIMEOUT"
"""The name, in the reason of an attempt's end, of the limit that it reached."""

_PROGRESS = struct.Struct("dq")
_KEEPER = struct.Struct("q")


def progress_path(scratch: str, task: TaskId, pid: int) -> str:
    """Return the path of the progress file of a process that runs an attempt at a task."""
    return os.path.join(scratch, "alive", f"{task.job}-{task.step}-{task.kind}-{task.task}.{pid}")


class ProgressFile:
    """The progress file of an attempt in this process; ``keeper``: the process that cleans up if this one dies."""

    def __init__(self, path: str, keeper: int = 0) -> None:
        self._path = path
        self._records = 0
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._file = _locked(path)
        with suppress(OSError):
            os.pwrite(self._file, _KEEPER.pack(keeper), _PROGRESS.size)
        self.touch()

    def touch(self, records: int | None = None) -> None:
        """Record that the attempt makes progress, and how many records it has read (None: as many as before)."""
        if records is not None:
            self._records = records
        with suppress(OSError):  # a full disk is not a reason to fail here: the attempt reports it if it matters
            os.pwrite(self._file, _PROGRESS.pack(time.monotonic(), self._records), 0)

    def close(self) -> None:
        """Remove the file: the attempt has ended."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):  # user code may have closed it
            os.close(self._file)


def _locked(path: str) -> int:
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks: then no process takes this file for a dead process's
            fcntl.flock(file, fcntl.LOCK_SH)  # shared: two threads of a pool may run the same task
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # another process has just removed it as a dead process's


def keeper_of_dead(path: str) -> int | None:
    """Return the PID of the supervisor of a dead process; None if that process lives or its progress file is gone."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        data = os.pread(file, _KEEPER.size, _PROGRESS.size)
        return int(_KEEPER.unpack(data)[0]) if len(data) == _KEEPER.size else 0
    except OSError:
        return None
    finally:
        os.close(file)


def last_progress(path: str) -> float:
    """Return the ``time.monotonic()`` at which an attempt last touched its file; 0 if there is no file (yet)."""
    return _read(path)[0]


def records_read(path: str) -> int:
    """Return the records that an attempt had read when it last touched its file; 0 if there is no file (yet)."""
    return _read(path)[1]


def _read(path: str) -> tuple[float, int]:
    try:
        with open(path, "rb") as file:
            when, records = _PROGRESS.unpack(file.read(_PROGRESS.size))
            return float(when), int(records)
    except (OSError, struct.error):
        return 0.0, 0
