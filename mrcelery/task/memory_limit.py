"""The memory ceiling of an attempt: one that holds more is stopped, before the kernel chooses whom to kill.

A thread measures what the process holds: its anonymous memory, resident or swapped out, as ``/proc/self/status``
gives it (``proc_pid_status(5)``, RssAnon and VmSwap). Address space is not memory: Arrow's allocator maps a GiB for
its first buffer, and NumPy's arrays of zeros take nothing until they are written. Pages of files and shared memory
belong to the system's cache, or to nobody in particular, and do not count.

``MemoryError`` is raised in the thread of an attempt that holds too much (``PyThreadState_SetAsyncExc``). If it
does not heed that, since it is in a long call into C or catches the error and goes on, the process ends with
:data:`EXIT_CODE`, and the worker's main process reports the same error. The watching thread cannot run while C code
keeps Python's lock: for that ``RLIMIT_DATA`` (``setrlimit(2)``) allows no more address space between two looks than
the attempt may still hold and :data:`FAR`, so that one allocation that is far too large fails at once.

Only where a process runs one attempt at a time, and on Linux only: elsewhere these numbers are not to be had.
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
"""The reason that is recorded for such a process; the task's next attempt turns it into the job's error."""

SLACK = 384 << 20
"""Bytes that an attempt may hold beyond ``--memory``: modules that it imports, and what allocators keep."""

FAR = 2 << 30
"""Bytes of address space that may be mapped between two looks beside what an attempt may still hold: Arrow's allocator
maps 1 GiB at a time, ahead of need."""

PER_CORE = 64 << 20
"""Address space for the threads that Arrow and OpenBLAS start for each core: their stacks and buffers."""

RATE = 4 << 30
"""Bytes that an attempt fills in a second, at most: the less is left to the ceiling, the sooner the next look."""
SOONEST, LATEST = 0.05, 0.25
"""Seconds between two looks, each of which takes about 100 us of a CPU; an attempt that is stopped may hold what it has
filled since the last one beyond its ceiling."""
LINGER = 20
"""Looks without an attempt after which the thread sleeps until the next one begins."""

STEP = 32 << 20
"""A process whose freed memory was given back looks again when it has grown by so much."""

PATIENCE = 5.0
"""Seconds that an attempt has to heed its MemoryError, of which it had the CPU for :data:`CPU_PATIENCE`."""
CPU_PATIENCE = 2.0
BLOCKED = 60.0
"""Seconds after which an attempt is ended that has not heeded it and waits for something."""
REPORTED = 120.0
"""Seconds that an attempt has to report the error, or to skip the record, once it has met it."""
RUNAWAY = 256 << 20
"""Bytes that a process may take after its MemoryError: it goes on all the same if it takes more."""

RESERVE = 4 << 20
"""Bytes that are mapped ahead, and given up where memory ends: to get as far as lifting the ceiling."""

_reserve: list[mmap.mmap] = []

_spaces: list[_Space] = []
"""The limit of address space that this process is under."""


class Usage(NamedTuple):
    """What a process has, in bytes."""

    held: int
    """Anonymous memory, resident or swapped out."""
    mapped: int
    """Address space for data."""


def usage() -> Usage | None:
    """Return what this process has; None if the system does not say."""
    text = _read(STATUS)
    held = _field(text, b"RssAnon")
    return None if held is None else Usage(held + (_field(text, b"VmSwap") or 0), _field(text, b"VmData") or 0)


def usage_or_warning() -> Usage | None:
    """Return what this process has; log a warning, once, if Linux does not say."""
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
    """Let this process hold ``memory`` bytes and :data:`SLACK` more than it has now, while the block runs.

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
                watch.end()  # the watch's own exception may come in the midst of the first


@contextmanager
def lifted() -> Iterator[None]:
    """Lift the ceiling, to report that it was met: that takes memory too."""
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
    """Free the reserve, and have the watch wait: the first thing to do with a ``MemoryError``."""
    while _reserve:
        _reserve.pop().close()
    if _watch is not None:
        _watch.heeded()


