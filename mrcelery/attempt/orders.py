"""What a pool's process and a job's process send each other: an attempt to run, and how it ended."""

from __future__ import annotations

import msgspec

from mrcelery import errors
from mrcelery.errors import MRCeleryError, shown, writable
from mrcelery.schema.structs import Kind, Split
from mrcelery.schema.task_id import TaskId

CRASH_CHARS = 16_000
"""Characters of a traceback of mrcelery's own that are sent; user code's are no longer."""


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that the job store has counted, ready to run."""

    job: str
    step: int
    kind: Kind
    task: int
    number: int
    """Of the attempts at its task, from 1."""
    token: str
    worker: str
    """The worker's name and, after a space, the id of its process that is blamed for this attempt."""
    pid: int
    """That id: a job's process runs attempts in the name of the process of the pool that started it."""
    keeper: int
    """The process that cleans up if that one dies."""
    split: Split | None = None
    """A map task's, where it is known already."""
    requests: dict[str, int] = {}
    """Requests to the storage that were made for the attempt so far."""

    @property
    def task_id(self) -> TaskId:
        """Return the task that it is an attempt at."""
        return TaskId(self.job, self.step, self.kind, self.task)

    @property
    def name(self) -> str:
        """Return the attempt's name, as in its commit and its keys in storage."""
        return f"{self.number}-{self.token}"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended: well if nothing else is said."""

    error: str = ""
    """The name of the class of error that it ended with."""
    message: str = ""
    fields: dict[str, str | bool | int | float | None] = {}
    """Its attributes."""
    crash: str = ""
    """The traceback of an error that was not raised on purpose."""
    died: str | None = None
    """The token of the attempt whose process has died; the status is in ``status``."""
    status: int = 0
    """As ``waitpid(2)`` gives it."""
    unforkable: bool = False
    """Nothing ended: the job's modules cannot be imported ahead of the attempt."""


class Crash(Exception):
    """An error of mrcelery's own in a job's process, as it is raised again in the pool's."""


def ended_by(error: BaseException) -> Ended:
    """Describe the error that an attempt ended with."""
    if isinstance(error, MRCeleryError):
        known = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
        fields = {k: v for k, v in vars(error).items() if v is None or isinstance(v, (str, bool, int, float))}
        plain = {name: writable(value) if isinstance(value, str) else value for name, value in fields.items()}
        return Ended(error=known.__name__, message=writable(str(error)), fields=plain)
    # Imported here: formatting is for what goes wrong.
    import traceback  # noqa: PLC0415 - see above

    text = "".join(traceback.format_exception(error))
    return Ended(
        error=type(error).__name__,
        message=writable(shown(str(error), 2000)),
        crash=writable(shown(text, CRASH_CHARS)),
    )


def raise_again(ended: Ended) -> None:
    """Raise the error that an attempt ended with, if it did."""
    if not ended.error:
        return
    if ended.error == "MemoryError":
        raise MemoryError(ended.message)
    if ended.crash:
        # Named as the original: that name is what the job's record says.
        crash = type(ended.error, (Crash,), {})(ended.message)
        crash.add_note(ended.crash)
        raise crash
    kind: type[MRCeleryError] = getattr(errors, ended.error)
    error = kind.__new__(kind)  # constructors differ, and what they set is among the fields
    error.args = (ended.message,)
    for name, value in ended.fields.items():
        setattr(error, name, value)
    raise error
