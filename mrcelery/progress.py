"""Progress marks: by these a worker's main process tells a slow attempt from one that hangs.

An attempt runs in a child process and keeps a small file, ``alive/<task>.<pid>`` in the scratch folder,
with the monotonic time of its last progress, which is the same clock in all processes of a machine.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress

HUNG = "MRCELERY_TASK_TIMEOUT"
"""Names, in the reason of an attempt's end, the limit that it ran into."""

_TIME = struct.Struct("d")


def mark_path(scratch: str, job: str, step: int, kind: str, task: int, pid: int) -> str:
    """Where the attempt at a task that a process runs keeps its mark."""
    return os.path.join(scratch, "alive", f"{job}-{step}-{kind}-{task}.{pid}")


class Mark:
    """The mark of an attempt that runs in this process."""

    def __init__(self, path: str) -> None:
        self._path = path
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self.touch()

    def touch(self) -> None:
        """Tell that the attempt goes on."""
        with suppress(OSError):  # a full disk is no reason to fail: the attempt says so itself if it minds
            os.pwrite(self._file, _TIME.pack(time.monotonic()), 0)

    def close(self) -> None:
        """Remove the mark: the attempt has ended."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):  # user code may have closed it
            os.close(self._file)


def last_progress(path: str) -> float:
    """When an attempt last touched its mark, as ``time.monotonic()`` tells it; 0 where there is none (yet)."""
    try:
        with open(path, "rb") as file:
            return float(_TIME.unpack(file.read(_TIME.size))[0])
    except (OSError, struct.error):
        return 0.0