def freed() -> None:
    """Give memory that was freed, and that allocators keep for later, back to the system."""
    pool = getattr(sys.modules.get("pyarrow"), "default_memory_pool", None)
    if pool is not None:
        pool().release_unused()
    import ctypes  # noqa: PLC0415 - a few milliseconds, which no client needs to spend

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class _Watch:
    """The thread that watches over a process's memory, one attempt after the other.

    There is no lock between it and the attempts' thread: the exception that it raises there could leave one locked.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._turn = 0
        """Counts beginnings and ends: odd while an attempt runs."""
        self._acts = False
        """The thread is between its last look at the turn and what follows from that."""
        self._thread = 0
        self._limit = 0
        self._space: _Space | None = None
        self._before = 0
        """What the process held when it began its last attempt, after what it had kept was given back."""
        self._stopped: _Stop | None = None
        self._raised = False
        self._look_at = 0
        """Bytes at which to see again whether an allocator keeps what was freed."""
        self._awake = threading.Event()
        self._closed = False
        self._watcher = threading.Thread(target=self._run, name="mrcelery-memory", daemon=True)
        try:
            self._watcher.start()
        except RuntimeError as e:
            log.warning("tasks of process %d run without a memory ceiling: %s", self.pid, e)

    def begin(self, now: int, more: int, space: _Space) -> None:
        """Watch that the process takes at most so many bytes more than ``now``; else stop the calling thread."""
        if self._before and now > self._before + 2 * STEP:
            freed()  # else what one attempt has freed would be room for the next one, beside its own
            now = _held(now)
        self._before = now
        self._thread, self._limit, self._space = threading.get_ident(), now + more, space
        self._stopped, self._raised, self._look_at = None, False, 0
        self._turn += 1
        self._awake.set()

    def end(self) -> None:
        """Leave the calling thread alone; may be called again, if the watch's exception cut the first call short."""
        self._turn += self._turn % 2
        while self._acts and self.pid == os.getpid():  # in a copy of this process the thread does not run
            time.sleep(0)
        if self._raised:
            _raise_in(self._thread, None)

    def heeded(self) -> None:
        """Give the attempt time to report the error that it has met."""
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
                with suppress(MemoryError):  # of this thread's own, where memory ends
                    pause = self._look()
            else:
                pause, idle = LATEST, idle + 1
            if idle > LINGER:
                self._awake.clear()
                if self._turn % 2 == 0 and not self._closed:
                    self._awake.wait()
                idle = 0

    def _look(self) -> float:
        """Measure, stop the attempt if need be, and return the seconds until the next look."""
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
            self._stopped = None  # the attempt has freed what it held, or has skipped a record, and goes on
        elif stop is not None:
            if stop.in_vain(now):
                os._exit(EXIT_CODE)
        elif not self._look_at:
            self._stopped, self._raised = _Stop(now), True
            _raise_in(self._thread, MemoryError)


class _Stop:
    """A MemoryError that was raised in an attempt, and what became of it."""

    def __init__(self, now: int) -> None:
        self.heeded = False
        self._least = self._before = now
        self._began = time.monotonic()
        self._cpu = time.process_time()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def in_vain(self, now: int) -> bool:
        """Whether the attempt goes on as if nothing had been raised; ``now``: what it holds, still too much."""
        if now > self._before + RUNAWAY:
            return True
        if now < self._least - (1 << 20):  # it frees memory on its way out
            self._least, self._began, self._cpu = now, time.monotonic(), time.process_time()
        if self.heeded or self.seconds < PATIENCE:
            return False
        return time.process_time() - self._cpu > CPU_PATIENCE or self.seconds > BLOCKED


_watch: _Watch | None = None


def _watch_of_this_process() -> _Watch:
    global _watch
    if _watch is None or _watch.pid != os.getpid():  # threads do not outlive a fork
        _watch = _Watch()
    return _watch


def _held(otherwise: int) -> int:
    found = usage()
    return otherwise if found is None else found.held


def _lasting(now: int, limit: int) -> int:
    """Return the bytes that the process holds without garbage, and what was freed but not given back yet."""
    if not gc.isenabled():  # an attempt runs without the collector: cycles of large objects would pile up
        gc.collect()
    freed()
    now = _held(now)
    if now > limit:  # reading the other file takes milliseconds, and stops the process from mapping
        now -= _field(_read(ROLLUP), b"LazyFree") or 0
    return now


def _read(path: str) -> bytes:
    """Return one of the kernel's files, which come in one piece; nothing if it cannot be read."""
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
    """Raise an exception in another thread when it next runs Python; None: take back what it has not yet met."""
    import ctypes  # noqa: PLC0415 - see above

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error)
    )


class _Space:
    """The limit of what this process may map for data."""

    def __init__(self) -> None:
        import resource  # noqa: PLC0415 - not on Windows

        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._before = self._soft
        self._most = min((one for one in (self._soft, self._hard) if one != resource.RLIM_INFINITY), default=1 << 62)
        self._lifted = False

    def leave_room(self, mapped: int, more: int) -> None:
        """Let the process map :data:`FAR` and so many bytes more than ``mapped``, unless user code has set a limit."""
        import resource  # noqa: PLC0415 - not on Windows

        limit = min(mapped + more + FAR + PER_CORE * (os.cpu_count() or 1), self._most)
        if self._lifted or abs(limit - self._soft) < STEP:
            return
        if resource.getrlimit(resource.RLIMIT_DATA) == (self._soft, self._hard):
            self._soft = limit
            self._set(limit)

    def lift(self) -> None:
        """Let the process map what it could before."""
        self._lifted = True
        self._set(self._before)

    def restore(self) -> None:
        """Put the limit back that was lifted."""
        self._set(self._soft)
        self._lifted = False

    def _set(self, soft: int) -> None:
        import resource  # noqa: PLC0415 - not on Windows

        with suppress(ValueError):  # user code may have lowered the hard limit
            resource.setrlimit(resource.RLIMIT_DATA, (soft, self._hard))


@contextmanager
def _address_space(mapped: int, more: int) -> Iterator[_Space]:
    """Limit what this process may map for data, far beyond what it may hold."""
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
