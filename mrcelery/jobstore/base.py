"""The job store's protocol: the live state of jobs. Data that must never be lost is in storage instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mrcelery.schema.states import State
from mrcelery.schema.task_id import StageId, TaskId

TTL = 7 * 24 * 3600
"""Seconds that a job's record outlives its last change."""

WORKER_TTL = 3600
"""Seconds for which a worker is remembered after its last report."""


Note = tuple[str, str, str]
"""A mark to set in the same step as another change: its table, its name, its text."""


BUCKETS = (100, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000)
"""Upper bounds, in milliseconds, of the histogram of committed attempts' times in :meth:`JobStore.totals`."""


def in_total(add: Mapping[str, int]) -> dict[str, int]:
    """Convert amounts added to a job's sums, ``<step>.<kind>.<name>``, to amounts added to the totals of all jobs."""
    totals: dict[str, int] = {}
    for name, amount in add.items():
        summed = name.partition(".")[2]
        if not summed:
            continue  # belongs to no stage
        totals[summed] = totals.get(summed, 0) + amount
        if summed.endswith(".milliseconds"):
            bound = next((str(bound) for bound in BUCKETS if amount <= bound), "more")
            totals[f"{summed.partition('.')[0]}.within.{bound}"] = 1
    return totals


def outlives_generation(table: str) -> bool:
    """Check whether a table of marks is kept when a job is retried: the journal of its attempts is."""
    return table.startswith("attempts.")


def is_of_generation(field: str) -> bool:
    """Check whether a field describes one generation of a job, and is dropped when the job is retried."""
    return field in ("failure", "finished", "retrying", "cleaned", "compared", "removed") or field.startswith(
        "published."
    )


def is_of_work(field: str) -> bool:
    """Check whether a field describes committed work; a cancelled job has none."""
    return field in ("step", "stage") or field.startswith(("total.", "entered.", "ended.", "summary.", "cut."))


def generation_of(fields: Mapping[str, str]) -> int:
    """Return a job's generation: how often it was revived, 0 for a job that was never retried."""
    return int(fields.get("revived") or 0)


def generation_argument(generation: int) -> dict[str, int]:
    """Return the keyword argument that names a message's generation; the first generation goes unnamed."""
    return {"generation": generation} if generation else {}


