"""The process of one job, in which no other job's code has run: it forks a process for each attempt.

A pool process forks it for the job's first attempt there. It imports the job's modules, and from then on runs none of
the job's code itself: each attempt is a fork of it, so the attempt finds modules, process settings and memory as they
were right after the import, and all changes it makes end with it. Forking takes milliseconds; an attempt's process also
runs the next attempt if the job asks for that (``KEEP_MODULES``), or if its code cannot leave anything behind
(:mod:`mrcelery.shipping.traceless`).

Both read the attempts to run from one socket; the job process does so only while no attempt process lives. Whatever an
attempt has started ends with it, and both processes end with the pool process.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing.process
import os
import random
import resource
import select
import signal
import socket
import stat
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import msgspec

from mrcelery.attempt.descendants import adopt_orphans, children, end_children, when_parent_ends
from mrcelery.attempt.machine import cannot_import, sickness
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.orders import Begun, Ended, ended_by
from mrcelery.attempt.output_capture import Said
from mrcelery.attempt.run import run
from mrcelery.errors import MRCeleryError, UserCodeError
from mrcelery.job.raised import watching
from mrcelery.schema.decoders import decoder
from mrcelery.shipping.traceless import is_traceless
from mrcelery.storage.transfers import transfers

IDLE_SECONDS = 5.0
"""How long a job process waits for another attempt before it ends, and frees its memory."""

GROWTH = 64 << 20
"""Growth in bytes up to which an attempt's process may run the next attempt, if the job does not ask for that."""

_HAND = 1 << 16

MESSAGE = 1 << 17
"""Largest message in bytes; Linux allows half as much again by default."""

_OURS = ("mrcelery.", "pyarrow.", "numpy.", "zstandard.")
"""Modules that the engine imports when an attempt needs them; all of these can be forked."""

_KNOWN_THREADS = ("numpy", "pyarrow")
"""Modules that start threads at import, and again in a process forked after it."""

_RESET = (signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


def serve(jobs: OpenJobs, job: str, channel: socket.socket, *, ahead: bool) -> NoReturn:
    """Run as a job's process, just forked by a pool process, which has the other end of ``channel``.

    ``ahead``: import the job's modules ahead of its attempts.
    """
    status = 70
    try:
        _settle(channel)
        process = JobProcess(jobs, job, channel)
        if ahead and not process.load():
            channel.recv(MESSAGE)  # the attempt goes to another process, and must not stay unread
            channel.send(msgspec.json.encode(Ended(unforkable=True)))
        else:
            process.serve()
        jobs.close()
        status = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(status)


def _settle(channel: socket.socket) -> None:
    """Drop the state and the open files inherited from the pool process."""
    pool = os.getppid()
    when_parent_ends(signal.SIGKILL, pool)
    adopt_orphans()
    gc.freeze()  # a collection would copy all memory pages of the pool process
    for number in _RESET:
        signal.signal(number, signal.SIG_DFL)
    # Ignored as in the pool process, which leaves SIGTERM to the worker; processes that an attempt starts obey it.
    signal.signal(signal.SIGTERM, _heedless)
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_heed)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir("/proc/self/fd"):
        if (file := int(name)) > 2 and file not in (null, channel.fileno()):
            with suppress(OSError):
                if not stat.S_ISREG(os.fstat(file).st_mode) and not stat.S_ISDIR(os.fstat(file).st_mode):
                    # Not closed: its number would be reused, and then be closed by code that thinks it owns it.
                    os.dup2(null, file, inheritable=False)
    os.close(null)
    # A pool process is a daemon, which may have no children.
    multiprocessing.process._current_process = _MainProcess()  # type: ignore[attr-defined]
    multiprocessing.process._children = set()  # type: ignore[attr-defined]


def _heedless(number: int, frame: object) -> None:
    """Ignore SIGTERM."""


_forking = threading.local()
"""The signals that a thread had blocked before it forked."""


def _hold_back() -> None:
    """Delay a SIGTERM to a process just forked until that obeys it; it would be lost, and its sender would wait."""
    _forking.blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.blocked)


