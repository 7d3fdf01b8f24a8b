"""The job store seam: the live state of jobs. What must never be lost lies in storage instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mrcelery.schema.states import State
from mrcelery.schema.task_id import StageId, TaskId

TTL = 7 * 24 * 3600
"""Seconds that a job's record outlives its last change."""

WORKER_TTL = 3600
"""Seconds for which a worker that tells nothing any more is remembered."""


Note = tuple[str, str, str]
"""A mark to set together with something else: its table, its name, its text."""


BUCKETS = (100, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000)
"""Upper bounds, in milliseconds, of the times of committed attempts that :meth:`JobStore.totals` counts apart."""


def in_total(add: Mapping[str, int]) -> dict[str, int]:
    """What amounts added to a job's sums, ``<step>.<kind>.<name>``, add to the totals of all jobs."""
    totals: dict[str, int] = {}
    for name, amount in add.items():
        summed = name.partition(".")[2]
        if not summed:
            continue  # of no stage
        totals[summed] = totals.get(summed, 0) + amount
        if summed.endswith(".milliseconds"):
            bound = next((str(bound) for bound in BUCKETS if amount <= bound), "more")
            totals[f"{summed.partition('.')[0]}.within.{bound}"] = 1
    return totals


def outlives_generation(table: str) -> bool:
    """Whether a table of marks stays when a job is tried again: the journal of its attempts."""
    return table.startswith("attempts.")


def is_of_generation(field: str) -> bool:
    """Whether a field tells of one run of a job, and is forgotten when the job is tried again."""
    return field in ("failure", "finished", "retrying", "cleaned") or field.startswith("published.")


def is_of_work(field: str) -> bool:
    """Whether a field tells of committed work, which a cancelled job has none of."""
    return field in ("step", "stage") or field.startswith(("total.", "entered.", "ended.", "summary."))


def generation_of(fields: Mapping[str, str]) -> int:
    """The number of a job's run: how often it was revived."""
    return int(fields.get("revived") or 0)


def generation_argument(generation: int) -> dict[str, int]:
    """The keyword argument of a message that names the run it is of; most jobs have but one, which goes unnamed."""
    return {"generation": generation} if generation else {}


