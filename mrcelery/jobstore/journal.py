"""The journal of a job's attempts: a short line for each, and sums, in the job store.

The journal is for people who watch a job. No result depends on it, and a job store that loses it costs a picture, not a
record. It is a table per stage, ``attempts.<step>.<kind>``, with one :class:`Entry` per attempt; values that are read
often are also kept as :class:`Sums`, so that reading a job's progress costs the same however many tasks it has.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from mrcelery.errors import mask, writable
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.base import JobStore, Note
from mrcelery.schema.decoders import decoder
from mrcelery.schema.states import ENDED, Outcome
from mrcelery.schema.structs import Commit
from mrcelery.schema.task_id import StageId, TaskId

HEARD_SECONDS = 3.0
"""An attempt that reported or began this recently is not lost."""

ERROR_CHARS = 300
"""Characters of an error that the journal keeps; the job's failure has the full text."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One attempt. ``began`` is in epoch seconds; records and bytes are those read and written."""

    task: int
    attempt: str
    """As in its commit: its number, from 1, and a random part."""
    outcome: Outcome
    worker: str
    """The worker's name and, after a space, the process's id."""
    began: float
    seconds: float = 0.0
    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    error: str = ""
    bad_records: int = 0


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """A stage's attempts by outcome, and what the attempts that count have read and written."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    killed: int = 0
    lost: int = 0
    superseded: int = 0
    cancelled: int = 0
    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    bad_records: int = 0
    milliseconds: int = 0
    """Total time of the attempts that count."""

    @property
    def running(self) -> int:
        """Return how many attempts run, including those whose worker's death has not been noticed."""
        ended: int = sum(getattr(self, outcome) for outcome in ENDED)
        return max(0, self.started - ended)


def table(stage: StageId) -> str:
    """Return the name of a stage's table."""
    return f"attempts.{stage.name}"


def of_process(worker: str, pid: int) -> str:
    """Name the process in which an attempt runs, in the form used by entries."""
    return f"{worker} {pid}"


def begin(store: JobStore, task: TaskId, token: str, worker: str) -> int:
    """Count an attempt as it starts and record it; return its number, from 1.

    ``token`` identifies the attempt whatever its number; ``worker`` is :func:`of_process`.
    """
    entry = Entry(task.task, f"-{token}", "running", worker, round(time.time(), 3))
    note = (table(task.stage), _name(entry), _text(entry))
    number = store.next_attempt(task, note=note, add=_sums(task.stage, started=1))
    if number > 1:
        _lose_earlier(store, task, entry)
    return number


def _lose_earlier(store: JobStore, task: TaskId, later: Entry) -> None:
    """Record as lost the attempts at a task that have not reported lately, because another attempt begins."""
    heard = {one.attempt for one in stage_marks.running(store, task.stage, later.began) if one.quiet < HEARD_SECONDS}
    for entry in _of_task(store, task):
        young = later.began - entry.began < HEARD_SECONDS
        if entry.outcome == "running" and _token(entry) != _token(later) and not young and _token(entry) not in heard:
            lost = replace(entry, outcome="lost", seconds=round(later.began - entry.began, 3))
            _end(store, task.stage, lost)


def committed(commit: Commit) -> tuple[Note, dict[str, int]]:
    """Return the note and the sums to put into the job store together with a commit."""
    entry = Entry(
        task=commit.task,
        attempt=commit.attempt,
        outcome="succeeded",
        worker=commit.worker,
        began=round(commit.began, 3),
        seconds=round(commit.seconds, 3),
        records_in=commit.records_in,
        records_out=commit.records_out,
        bytes_in=commit.bytes_in,
        bytes_out=commit.bytes_out,
        bad_records=commit.bad_records,
    )
    stage = TaskId.of(commit).stage
    sums = _sums(
        stage,
        succeeded=1,
        records_in=commit.records_in,
        records_out=commit.records_out,
        bytes_in=commit.bytes_in,
        bytes_out=commit.bytes_out,
        bad_records=commit.bad_records,
        milliseconds=round(commit.seconds * 1000),
    )
    return (table(stage), _name(entry), _text(entry)), sums


def ended(
    store: JobStore,
    task: TaskId,
    attempt: str,
    outcome: Outcome,
    *,
    worker: str,
    seconds: float,
    error: str = "",
) -> None:
    """Record that an attempt ended without its own commit, after this many ``seconds``."""
    began = round(time.time() - seconds, 3)
    entry = Entry(task.task, attempt, outcome, worker, began, round(seconds, 3), error=_short(error))
    _end(store, task.stage, entry)


def killed(store: JobStore, task: TaskId, worker: str, reason: str) -> None:
    """Record that a process (:func:`of_process`) died in an attempt at a task, and why."""
    for entry in _of_task(store, task):
        if entry.outcome == "running" and entry.worker == worker:
            seconds = round(time.time() - entry.began, 3)
            dead = replace(entry, outcome="killed", seconds=seconds, error=_short(reason))
            _end(store, task.stage, dead)


def entries(store: JobStore, stage: StageId) -> list[Entry]:
    """Return all attempts of a stage, ordered by start time."""
    found = [decoder(Entry)(text) for text in store.marks(stage.job, table(stage)).values()]
    found.sort(key=lambda entry: entry.began)
    return found


def sums_of(progress: Mapping[str, int], stage: StageId) -> Sums:
    """Select a stage's sums from its job's, as :meth:`mrcelery.jobstore.base.JobStore.sums` returns them."""
    head = f"{stage.name}."
    return Sums(**{name.removeprefix(head): value for name, value in progress.items() if name.startswith(head)})


def _end(store: JobStore, stage: StageId, entry: Entry) -> None:
    store.set_mark(stage.job, table(stage), _name(entry), _text(entry), add=_sums(stage, **{entry.outcome: 1}))


def _of_task(store: JobStore, task: TaskId) -> list[Entry]:
    found = store.marks(task.job, table(task.stage)).items()
    return [decoder(Entry)(text) for name, text in found if name.startswith(f"{task.task}.")]


def _token(entry: Entry) -> str:
    return entry.attempt.partition("-")[2]


def _name(entry: Entry) -> str:
    # Not the full attempt name: its number is not yet known when its first note is written.
    return f"{entry.task}.{_token(entry)}"


def _text(entry: Entry) -> str:
    return msgspec.json.encode(entry).decode()


def _sums(stage: StageId, **amounts: int) -> dict[str, int]:
    return {f"{stage.name}.{name}": amount for name, amount in amounts.items() if amount}


def _short(error: str) -> str:
    line = mask(writable(error)).strip().partition("\n")[0]
    return line if len(line) <= ERROR_CHARS else line[: ERROR_CHARS - 3] + "..."