def _heed() -> None:
    if signal.getsignal(signal.SIGTERM) is _heedless:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_through()


class _MainProcess(multiprocessing.process.BaseProcess):
    """This process, as ``multiprocessing`` describes one that it did not start: its own class is private."""

    def __init__(self) -> None:
        self._identity = ()
        self._name = "MainProcess"
        self._parent_pid = None
        self._popen = None
        self._closed = False
        kept_secret: Any = multiprocessing.process.AuthenticationString  # type: ignore[attr-defined]
        self._config = {"authkey": kept_secret(os.urandom(32)), "semprefix": "/mp"}

    def close(self) -> None:
        """Do nothing: this process is not a child."""


class JobProcess:
    """A job's process, and then its attempts' processes, which inherit this object when they are forked."""

    def __init__(self, jobs: OpenJobs, job: str, channel: socket.socket) -> None:
        self._jobs = jobs
        self._job = job
        self._channel = channel
        self._said = Said()
        self._fetched: Counter[str] = Counter()
        self._spared: set[int] = set()
        self._seeded: Any = None
        self._traceless = False
        self._heedless = True
        # Shared with the attempt's process: whether an attempt is running, then its token, then names of modules.
        self._hand = mmap.mmap(-1, _HAND)
        jobs.adopt()

    def load(self) -> bool:
        """Import the job's modules; return False if that cannot be done ahead of an attempt."""
        try:
            with transfers() as moved, watching():
                code = self._jobs.code(self._jobs.open(self._job))
                self._fetched = moved.requests
                with self._said.heard(), _noted_seed() as seeded:
                    modules = code.load()
        except BaseException:
            return False  # the attempts report it: the job's code fails here, not this process
        if not _bear_a_fork(modules):
            return False
        if seeded:
            self._seeded = random.getstate()
        self._spared = children()
        self._traceless = is_traceless(modules)
        gc.collect()
        gc.freeze()  # a collection in an attempt would copy the memory pages of all that is loaded
        return True

    def serve(self) -> None:
        """Fork a process for each attempt, until none arrives for a while or the pool process ends."""
        # The signal wakes this process even if it was stopped.
        when_parent_ends(signal.SIGCONT, os.getppid())
        while _readable(self._channel) and self._peek():
            self._hand[:1] = b"\1"
            self._hand[1:33] = bytes(32)
            self._heedless = signal.getsignal(signal.SIGTERM) is _heedless  # else the job set a handler
            _flush()
            parent, pid = os.getpid(), os.fork()
            if not pid:
                self._attempts(parent)
            self._fetched.clear()  # count them only once
            if not self._outlive(pid):
                return
            self._import_what_it_needed()

    def _peek(self) -> bool:
        """Check whether a message has arrived, rather than the end of the channel."""
        return bool(self._channel.recv(1, socket.MSG_PEEK))

    def _outlive(self, pid: int) -> bool:
        """Wait for an attempt's process to end, and end all it has started; return False if this process must end."""
        waiting, watch = select.poll(), os.pidfd_open(pid)
        waiting.register(watch, select.POLLIN)
        waiting.register(self._channel, 0)  # only its hang-up
        over = self._channel.fileno() in dict(waiting.poll())
        os.close(watch)
        if over:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        end_children(self._spared)
        if over:
            return False
        if self._hand[0]:
            token = self._hand[1:33].rstrip(b"\0").decode()
            self._channel.send(msgspec.json.encode(Ended(died=token, status=status)))
            return False
        return True

    def _attempts(self, parent: int) -> NoReturn:
        """Run as the process of one attempt, or of several."""
        status = 70
        try:
            when_parent_ends(signal.SIGKILL, parent)
            if self._heedless:
                signal.signal(signal.SIGTERM, _heedless)
            self._jobs.adopt()
            folder = self._folder()
            _reseed(self._seeded)
            limit, known = _peak() + GROWTH, set(sys.modules)
            while True:
                begun = decoder(Begun)(self._channel.recv(MESSAGE))
                self._hand[1 : 1 + len(begun.token)] = begun.token.encode()
                ended = self._run(begun)
                self._note_imports(known)
                self._channel.send(msgspec.json.encode(ended))
                self._hand[:1] = b"\0"
                if not (self._takes_another(limit) and _readable(self._channel) and self._peek()):
                    break
                self._hand[1:33] = bytes(32)
                self._hand[:1] = b"\1"
            self._jobs.close(spared=folder)
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            _flush()
            os._exit(status)

    def _run(self, begun: Begun) -> Ended:
        requests = Counter(begun.requests) + self._fetched
        self._fetched.clear()
        try:
            run(self._jobs, msgspec.structs.replace(begun, requests=dict(requests)), said=self._said, alone=True)
        except BaseException as e:
            if isinstance(e, UserCodeError):
                e.lacks_module = cannot_import(e)
            return ended_by(e if isinstance(e, MRCeleryError) else sickness(e, self._jobs) or e)
        return Ended()

    def _note_imports(self, known: set[str]) -> None:
        """Report the engine modules that this attempt has imported to the job process: the next one will need them."""
        names = ",".join(name for name in sys.modules if name not in known and name.startswith(_OURS)).encode()
        if len(names) < _HAND - 33:
            self._hand[33 : 33 + len(names)] = names

    def _import_what_it_needed(self) -> None:
        names = self._hand[33:].partition(b"\0")[0].decode()
        self._hand[33:] = bytes(_HAND - 33)
        for name in filter(None, names.split(",")):
            with suppress(Exception):  # an attempt that needs the module hits the same error
                import_module(name)
        if names:
            gc.collect()
            gc.freeze()

    def _takes_another(self, limit: int) -> bool:
        """Check whether this process may run another attempt: the job asks for it, or its code leaves no trace."""
        code = self._jobs.loaded(self._job)
        return code is not None and (code.keeps_modules or (self._traceless and _peak() < limit))

    def _folder(self) -> str:
        code = self._jobs.loaded(self._job)
        return code.work if code is not None else ""


