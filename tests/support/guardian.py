"""Processes that tests start, and that do not outlive them: not even tests that are killed.

A process of our own keeps a list of them, and ends what is still on it when the tests' end of its pipe is closed.
(The kernel's ``PR_SET_PDEATHSIG`` would end them with the *thread* that started them, and is Linux's alone.)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

GUARDIAN = """
import os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


@cache
def _guardian() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-S", "-c", GUARDIAN]
    # Unbuffered: a line is one write, also where threads start processes at the same time.
    guardian = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0, start_new_session=True
    )
    atexit.register(guardian.communicate)
    return guardian


def _tell(sign: str, process: subprocess.Popen[Any]) -> None:
    told = _guardian().stdin
    assert told is not None
    told.write(f"{sign}{process.pid}\n".encode())


def start(command: Sequence[str | os.PathLike[str]], **more: Any) -> subprocess.Popen[Any]:
    """``Popen`` for the head of a new process group, which is ended with this process; see :func:`stop`."""
    _guardian()  # before there is anything to guard
    process: subprocess.Popen[Any] = subprocess.Popen(command, start_new_session=True, **more)
    _tell("+", process)
    return process


def stop(process: subprocess.Popen[Any]) -> None:
    """Kill what :func:`start` started, with its children, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _tell("-", process)
