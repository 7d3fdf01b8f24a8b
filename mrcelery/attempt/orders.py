"""The messages between a pool process and a job process: an attempt to run, and how it ended."""

from __future__ import annotations

import msgspec

from mrcelery import errors
from mrcelery.errors import MRCeleryError, shown, writable
from mrcelery.schema.structs import Kind, Split
from mrcelery.schema.task_id import TaskId

CRASH_CHARS = 16_000
"""Characters sent of a traceback of mrcelery itself; user code's tracebacks are never longer."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that the job store has counted, ready to run."""

    job: str
    step: int
    kind: Kind
    task: int
    number: int
    """Its number among the attempts at its task, from 1."""
    token: str
    worker: str
    """The worker's name and, after a space, the id of the process that is blamed for this attempt."""
    pid: int
    """That process id: a job process runs attempts in the name of the pool process that started it."""
    keeper: int
    """The process that cleans up if process ``pid`` dies."""
    split: Split | None = None
    """A map task's split, if already known."""
    requests: dict[str, int] = {}
    """Requests to the storage made for the attempt so far."""

    @property
    def task_id(self) -> TaskId:
        """Return the task that this attempt runs."""
        return TaskId(self.job, self.step, self.kind, self.task)

    @property
    def name(self) -> str:
        """Return the attempt's name, as in its commit and its keys in storage."""
        return f"{self.number}-{self.token}"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: successfully, if no field is set."""

    error: str = ""
    """The name of the class of the error that ended it."""
    message: str = ""
    fields: dict[str, str | bool | int | float | None] = {}
    """The error's attributes."""
    crash: str = ""
    """The traceback of an error that was not raised on purpose."""
    died: str | None = None
    """The token of the attempt whose process has died; its exit status is in ``status``."""
    status: int = 0
    """As returned by ``waitpid(2)``."""
    unforkable: bool = False
    """No attempt ended: the job's modules cannot be imported ahead of the attempt."""


class Crash(Exception):
    """An internal error of mrcelery in a job process, raised again in the pool process."""


def ended_by(error: BaseException) -> Ended:
    """Describe the error that ended an attempt."""
    if isinstance(error, MRCeleryError):
        known = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        fields = {k: v for k, v in vars(error).items() if v is None or isinstance(v, (str, bool, int, float))}
        plain = {name: writable(value) if isinstance(value, str) else value for name, value in fields.items()}
        return Ended(error=known.__name__, message=writable(str(error)), fields=plain)
    # Imported here: only failures are formatted.
    import traceback  # noqa: PLC0415 - see above

    text = "".join(traceback.format_exception(error))
    return Ended(
        error=type(error).__name__,
        message=writable(shown(str(error), 2000)),
        crash=writable(shown(text, CRASH_CHARS)),
    )


def raise_again(ended: Ended) -> None:
    """Raise the error that ended an attempt, if any."""
    if not ended.error:
        return
    if ended.error == "MemoryError":
        raise MemoryError(ended.message)
    if ended.crash:
        # Named like the original: that name goes into the job's record.
        crash = type(ended.error, (Crash,), {})(ended.message)
        crash.add_note(ended.crash)
        raise crash
    kind: type[MRCeleryError] = getattr(errors, ended.error)
    error = kind.__new__(kind)  # constructors differ, and the attributes they set are among the fields
    error.args = (ended.message,)
    for name, value in ended.fields.items():
        setattr(error, name, value)
    raise error