def _readable(channel: socket.socket) -> bool:
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    return bool(waiting.poll(IDLE_SECONDS * 1000))


def _flush() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        with suppress(Exception):  # user code may have closed it
            stream.flush()  # type: ignore[union-attr]


def _peak() -> int:
    """Return this process's peak memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _bear_a_fork(modules: Mapping[str, ModuleType]) -> bool:
    """Check whether the imported modules work the same in a fork, as to threads, timers and random numbers."""
    if threading.active_count() > 1 or signal.getitimer(signal.ITIMER_REAL)[0]:
        return False
    if len(os.listdir("/proc/self/task")) > 1 and sys.modules.keys().isdisjoint(_KNOWN_THREADS):
        return False
    holders = [*modules.values(), *(v for m in modules.values() for v in vars(m).values() if isinstance(v, type))]
    # A generator made by the job would draw the same numbers in each of its attempts.
    return not any(
        isinstance(value, random.Random) or type(value).__module__.startswith("numpy.random")
        for holder in holders
        for value in list(vars(holder).values())
    )


@contextmanager
def _noted_seed() -> Iterator[list[bool]]:
    """Record whether ``random.seed()`` is called in the block; unseeded, each fork draws its own numbers anyway."""
    seeded: list[bool] = []
    seed = random.seed

    def noting(*args: Any, **kwargs: Any) -> None:
        seeded.append(True)
        seed(*args, **kwargs)

    random.seed = noting
    try:
        yield seeded
    finally:
        random.seed = seed


def _reseed(seeded: Any) -> None:
    """Have an attempt's process draw its own random numbers like a new process, unless the job's modules set a seed."""
    if seeded is not None:
        random.setstate(seeded)
    if (numpy := sys.modules.get("numpy.random")) is not None:
        with suppress(AttributeError):
            if numpy.mtrand._rand._bit_generator.seed_seq is not None:  # None once a seed was set
                numpy.seed()
