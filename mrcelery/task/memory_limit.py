"""An attempt's memory ceiling: an attempt that holds more is stopped before the kernel picks a process to kill.

A thread measures the process's anonymous memory, resident or swapped out, as reported in ``/proc/self/status``
(``proc_pid_status(5)``, RssAnon and VmSwap). Address space is not memory: Arrow's allocator maps a GiB for its first
buffer, and NumPy's arrays of zeros take nothing until they are written. Pages of files and shared memory belong to the
system's cache, or to no single process, and do not count.

``MemoryError`` is raised in the thread of an attempt that holds too much (``PyThreadState_SetAsyncExc``). If the
attempt does not react, because it is in a long call into C or catches the error and continues, the process ends with
:data:`EXIT_CODE`, and the worker's main process reports the same error. The watching thread cannot run while C code
holds Python's lock: for that case ``RLIMIT_DATA`` (``setrlimit(2)``) limits the address space mapped between two
measurements to what the attempt may still hold plus :data:`FAR`, so that one allocation that is far too large fails at
once.

Works only if a process runs one attempt at a time, and only on Linux: other systems do not provide these numbers.
"""

from __future__ import annotations

import gc
import logging
import mmap
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

log = logging.getLogger(__name__)

STATUS = "/proc/self/status"
ROLLUP = "/proc/self/smaps_rollup"

EXIT_CODE = 94
"""Exit status of a process that held too much memory and could not be stopped otherwise."""

HELD_TOO_MUCH = "it needed more memory than its ceiling allows, and its process was ended"
"""The reason recorded for such a process; the task's next attempt turns it into the job's error."""

SLACK = 384 << 20
"""Bytes that an attempt may hold beyond ``--memory``: for imported modules, and memory kept by allocators."""

FAR = 2 << 30
"""Bytes of address space that may be mapped between two measurements, in addition to what an attempt may still hold:
Arrow's allocator maps 1 GiB at a time, ahead of need.
"""

PER_CORE = 64 << 20
"""Address space for the threads that Arrow and OpenBLAS start for each core: their stacks and buffers."""

RATE = 4 << 30
"""Most bytes that an attempt fills per second: the closer it is to the ceiling, the sooner the next measurement."""
SOONEST, LATEST = 0.05, 0.25
"""Seconds between two measurements, each of which takes about 100 us of a CPU; an attempt may exceed its ceiling by
what it has filled since the last one.
"""
LINGER = 20
"""Measurements without an attempt after which the thread sleeps until the next attempt begins."""

STEP = 32 << 20
"""Growth after which a process is checked again if returning freed memory brought it below its ceiling."""

PATIENCE = 5.0
"""Seconds that an attempt has to react to its MemoryError, having had the CPU for :data:`CPU_PATIENCE` of them."""
CPU_PATIENCE = 2.0
BLOCKED = 60.0
"""Seconds after which an attempt is ended that has not reacted and is blocked."""
REPORTED = 120.0
"""Seconds that an attempt has to report the error, or to skip the record, after it has caught it."""
RUNAWAY = 256 << 20
"""Bytes that a process may take after its MemoryError: if it takes more, it is ignoring the error."""

RESERVE = 4 << 20
"""Bytes mapped in advance, and released when memory runs out: enough to lift the ceiling."""

_reserve: list[mmap.mmap] = []

_spaces: list[_Space] = []
"""The address space limit that applies to this process."""


class Usage(NamedTuple):
    """A process's memory use in bytes."""

    held: int
    """Anonymous memory, resident or swapped out."""
    mapped: int
    """Address space for data."""


def usage() -> Usage | None:
    """Return this process's memory use; None if the system does not report it."""
    text = _read(STATUS)
    held = _field(text, b"RssAnon")
    return None if held is None else Usage(held + (_field(text, b"VmSwap") or 0), _field(text, b"VmData") or 0)


def usage_or_warning() -> Usage | None:
    """Return this process's memory use; log a warning, once, if Linux does not report it."""
    global _warned
    if sys.platform != "linux":
        return None
    found = usage()
    if found is None and not _warned:
        _warned = True
        log.warning(
            "%s cannot be read or lacks RssAnon: tasks run without a memory ceiling; mount /proc in the container, or "
            "limit its memory",
            STATUS,
        )
    return found


_warned = False