class JobStore(Protocol):
    """Live state of jobs: small, and rebuilt from storage if it is lost.

    ``fields`` of a job are text: ``state``, ``name``, ``owner``, ``created``, ``started``,
    ``finished`` (epoch seconds), ``storage``, ``output``, ``step``, ``stage``, ``total.<step>.<kind>``,
    ``published.<step>.<kind>`` (when all tasks of a stage were on the queue), ``entered.`` and ``ended.``
    likewise (when it began and had all its commits), ``summary.`` (a JSON
    :class:`mrcelery.schema.structs.StageSummary`), ``cut.`` (the same of a stage whose commits were removed with its
    cancelled job's data), ``steps`` (JSON: each step's name and whether it reduces), ``failure`` (a JSON
    :class:`mrcelery.schema.structs.Failure`), ``retrying`` (another, of the last task that is retried), ``cleaned``
    (when a cancelled job's data was removed), ``revived`` (how often), ``status`` (the last ``set_status``),
    ``compared`` (in which run of the store's server the job was last compared with storage), ``removed`` (when its
    data was found to be gone from storage).

    All methods raise :class:`mrcelery.errors.BrokerUnreachableError` if the store does not answer.
    """

    def create(self, job: str, fields: Mapping[str, str], request: bytes) -> bool:
        """Register a job as ``queued`` with its encoded request envelope; False if the id exists."""
        ...

    def request(self, job: str) -> bytes | None:
        """Return the request envelope; None for a job that the store does not know, or no longer knows."""
        ...

    def update(self, job: str, fields: Mapping[str, str]) -> None:
        """Set fields, unless the job is unknown. Never used for ``state``."""
        ...

    def fields(self, job: str) -> dict[str, str]:
        """Return all fields; an empty dict for an unknown job."""
        ...

    def head(self, job: str) -> tuple[dict[str, str], dict[str, int]]:
        """Return ``fields`` and ``sums`` in one round trip."""
        ...

    def state(self, job: str) -> str:
        """Return the state alone, ``""`` for an unknown job. Cheap: tasks poll it."""
        ...

    def compared(self, job: str) -> tuple[str, str]:
        """Return ``state`` and, with it, ``compared``. As cheap as ``state``: each task calls it as it begins."""
        ...

    def unsure(self, job: str, compared: str) -> str:
        """Return the run of the answering server, if the job was not ``compared`` in it; "" if the store is sure.

        A server that has restarted, or that has replaced another one, may know less than before; so may a store that
        was emptied, about an unknown job. Costs nothing while the connection holds.
        """
        ...

    def note_compared(self, job: str, run: str, *, here: bool = False) -> None:
        """Record that the store's knowledge of a job was compared with storage; ``here``: for this process alone."""
        ...

    def unsure_jobs(self) -> list[str]:
        """List the ids of failed and cancelled jobs about which the store is not sure; ``live`` covers the others."""
        ...

    def move(
        self, job: str, to: State, fields: Mapping[str, str] | None = None, *, generation: int | None = None
    ) -> bool:
        """Change the state and set fields, atomically.

        False, and nothing is set, if the job has already ended, is unknown, or is in a later generation than the one
        given; of two that race to end a job, one gets True.
        """
        ...

    def revive(self, job: str, generation: int | None = None) -> bool:
        """Queue a failed or cancelled job again; forget its failure, its end, what was published of it and its attempt
        counts, but not its commits and its journal.

        A cancelled job has no commits, and forgets all but its request; it cannot be revived before it is ``cleaned``.
        False for any other job, and if ``generation`` is not the job's next one; of two callers, one gets True.
        """
        ...

    def advance(self, job: str, generation: int) -> bool:
        """Queue a job in a later generation that the store had forgotten; drop everything but its request.

        False if the job is unknown, or in that generation or a later one.
        """
        ...

    def keep_live(self, job: str) -> None:
        """List an unfinished job among the ``live`` ones, if only that entry was lost."""
        ...

    def live(self) -> list[str]:
        """List the ids of jobs that have not ended, as far as the store knows."""
        ...

    def stopping(self) -> list[str]:
        """List the ids of cancelled jobs that are not ``cleaned``."""
        ...

    def next_attempt(self, task: TaskId, *, note: Note | None = None, add: Mapping[str, int] = {}) -> int:
        """Count an attempt as it starts and return its number, from 1; ``note`` is set and ``add`` added with it."""
        ...

    def excuse_attempt(self, task: TaskId) -> None:
        """Count an attempt that ended through no fault of its own as excused."""
        ...

    def excused(self, task: TaskId) -> int:
        """Return how many of a task's attempts were excused."""
        ...

    def poll(self, task: TaskId) -> tuple[str, bool, bool]:
        """Return the job's state, whether the task is committed, and whether someone follows the job's output.

        Cheap: attempts call it as they run. Raises :class:`mrcelery.errors.BrokerUnreachableError` at once.
        """
        ...

    def follow(self, job: str, seconds: float) -> None:
        """Register, for this many seconds, that someone follows the job's output."""
        ...

    def add_commit(self, task: TaskId, commit: bytes, *, note: Note | None = None, add: Mapping[str, int] = {}) -> None:
        """Remember a task's encoded commit (idempotent; the first stays); b"" for one to be read from storage.

        Only with the first commit, ``note`` is set and ``add`` added to the job's sums.
        """
        ...

    def note_bad(self, task: TaskId, records: int) -> int:
        """Remember how many records a committed task has skipped (idempotent); return the job's sum."""
        ...

    def commits(self, stage: StageId) -> dict[int, bytes]:
        """Return the remembered commits by task; missing ones must be read from storage."""
        ...

    def done(self, stage: StageId) -> int:
        """Return how many tasks of a stage have committed."""
        ...

    def done_tasks(self, stage: StageId) -> frozenset[int]:
        """Return the tasks of a stage that have committed."""
        ...

    def sums(self, job: str) -> dict[str, int]:
        """Return all of the job's sums by name."""
        ...

    def totals(self) -> dict[str, int]:
        """Return sums over all jobs, ended ones too, since the store began or was last emptied.

        ``jobs.submitted``, and ``jobs.<state>`` for jobs that ended in that state; for each kind of task the sums of
        all jobs as ``<kind>.<name>``, and ``<kind>.within.<bound>``, the committed attempts whose milliseconds were
        above the previous bound and at most this one (:data:`BUCKETS`, and ``more``). They only grow.
        """
        ...

    def set_mark(self, job: str, table: str, name: str, mark: str, *, add: Mapping[str, int] = {}) -> None:
        """Keep a short text under a name in one of the job's tables; ``add`` is added to the job's sums."""
        ...

    def marks(self, job: str, table: str) -> dict[str, str]:
        """Return all of a table's marks by name."""
        ...

    def drop_mark(self, job: str, table: str, name: str) -> None:
        """Forget one mark of a table."""
        ...

    def done_and_marks(self, stage: StageId, tables: Sequence[str]) -> tuple[int, list[dict[str, str]]]:
        """Return ``done`` and the ``marks`` of each table in one round trip."""
        ...

    def hold(self, job: str, owner: str, seconds: float) -> bool:
        """Take the job's lock for this many seconds; True if ``owner`` holds it now. A holder may renew it."""
        ...

    def put_blob(self, job: str, name: str, data: bytes) -> None:
        """Keep a small object with the job: a bundle, a small input, small results."""
        ...

    def get_blob(self, job: str, name: str) -> bytes | None:
        """Return a small object; None if it is not there."""
        ...

    def drop_blobs(self, job: str, names: Sequence[str]) -> None:
        """Forget objects that are no longer needed; missing ones are ignored."""
        ...

    def forget_stage(self, stage: StageId) -> None:
        """Drop a finished stage's commits."""
        ...

    def jobs(self, limit: int = 100, skip: int = 0) -> list[str]:
        """List job ids, newest first, without the ``skip`` newest."""
        ...

    def drop(self, job: str) -> None:
        """Forget a job."""
        ...

    def record_worker(self, name: str, about: bytes) -> None:
        """Remember a worker's presence record for :data:`WORKER_TTL` seconds from now."""
        ...

    def workers(self) -> dict[str, tuple[float, bytes]]:
        """Return workers by name: the seconds since each was last recorded, and its presence record."""
        ...

    def drop_worker(self, name: str) -> None:
        """Forget a worker that has stopped."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
