"""Exceptions from user code, which may raise anything: distinguish them from Ctrl-C, and describe them safely."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from traceback import walk_tb
from types import FrameType

from mrcelery.errors import JobLoadError, MRCeleryError, UserCodeError, shown, writable
from mrcelery.job.tracebacks import in_user_code, raised_by_user, user_traceback

MESSAGE = 2_000
"""Most characters of an exception's text in an error's message; the traceback has more."""


@dataclass
class _Watch:
    came: bool = False


_watch: ContextVar[_Watch | None] = ContextVar("watch", default=None)

forked = False
"""Whether user code has forked this process: a copy of the task, in which only user code may run."""


def _note_fork() -> None:
    global forked
    forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_fork)


@contextmanager
def watching() -> Iterator[None]:
    """Record a Ctrl-C while the block runs user code, and a fork: any other KeyboardInterrupt is user code's own."""
    global forked
    forked = False  # a worker forks its processes, too
    watch = _Watch()
    token = _watch.set(watch)
    # Signals reach only the main thread; an ignored one, as in pool processes, never arrives.
    before = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None

    def note(number: int, frame: FrameType | None) -> None:
        watch.came = True
        if callable(before):
            before(number, frame)

    if callable(before):
        signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        _watch.reset(token)
        if callable(before) and signal.getsignal(signal.SIGINT) is note:  # else another handler was set meanwhile
            signal.signal(signal.SIGINT, before)


def passes(exc: BaseException) -> bool:
    """Check whether an exception out of user code is not its own, and must propagate: Ctrl-C, or an error of ours.

    A process that user code has forked ends here, as it would if that code ran alone.
    """
    if forked:
        leave(exc)
    if isinstance(exc, KeyboardInterrupt):
        watch = _watch.get()
        return watch is None or watch.came
    return isinstance(exc, MRCeleryError) and not raised_by_user(exc)


@contextmanager
def blamed() -> Iterator[None]:
    """Raise user code's exceptions in this block as a :class:`UserCodeError`."""
    try:
        yield
    except BaseException as e:
        if passes(e) or not in_user_code(e):
            raise
        raise user_error(e) from e


@contextmanager
def loading(job_class: type) -> Iterator[None]:
    """Raise exceptions from the file of ``job_class`` in this block as a :class:`JobLoadError`: on the client."""
    try:
        yield
    except BaseException as e:
        file = getattr(sys.modules.get(job_class.__module__), "__file__", None)
        if passes(e) or not any(frame.f_code.co_filename == file for frame, _ in walk_tb(e.__traceback__)):
            raise
        raise JobLoadError(f"{job_class.__name__} cannot be set up: {first_line(e)}", user_traceback(e)) from e


def described(exc: BaseException) -> str:
    """Return an exception's class and text, shortened if necessary, or without a text that cannot be obtained."""
    name = type(exc).__name__
    try:
        text = str(exc)
    except BaseException as e:
        if passes(e):
            raise
        return writable(f"{name} (its __str__ raises {type(e).__name__})")
    return writable(f"{name}: {shown(text, MESSAGE)}" if text else name)


def first_line(exc: BaseException) -> str:
    """Return the first line of :func:`described`."""
    return described(exc).partition("\n")[0]


def lacks_arrow(exc: BaseException) -> bool:
    """Check whether an import failed because the extra ``arrow`` is not installed here."""
    return isinstance(exc, ModuleNotFoundError) and exc.name in ("pyarrow", "numpy")


def user_error(exc: BaseException, *, file: str = "") -> UserCodeError:
    """Make the error for an exception of user code, with its traceback."""
    error = UserCodeError(_told(exc), file=file, traceback=user_traceback(exc))
    # A broken connection may work at the next attempt; anything else would only fail again.
    error.retryable = isinstance(exc, (ConnectionError, TimeoutError))
    return error


def reason(exc: BaseException) -> str:
    """Return the first line of the message for an exception of user code on a worker."""
    return _told(exc).partition("\n")[0]


def _told(exc: BaseException) -> str:
    if isinstance(exc, MemoryError):
        return (
            f"{type(exc).__name__}: the job's code holds more memory than a task may: raise --memory, or hold less "
            "at once"
        )
    return described(exc)


def leave(exc: BaseException | None = None) -> None:
    """End a process that user code forked in a task and that left that code, with ``exc`` if it raised.

    It is a copy of the task: it would report its own end, and remove files that the task needs.
    """
    if _watch.get() is None:
        return  # forked by the code that runs tasks or submits jobs
    code: object = 1
    with suppress(BaseException):
        if isinstance(exc, SystemExit):
            code = 0 if exc.code is None else exc.code
            said = "" if isinstance(code, int) else f"{code}\n"
        elif exc is None:
            said = "a process that the job forked ran on out of the job's code: end it with os._exit()\n"
        else:
            said = user_traceback(exc)
        os.write(2, writable(said).encode())  # sys.stderr is a copy of the task's log
    os._exit(code & 0xFF if isinstance(code, int) else 1)