class JobStore(Protocol):
    """Live state of jobs: small, and rebuilt from storage where it is lost.

    ``fields`` of a job are text: ``state``, ``name``, ``owner``, ``created``, ``started``,
    ``finished`` (epoch seconds), ``storage``, ``output``, ``step``, ``stage``, ``total.<step>.<kind>``,
    ``published.<step>.<kind>`` (when all tasks of a stage were on the queue), ``entered.`` and ``ended.``
    likewise (when it began and had all its commits), ``summary.`` (a JSON
    :class:`mrcelery.schema.structs.StageSummary`),
    ``steps`` (JSON: a name and whether it reduces, of each),
    ``failure`` (a JSON :class:`mrcelery.schema.structs.Failure`), ``retrying`` (another, of the last task that is tried
    again), ``cleaned`` (when a cancelled job's data was removed), ``revived`` (how often), ``status`` (the last
    ``set_status``).
    All methods raise :class:`mrcelery.errors.BrokerUnreachableError` where the store does not answer.
    """

    def create(self, job: str, fields: Mapping[str, str], request: bytes) -> bool:
        """Enter a job as ``queued`` with its encoded request envelope; False where the id exists."""
        ...

    def request(self, job: str) -> bytes | None:
        """The request envelope, or None where the job is not known (any more)."""
        ...

    def update(self, job: str, fields: Mapping[str, str]) -> None:
        """Set fields, unless the job is unknown. Never used for ``state``."""
        ...

    def fields(self, job: str) -> dict[str, str]:
        """All fields; empty where the job is not known."""
        ...

    def head(self, job: str) -> tuple[dict[str, str], dict[str, int]]:
        """``fields`` and ``sums`` at once."""
        ...

    def state(self, job: str) -> str:
        """The state alone, ``""`` where the job is not known. Cheap: tasks poll it."""
        ...

    def move(self, job: str, to: State, fields: Mapping[str, str] | None = None) -> bool:
        """Go to a state and set fields, as one step. False, and nothing is set, where the job has
        already ended (or is not known); of two that race to end a job one gets True."""
        ...

    def revive(self, job: str) -> bool:
        """Have a job that failed or was cancelled go on as ``queued``: its failure, its end, what was published
        of it and its count of attempts are forgotten, its commits and the journal are not.

        A cancelled one has no commits, and forgets all but its request; before it is ``cleaned`` it cannot be
        revived. False for any other; of two, one gets True.
        """
        ...

    def live(self) -> list[str]:
        """Ids of jobs that have not ended, as far as the store knows."""
        ...

    def stopping(self) -> list[str]:
        """Ids of cancelled jobs that are not ``cleaned``."""
        ...

    def next_attempt(self, task: TaskId, *, note: Note | None = None, add: Mapping[str, int] = {}) -> int:
        """Count an attempt at its start; 1 for the first. ``note`` and ``add`` go into marks and sums with it."""
        ...

    def excuse_attempt(self, task: TaskId) -> None:
        """Count an attempt that ended for no fault of its own."""
        ...

    def excused(self, task: TaskId) -> int:
        """How many of a task's attempts were."""
        ...

    def poll(self, task: TaskId) -> tuple[str, bool, bool]:
        """The state, whether a commit of the task is remembered, and whether someone follows what the job prints.

        Cheap: attempts ask it as they run.
        """
        ...

    def follow(self, job: str, seconds: float) -> None:
        """Have it known for so long that someone follows what the job prints."""
        ...

    def add_commit(self, task: TaskId, commit: bytes, *, note: Note | None = None, add: Mapping[str, int] = {}) -> None:
        """Remember a task's encoded commit (idempotent; the first stays); b"" for one to be read from storage.

        With the first, and only with that, ``note`` is set and ``add`` added to the job's sums.
        """
        ...

    def note_bad(self, task: TaskId, records: int) -> int:
        """Remember how many records a committed task has skipped (idempotent); returns the job's sum."""
        ...

    def commits(self, stage: StageId) -> dict[int, bytes]:
        """Remembered commits by task; those not there must be read from storage."""
        ...

    def done(self, stage: StageId) -> int:
        """How many commits are remembered for a stage."""
        ...

    def done_tasks(self, stage: StageId) -> frozenset[int]:
        """Tasks of which a commit is remembered."""
        ...

    def sums(self, job: str) -> dict[str, int]:
        """All of the job's sums by name."""
        ...

    def totals(self) -> dict[str, int]:
        """Over all jobs, also those that have ended, since the store began or was last emptied.

        ``jobs.submitted`` and ``jobs.<state>`` for those that ended so; for each kind of task the sums of all jobs as
        ``<kind>.<name>``, and ``<kind>.within.<bound>``, the committed attempts whose milliseconds were above the bound
        before and at most this one (:data:`BUCKETS`, and ``more``). They only grow.
        """
        ...

    def set_mark(self, job: str, table: str, name: str, mark: str, *, add: Mapping[str, int] = {}) -> None:
        """Keep a short text under a name in one of the job's tables; ``add`` is added to the job's sums."""
        ...

    def marks(self, job: str, table: str) -> dict[str, str]:
        """All of a table's marks by name."""
        ...

    def drop_mark(self, job: str, table: str, name: str) -> None: ...

    def done_and_marks(self, stage: StageId, tables: Sequence[str]) -> tuple[int, list[dict[str, str]]]:
        """``done``, and the ``marks`` of each table, at once."""
        ...

    def hold(self, job: str, owner: str, seconds: float) -> bool:
        """Whether ``owner`` is now the one that looks after the job, for so long; its holder may call again."""
        ...

    def put_blob(self, job: str, name: str, data: bytes) -> None:
        """Keep a small object with the job: a bundle, a small input, small results."""
        ...

    def get_blob(self, job: str, name: str) -> bytes | None: ...

    def drop_blobs(self, job: str, names: Sequence[str]) -> None:
        """Forget objects that are no longer needed; those that are not there are no error."""
        ...

    def forget_stage(self, stage: StageId) -> None:
        """Drop a finished stage's commits."""
        ...

    def jobs(self, limit: int = 100, skip: int = 0) -> list[str]:
        """Job ids, newest first, without the ``skip`` newest."""
        ...

    def drop(self, job: str) -> None:
        """Forget a job."""
        ...

    def record_worker(self, name: str, about: bytes) -> None:
        """Remember that a worker lives, and what it tells of itself, for :data:`WORKER_TTL` seconds."""
        ...

    def workers(self) -> dict[str, tuple[float, bytes]]:
        """Workers by name: the seconds since each told of itself, and what it told."""
        ...

    def drop_worker(self, name: str) -> None:
        """Forget a worker, which has stopped."""
        ...

    def close(self) -> None: ...