@contextmanager
def ceiling(memory: int) -> Iterator[None]:
    """Let this process hold ``memory`` bytes and :data:`SLACK` more than it holds now, while the block runs.

    Beyond that, ``MemoryError`` is raised in the calling thread, or the process ends with :data:`EXIT_CODE`.
    """
    before = usage_or_warning()
    if before is None:
        yield
        return
    watch, more = _watch_of_this_process(), memory + SLACK
    with _address_space(before.mapped, more) as space:
        watch.begin(before.held, more, space)
        try:
            yield
        finally:
            try:
                watch.end()
            finally:
                watch.end()  # the watch's exception may arrive in the midst of the first call


@contextmanager
def lifted() -> Iterator[None]:
    """Lift the ceiling, in order to report that it was reached: that takes memory, too."""
    give_way()
    if not _spaces:
        yield
        return
    space = _spaces[-1]
    space.lift()
    try:
        yield
    finally:
        _hold()
        space.restore()


def give_way() -> None:
    """Free the reserve, and have the watch wait: the first thing to do after a ``MemoryError``."""
    while _reserve:
        _reserve.pop().close()
    if _watch is not None:
        _watch.heeded()


def freed() -> None:
    """Return freed memory that allocators keep for later to the system."""
    pool = getattr(sys.modules.get("pyarrow"), "default_memory_pool", None)
    if pool is not None:
        pool().release_unused()
    import ctypes  # noqa: PLC0415 - a few milliseconds, which no client needs to spend

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class _Watch:
    """The thread that monitors a process's memory, for one attempt after the other.

    It shares no lock with the attempts' thread: the exception that it raises there could leave one locked.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._turn = 0
        """Counts starts and ends: odd while an attempt runs."""
        self._acts = False
        """Whether the thread is between its last check of the turn and the resulting action."""
        self._thread = 0
        self._limit = 0
        self._space: _Space | None = None
        self._before = 0
        """Bytes held when the process began its last attempt, after freed memory was returned."""
        self._stopped: _Stop | None = None
        self._raised = False
        self._look_at = 0
        """Bytes at which to check again whether an allocator keeps freed memory."""
        self._awake = threading.Event()
        self._closed = False
        self._watcher = threading.Thread(target=self._run, name="mrcelery-memory", daemon=True)
        try:
            self._watcher.start()
        except RuntimeError as e:
            log.warning("tasks of process %d run without a memory ceiling: %s", self.pid, e)

    def begin(self, now: int, more: int, space: _Space) -> None:
        """Ensure that the process takes at most ``more`` bytes more than ``now``; else stop the calling thread."""
        if self._before and now > self._before + 2 * STEP:
            freed()  # else memory freed by one attempt would be extra room for the next one
            now = _held(now)
        self._before = now
        self._thread, self._limit, self._space = threading.get_ident(), now + more, space
        self._stopped, self._raised, self._look_at = None, False, 0
        self._turn += 1
        self._awake.set()

    def end(self) -> None:
        """Leave the calling thread alone; may be called again if the watch's exception cut the first call short."""
        self._turn += self._turn % 2
        while self._acts and self.pid == os.getpid():  # in a copy of this process the thread does not run
            time.sleep(0)
        if self._raised:
            _raise_in(self._thread, None)

    def heeded(self) -> None:
        """Give the attempt time to report the error that it has caught."""
        if self._stopped is not None:
            self._stopped.heeded = True

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._awake.set()
        self._watcher.join()

    def _run(self) -> None:
        pause, idle = LATEST, 0
        while not self._closed:
            time.sleep(pause)
            if self._turn % 2:
                idle = 0
                with suppress(MemoryError):  # this thread's own error, when memory runs out
                    pause = self._look()
            else:
                pause, idle = LATEST, idle + 1
            if idle > LINGER:
                self._awake.clear()
                if self._turn % 2 == 0 and not self._closed:
                    self._awake.wait()
                idle = 0

    def _look(self) -> float:
        """Measure, stop the attempt if necessary, and return the seconds until the next measurement."""
        turn, limit, found = self._turn, self._limit, usage()
        if found is None:
            return LATEST
        now, mapped = found
        if now > limit and self._stopped is None and now > self._look_at:
            now = _lasting(now, limit)
            self._look_at = _held(now) + STEP if now <= limit else 0
        elif now <= limit:
            self._look_at = 0
        self._acts = True
        try:
            if self._turn == turn and turn % 2:
                self._judge(now, limit)
                if self._space is not None and now <= limit:
                    self._space.leave_room(mapped, limit - now)
        finally:
            self._acts = False
        return min(LATEST, max(SOONEST, (limit - now) / RATE))

    def _judge(self, now: int, limit: int) -> None:
        stop = self._stopped
        if now <= limit or (stop is not None and stop.heeded and stop.seconds > REPORTED):
            self._stopped = None  # the attempt has freed memory, or has skipped a record, and continues
        elif stop is not None:
            if stop.in_vain(now):
                os._exit(EXIT_CODE)
        elif not self._look_at:
            self._stopped, self._raised = _Stop(now), True
            _raise_in(self._thread, MemoryError)


