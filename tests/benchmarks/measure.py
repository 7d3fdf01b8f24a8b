"""Seconds, CPU seconds, and peak memory of a command with all processes below it. Linux only.

``measure`` starts this file as a script, which starts the command. The script is the reaper of its descendants. It
therefore finds, counts, and ends processes that detach themselves too (a daemon, a JVM, the local runner's worker): a
measured command leaves no process behind.

Peak memory is the greatest sum of proportional set sizes seen: pages that processes share are divided among them.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.process_tree import stat

INTERVAL = 0.05
"""Greatest number of seconds between two samples of memory: a quick command is sampled more often."""

TIMED_OUT = 124
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """A command's usage; ``peak`` in bytes, 0 if it was too quick to sample. ``tail`` is the end of its stderr."""

    status: int
    seconds: float
    cpu: float
    peak: int
    tail: str


class Process(NamedTuple):
    """A process in /proc: ``cpu`` is its seconds, ``reaped`` the seconds of the children that it waited for."""

    parent: int
    cpu: float
    reaped: float
    resident: int


def look(pid: int) -> Process | None:
    """Read the current figures of a process; None if it has gone."""
    if not (text := stat(pid)):
        return None
    own, reaped = int(text[11]) + int(text[12]), int(text[13]) + int(text[14])
    return Process(int(text[1]), own / _TICK, reaped / _TICK, int(text[21]) * _PAGE)


def proportional(pid: int) -> int:
    """Return the bytes of a process's memory, shared pages divided among their processes; 0 if it has gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("Pss:")), 0)


class Tree:
    """The given processes and all below them, as they come and go."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._inside = set(roots)
        self._outside: set[int] = set()
        self.cpu: dict[int, float] = {}
        self.resident = 0

    def sample(self, leave_out: int = 0) -> list[int]:
        """Sample all of them except ``leave_out``; return their ids."""
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self._outside &= pids
        for pid in sorted(pids - self._outside - self._inside):
            self._sort(pid)
        alive = []
        self.resident = 0
        for pid in (self._inside & pids) - {leave_out}:
            if (process := look(pid)) is not None:
                alive.append(pid)
                self.resident += process.resident
                self.cpu[pid] = process.cpu
        return alive

    def _sort(self, pid: int) -> None:
        """Record whether ``pid`` and its ancestors, up to the first known one, are inside the tree."""
        way = []
        while pid and pid not in self._outside and pid not in self._inside:
            way.append(pid)
            process = look(pid)
            if process is None:
                return  # gone meanwhile: its children have another parent in the next sample
            pid = process.parent
        inside = pid in self._inside
        (self._inside if inside else self._outside).update(way)


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the CPU seconds so far of processes and all below them, with ended ones that their parent waited for."""
    tree = Tree(roots)
    return sum(p.cpu + p.reaped for pid in tree.sample() if (p := look(pid)) is not None)


def measure(
    command: Sequence[str], *, cwd: str | Path, env: Mapping[str, str], timeout: float, beside: Sequence[int] = ()
) -> Usage:
    """Run the command to its end; after ``timeout`` seconds, kill it and return the status ``TIMED_OUT``.

    The processes in ``beside``, and all below them, count for the peak only. The command's stdout is discarded.
    """
    with tempfile.TemporaryDirectory(prefix="mrcelery-measure-") as folder:
        report, errors = Path(folder, "report"), Path(folder, "errors")
        line = [sys.executable, __file__, str(report), str(timeout), ",".join(map(str, beside)), *command]
        with errors.open("wb") as err:
            script = subprocess.Popen(
                line,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                start_new_session=True,  # Ctrl-C reaches only the caller, which lets the script end its processes
            )
            try:
                script.wait()
            except BaseException:
                script.terminate()
                script.wait()
                raise
        tail = errors.read_bytes()[-4000:].decode(errors="replace")
        if not report.exists():
            return Usage(-1, 0, 0, 0, tail)
        return Usage(**json.loads(report.read_text()), tail=tail)


def _main(report: str, timeout: str, beside: str, *command: str) -> None:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    me = os.getpid()
    stop = threading.Event()
    timed_out = threading.Event()

    def kill() -> None:
        for pid in Tree([me]).sample():
            if pid != me:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def terminated(*_: object) -> None:
        kill()
        os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminated)
    began = time.perf_counter()
    child = subprocess.Popen(command)
    tree = Tree([me])
    others = Tree(map(int, filter(None, beside.split(","))))
    peak = most = 0

    def watch() -> None:
        nonlocal peak, most
        deadline = began + float(timeout)
        while not stop.wait(min(INTERVAL, 0.002 + (time.perf_counter() - began) / 10)):
            pids = [*tree.sample(leave_out=me), *others.sample()]
            # Shared pages are divided only if memory has grown, because reading them slows the processes.
            if tree.resident + others.resident > most * 1.02:
                most = tree.resident + others.resident
                peak = max(peak, sum(map(proportional, pids)))
            if time.perf_counter() > deadline and not timed_out.is_set():
                timed_out.set()
                kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = _reap(child.pid)
    seconds = time.perf_counter() - began
    stop.set()
    watcher.join()
    _end_all(kill)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The first sum lacks children that their parent did not wait for; the second lacks time between samples.
    cpu = max(used.ru_utime + used.ru_stime, sum(tree.cpu.values()))
    if timed_out.is_set():
        status = TIMED_OUT
    found = {"status": status, "seconds": seconds, "cpu": cpu, "peak": peak}
    Path(report).write_text(json.dumps(found))


def _reap(pid: int) -> int:
    """Wait for the process, and reap any orphan that ends before it."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            return os.waitstatus_to_exitcode(status)


def _end_all(kill: Callable[[], None]) -> None:
    """Give the remaining processes of the command two seconds to end on their own, then kill them."""
    deadline = time.perf_counter() + 2
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            if time.perf_counter() > deadline:
                kill()
            time.sleep(0.01)


if __name__ == "__main__":
    _main(*sys.argv[1:])
