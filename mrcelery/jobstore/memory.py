"""A job store in this process, for the inline runner and for tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from threading import RLock
from time import monotonic
from typing import Any

from mrcelery.jobstore.base import (
    WORKER_TTL,
    Note,
    generation_of,
    in_total,
    is_of_generation,
    is_of_work,
    outlives_generation,
)
from mrcelery.schema.states import FINAL, State
from mrcelery.schema.task_id import StageId, TaskId


class MemoryJobStore:
    """:class:`mrcelery.jobstore.base.JobStore` as dictionaries under a lock."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._fields: dict[str, dict[str, str]] = {}
        self._requests: dict[str, bytes] = {}
        self._attempts: defaultdict[TaskId, int] = defaultdict(int)
        self._excused: defaultdict[TaskId, int] = defaultdict(int)
        self._commits: defaultdict[StageId, dict[int, bytes]] = defaultdict(dict)
        self._bad: defaultdict[tuple[str], dict[TaskId, int]] = defaultdict(dict)
        self._totals: defaultdict[str, int] = defaultdict(int)
        self._sums: defaultdict[tuple[str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._blobs: dict[tuple[str, str], bytes] = {}
        self._marks: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._holders: dict[str, tuple[str, float]] = {}
        self._workers: dict[str, tuple[float, bytes]] = {}
        self._followed: dict[str, float] = {}

    def create(self, job: str, fields: Mapping[str, str], request: bytes) -> bool:
        """Create a job with its encoded request envelope."""
        with self._lock:
            if job in self._fields:
                return False
            self._fields[job] = {**fields, "state": "queued"}
            self._requests[job] = request
            self._totals["jobs.submitted"] += 1
            return True

    def request(self, job: str) -> bytes | None:
        """Return the request envelope."""
        return self._requests.get(job)

    def update(self, job: str, fields: Mapping[str, str]) -> None:
        """Set fields, unless the job is unknown."""
        with self._lock:
            if job in self._fields:
                self._fields[job].update(fields)

    def fields(self, job: str) -> dict[str, str]:
        """Return all fields."""
        with self._lock:
            return dict(self._fields.get(job, {}))

    def head(self, job: str) -> tuple[dict[str, str], dict[str, int]]:
        """Return ``fields`` and ``sums`` in one round trip."""
        return self.fields(job), self.sums(job)

    def state(self, job: str) -> str:
        """Return the state alone, ``""`` for an unknown job."""
        return self._fields.get(job, {}).get("state", "")

    def compared(self, job: str) -> tuple[str, str]:
        """Return the state; this store dies with its process, and is never older than storage."""
        return self.state(job), ""

    def unsure(self, job: str, compared: str) -> str:
        """Return "": this store is sure."""
        return ""

    def note_compared(self, job: str, run: str, *, here: bool = False) -> None:
        """Do nothing."""

    def unsure_jobs(self) -> list[str]:
        """Return none."""
        return []

    def move(
        self, job: str, to: State, fields: Mapping[str, str] | None = None, *, generation: int | None = None
    ) -> bool:
        """Change the state and set fields, atomically."""
        with self._lock:
            known = self._fields.get(job)
            if known is None or known["state"] in FINAL:
                return False
            if generation is not None and generation_of(known) > generation:
                return False
            known.update(fields or {}, state=to)
            if to in FINAL:
                self._totals[f"jobs.{to}"] += 1
            return True

    def revive(self, job: str, generation: int | None = None) -> bool:
        """Have a failed or cancelled job run again, in its next generation."""
        with self._lock:
            known = self._fields.get(job, {})
            anew = known.get("state") == "cancelled"
            if (anew and "cleaned" not in known) or known.get("state") not in ("failed", "cancelled"):
                return False
            following = generation_of(known) + 1
            if generation not in (None, following):
                return False
            self._begin_anew(job, known, following, anew=anew)
            return True

    def advance(self, job: str, generation: int) -> bool:
        """Queue a job in a later generation."""
        with self._lock:
            known = self._fields.get(job, {})
            if not known or generation_of(known) >= generation:
                return False
            self._begin_anew(job, known, generation, anew=True)
            return True

    def _begin_anew(self, job: str, known: dict[str, str], generation: int, *, anew: bool) -> None:
        for name in [n for n in known if is_of_generation(n) or (anew and is_of_work(n))]:
            del known[name]
        known.update(state="queued", revived=str(generation))
        tables: tuple[dict[Any, Any], ...] = (
            self._attempts,
            self._excused,
            *((self._bad, self._sums) if anew else ()),
        )
        for keyed in tables:
            for key in [k for k in keyed if k[0] == job]:
                del keyed[key]
        for marked in [k for k in self._marks if k[0] == job and (anew or not outlives_generation(k[1]))]:
            del self._marks[marked]

    def keep_live(self, job: str) -> None:
        """Do nothing: jobs that have not ended are found by their states."""

    def live(self) -> list[str]:
        """List the ids of jobs that have not ended, as far as the store knows."""
        with self._lock:
            return [job for job, fields in self._fields.items() if fields["state"] not in FINAL]

    def stopping(self) -> list[str]:
        """List the ids of cancelled jobs that are not ``cleaned``."""
        with self._lock:
            return [job for job, f in self._fields.items() if f["state"] == "cancelled" and "cleaned" not in f]

    def next_attempt(self, task: TaskId, *, note: Note | None = None, add: Mapping[str, int] = {}) -> int:
        """Count an attempt as it starts and return its number, from 1."""
        with self._lock:
            self._note(task.job, note, add)
            self._attempts[task] += 1
            return self._attempts[task]

    def excuse_attempt(self, task: TaskId) -> None:
        """Count an attempt that ended through no fault of its own as excused."""
        with self._lock:
            self._excused[task] += 1

    def excused(self, task: TaskId) -> int:
        """Return how many of a task's attempts were excused."""
        with self._lock:
            return self._excused.get(task, 0)

    def poll(self, task: TaskId) -> tuple[str, bool, bool]:
        """Return the job's state, whether the task is committed, and whether someone follows the job's output."""
        followed = monotonic() < self._followed.get(task.job, 0.0)
        return self.state(task.job), task.task in self._commits.get(task.stage, {}), followed

    def follow(self, job: str, seconds: float) -> None:
        """Register, for this many seconds, that someone follows the job's output."""
        self._followed[job] = monotonic() + seconds

    def add_commit(self, task: TaskId, commit: bytes, *, note: Note | None = None, add: Mapping[str, int] = {}) -> None:
        """Remember a task's encoded commit; the first stays."""
        with self._lock:
            known = self._commits[task.stage]
            if task.task not in known:
                known[task.task] = commit
                self._note(task.job, note, add)

    def _note(self, job: str, note: Note | None, add: Mapping[str, int]) -> None:
        if note is not None:
            table, name, text = note
            self._marks[job, table][name] = text
        for name, amount in add.items():
            self._sums[(job,)][name] += amount
        for name, amount in in_total(add).items():
            self._totals[name] += amount

    def totals(self) -> dict[str, int]:
        """Return sums over all jobs, ended ones too, since the store began or was last emptied."""
        with self._lock:
            return dict(self._totals)

    def sums(self, job: str) -> dict[str, int]:
        """Return all of the job's sums by name."""
        with self._lock:
            return dict(self._sums.get((job,), {}))

    def note_bad(self, task: TaskId, records: int) -> int:
        """Remember how many records a committed task has skipped, and return the job's sum."""
        with self._lock:
            skipped = self._bad[(task.job,)]
            skipped[task] = records
            return sum(skipped.values())

    def commits(self, stage: StageId) -> dict[int, bytes]:
        """Return the remembered commits by task."""
        with self._lock:
            return {task: data for task, data in self._commits.get(stage, {}).items() if data}

    def done(self, stage: StageId) -> int:
        """Return how many tasks of a stage have committed."""
        return len(self._commits.get(stage, {}))

    def done_tasks(self, stage: StageId) -> frozenset[int]:
        """Return the tasks of a stage that have committed."""
        with self._lock:
            return frozenset(self._commits.get(stage, {}))

    def set_mark(self, job: str, table: str, name: str, mark: str, *, add: Mapping[str, int] = {}) -> None:
        """Keep a short text under a name in one of the job's tables."""
        with self._lock:
            self._note(job, (table, name, mark), add)

    def marks(self, job: str, table: str) -> dict[str, str]:
        """Return all of a table's marks by name."""
        with self._lock:
            return dict(self._marks.get((job, table), {}))

    def drop_mark(self, job: str, table: str, name: str) -> None:
        """Forget one mark of a table."""
        with self._lock:
            self._marks.get((job, table), {}).pop(name, None)

    def done_and_marks(self, stage: StageId, tables: Sequence[str]) -> tuple[int, list[dict[str, str]]]:
        """Return ``done`` and the ``marks`` of each table in one round trip."""
        return self.done(stage), [self.marks(stage.job, table) for table in tables]

    def hold(self, job: str, owner: str, seconds: float) -> bool:
        """Take the job's lock for this many seconds."""
        with self._lock:
            holder, until = self._holders.get(job, (owner, 0.0))
            if holder != owner and monotonic() < until:
                return False
            self._holders[job] = owner, monotonic() + seconds
            return True

    def put_blob(self, job: str, name: str, data: bytes) -> None:
        """Keep a small object with the job."""
        with self._lock:
            self._blobs[job, name] = data

    def drop_blobs(self, job: str, names: Sequence[str]) -> None:
        """Forget objects that are no longer needed."""
        with self._lock:
            for name in names:
                self._blobs.pop((job, name), None)

    def get_blob(self, job: str, name: str) -> bytes | None:
        """Return a small object."""
        return self._blobs.get((job, name))

    def forget_stage(self, stage: StageId) -> None:
        """Drop a finished stage's commits."""
        with self._lock:
            self._commits.pop(stage, None)

    def jobs(self, limit: int = 100, skip: int = 0) -> list[str]:
        """List job ids, newest first, without the ``skip`` newest."""
        with self._lock:
            newest = sorted(self._fields, key=lambda j: float(self._fields[j].get("created", 0)), reverse=True)
            return newest[skip : skip + limit]

    def drop(self, job: str) -> None:
        """Forget a job."""
        with self._lock:
            self._fields.pop(job, None)
            self._requests.pop(job, None)
            tables: tuple[dict[Any, Any], ...] = (
                self._attempts,
                self._excused,
                self._commits,
                self._bad,
                self._sums,
                self._blobs,
                self._marks,
            )
            for keyed in tables:
                for key in [k for k in keyed if k[0] == job]:
                    del keyed[key]

    def record_worker(self, name: str, about: bytes) -> None:
        """Remember a worker's presence record for :data:`WORKER_TTL` seconds from now."""
        with self._lock:
            self._workers[name] = monotonic(), about

    def workers(self) -> dict[str, tuple[float, bytes]]:
        """Return workers by name."""
        now = monotonic()
        with self._lock:
            known = {name: (now - at, about) for name, (at, about) in self._workers.items()}
        return {name: found for name, found in known.items() if found[0] < WORKER_TTL}

    def drop_worker(self, name: str) -> None:
        """Forget a worker that has stopped."""
        with self._lock:
            self._workers.pop(name, None)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