class _Stop:
    """A MemoryError raised in an attempt, and the attempt's reaction."""

    def __init__(self, now: int) -> None:
        self.heeded = False
        self._least = self._before = now
        self._began = time.monotonic()
        self._cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def in_vain(self, now: int) -> bool:
        """Check whether the attempt ignores the error; ``now``: the bytes it holds, still too many."""
        if now > self._before + RUNAWAY:
            return True
        if now < self._least - (1 << 20):  # it frees memory as it unwinds
            self._least, self._began, self._cpu = now, time.monotonic(), time.process_time()
        if self.heeded or self.seconds < PATIENCE:
            return False
        return time.process_time() - self._cpu > CPU_PATIENCE or self.seconds > BLOCKED


_watch: _Watch | None = None


def _watch_of_this_process() -> _Watch:
    global _watch
    if _watch is None or _watch.pid != os.getpid():  # threads do not survive a fork
        _watch = _Watch()
    return _watch


def _held(otherwise: int) -> int:
    found = usage()
    return otherwise if found is None else found.held


def _lasting(now: int, limit: int) -> int:
    """Return the bytes that the process holds without garbage and without freed memory not returned yet."""
    if not gc.isenabled():  # an attempt runs without the collector: cycles of large objects would pile up
        gc.collect()
    freed()
    now = _held(now)
    if now > limit:  # reading the other file takes milliseconds, and blocks the process's mappings
        now -= _field(_read(ROLLUP), b"LazyFree") or 0
    return now


def _read(path: str) -> bytes:
    """Return the content of one of the kernel's files, read at once; b"" if it cannot be read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, 1 << 14)
    except OSError:
        return b""
    finally:
        os.close(file)


def _field(text: bytes, name: bytes) -> int | None:
    """Return a field of one of the kernel's files, in bytes."""
    _, found, rest = text.partition(b"\n" + name + b":")
    return int(rest[: rest.index(b"kB")]) << 10 if found else None


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an exception in another thread when it next runs Python; None: cancel one not yet raised."""
    import ctypes  # noqa: PLC0415 - see above

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )


class _Space:
    """The limit on this process's address space for data."""

    def __init__(self) -> None:
        import resource  # noqa: PLC0415 - not on Windows

        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._before = self._soft
        self._most = min((one for one in (self._soft, self._hard) if one != resource.RLIM_INFINITY), default=1 << 62)
        self._lifted = False

    def leave_room(self, mapped: int, more: int) -> None:
        """Let the process map :data:`FAR` and ``more`` bytes beyond ``mapped``, unless user code has set a limit."""
        import resource  # noqa: PLC0415 - not on Windows

        limit = min(mapped + more + FAR + PER_CORE * (os.cpu_count() or 1), self._most)
        if self._lifted or abs(limit - self._soft) < STEP:
            return
        if resource.getrlimit(resource.RLIMIT_DATA) == (self._soft, self._hard):
            self._soft = limit
            self._set(limit)

    def lift(self) -> None:
        """Restore the limit from before the ceiling."""
        self._lifted = True
        self._set(self._before)

    def restore(self) -> None:
        """Apply the lifted limit again."""
        self._set(self._soft)
        self._lifted = False

    def _set(self, soft: int) -> None:
        import resource  # noqa: PLC0415 - not on Windows

        with suppress(ValueError):  # user code may have lowered the hard limit
            resource.setrlimit(resource.RLIMIT_DATA, (soft, self._hard))


@contextmanager
def _address_space(mapped: int, more: int) -> Iterator[_Space]:
    """Limit this process's address space for data, far above its memory ceiling."""
    space = _Space()
    space.leave_room(mapped, more)
    _hold()
    _spaces.append(space)
    try:
        yield space
    finally:
        _spaces.pop()
        space.lift()
        give_way()


def _hold() -> None:
    _reserve.append(mmap.mmap(-1, RESERVE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
