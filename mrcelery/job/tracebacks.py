"""The user's own traceback: the frames they would see if they had run their code alone."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from mrcelery.errors import writable

_HERE = Path(__file__).parents[1]
_HEAD, _TAIL = 4_000, 12_000
# Where the loader unpacks a bundle: <scratch>/<sha256>/lib/wc.py is the user's wc.py.
_SHIPPED = re.compile(r"^.*/[0-9a-f]{64}/(?:lib|py/[^/]+)/")
# Python's import machinery, and the worker's pool, which calls sys.exit() itself.
_NOBODYS = re.compile(r"^<frozen |/importlib/__init__\.py$|/(?:site|dist)-packages/(?:celery|billiard)/")


def user_traceback(exc: BaseException, skip_package: str | Path = _HERE) -> str:
    """Format the traceback of ``exc`` and its causes, with only the user's frames.

    Omits the frames of ``skip_package`` (a folder; its ``examples`` count as the user's), of Celery and its pool, and
    of Python's import machinery. Files of a shipped bundle appear under their original names, with their source lines.
    At most 16,000 characters, cut in the middle.
    """
    report = traceback.TracebackException.from_exception(exc)
    _trim(report, f"{skip_package}/", set())
    text = "".join(report.format())
    if len(text) > _HEAD + _TAIL:
        text = f"{text[:_HEAD]}\n  [{len(text) - _HEAD - _TAIL} characters left out]\n{text[-_TAIL:]}"
    return writable(text)


def raised_by_user(exc: BaseException) -> bool:
    """Check whether a line of a shipped file raised the exception."""
    last = None
    for frame, _ in traceback.walk_tb(exc.__traceback__):
        last = frame.f_code.co_filename
    return last is not None and _SHIPPED.match(last) is not None


def is_shipped(file: str) -> bool:
    """Check whether a file was shipped with the job."""
    return _SHIPPED.match(file) is not None


def in_user_code(exc: BaseException) -> bool:
    """Check whether an exception passed through a shipped file, whoever raised it."""
    return any(_SHIPPED.match(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(exc.__traceback__))


def raised_by_us(exc: BaseException, package: str | Path = _HERE) -> bool:
    """Check whether a line of ``package`` raised the exception, not the user's code (or a library of theirs)."""
    names = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(exc.__traceback__)]
    names = [name for name in names if not name.startswith("<frozen ")]  # for example os.makedirs()
    return bool(names) and _is_ours(names[-1], f"{package}/")


def _is_ours(filename: str, package: str) -> bool:
    return filename.startswith(package) and not filename.startswith(f"{package}examples/")


def _trim(report: traceback.TracebackException, package: str, seen: set[int]) -> None:
    if id(report) in seen:
        return
    seen.add(id(report))
    kept = []
    for frame in report.stack:
        name = frame.filename
        if _is_ours(name, package) or (_NOBODYS.search(name) and not _SHIPPED.match(name)):
            continue
        _ = frame.line  # read from the file now, under its present name, which changes below
        frame.filename = _SHIPPED.sub("", frame.filename)
        kept.append(frame)
    report.stack = traceback.StackSummary.from_list(kept)
    if isinstance(getattr(report, "filename", None), str):  # a SyntaxError names its file itself
        report.filename = _SHIPPED.sub("", report.filename)
    for other in (report.__cause__, report.__context__, *(getattr(report, "exceptions", None) or ())):
        if other is not None:
            _trim(other, package, seen)
