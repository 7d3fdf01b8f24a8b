"""Ways to end all processes started by a process, and to end with it; on Linux, used by and for job processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@cache
def supported() -> bool:
    """Check whether this system supports job processes: Linux 5.3 or later, with /proc."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.listdir("/proc/self/task")
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    _libc().prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def when_parent_ends(number: int, parent: int) -> None:
    """Have the kernel send this process a signal when ``parent`` ends; exit if it has."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


def children() -> set[int]:
    """List this process's children, including adopted ones."""
    found: set[int] = set()
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            with suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    return found


def end_children(spared: Collection[int] = ()) -> None:
    """Kill this process's children, except those spared, and descendants as they are adopted; wait for their end."""
    while others := children().difference(spared):
        for pid in others:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in others:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def end_as(status: int) -> NoReturn:
    """End this process the way another one has ended, so that its parent sees the same status."""
    if os.WIFSIGNALED(status):
        import resource  # noqa: PLC0415 - not on Windows

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump of this process would show nothing
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
