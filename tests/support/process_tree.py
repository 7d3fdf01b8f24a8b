"""Processes as /proc shows them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def stat(pid: int) -> list[str]:
    """Read what follows a process's name in its ``stat``: its state, parent, group, ...; empty where it is gone."""
    with suppress(OSError):
        # The name, in parentheses, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has asked for its status."""
    return stat(pid)[:1] == ["Z"]


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    return stat(pid)[:1] not in ([], ["Z"])


def parent(pid: int) -> int:
    """Return the process that a running one is a child of."""
    return int(stat(pid)[1])


def below(pid: int) -> list[int]:
    """List the processes below one."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
    return found[1:]


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 where it is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
