"""Job store in this process: for the inline runner and for tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from threading import RLock
from time import monotonic
from typing import Any

from mrcelery.jobstore.base import WORKER_TTL, Note, in_total, is_of_a_run, is_of_work, outlives_a_run
from mrcelery.states import FINAL, State


class MemoryJobStore:
    """:class:`mrcelery.jobstore.base.JobStore` as dictionaries under a lock."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._fields: dict[str, dict[str, str]] = {}
        self._requests: dict[str, bytes] = {}
        self._attempts: defaultdict[tuple[str, int, str, int], int] = defaultdict(int)
        self._commits: defaultdict[tuple[str, int, str], dict[int, bytes]] = defaultdict(dict)
        self._bad: defaultdict[tuple[str], dict[tuple[int, str, int], int]] = defaultdict(dict)
        self._totals: defaultdict[str, int] = defaultdict(int)
        self._sums: defaultdict[tuple[str], defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._blobs: dict[tuple[str, str], bytes] = {}
        self._marks: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._holders: dict[str, tuple[str, float]] = {}
        self._workers: dict[str, tuple[float, bytes]] = {}
        self._followed: dict[str, float] = {}

    def create(self, job: str, fields: Mapping[str, str], request: bytes) -> bool:
        with self._lock:
            if job in self._fields:
                return False
            self._fields[job] = {**fields, "state": "queued"}
            self._requests[job] = request
            self._totals["jobs.submitted"] += 1
            return True

    def request(self, job: str) -> bytes | None:
        return self._requests.get(job)

    def update(self, job: str, fields: Mapping[str, str]) -> None:
        with self._lock:
            if job in self._fields:
                self._fields[job].update(fields)

    def fields(self, job: str) -> dict[str, str]:
        with self._lock:
            return dict(self._fields.get(job, {}))

    def head(self, job: str) -> tuple[dict[str, str], dict[str, int]]:
        return self.fields(job), self.sums(job)

    def state(self, job: str) -> str:
        return self._fields.get(job, {}).get("state", "")

    def move(self, job: str, to: State, fields: Mapping[str, str] | None = None) -> bool:
        with self._lock:
            known = self._fields.get(job)
            if known is None or known["state"] in FINAL:
                return False
            known.update(fields or {}, state=to)
            if to in FINAL:
                self._totals[f"jobs.{to}"] += 1
            return True

    def revive(self, job: str) -> bool:
        with self._lock:
            known = self._fields.get(job, {})
            anew = known.get("state") == "cancelled"
            if (anew and "cleaned" not in known) or known.get("state") not in ("failed", "cancelled"):
                return False
            for name in [n for n in known if is_of_a_run(n) or (anew and is_of_work(n))]:
                del known[name]
            known.update(state="queued", revived=str(int(known.get("revived", 0)) + 1))
            tables: tuple[dict[Any, Any], ...] = (self._attempts, *((self._bad, self._sums) if anew else ()))
            for keyed in tables:
                for key in [k for k in keyed if k[0] == job]:
                    del keyed[key]
            for marked in [k for k in self._marks if k[0] == job and (anew or not outlives_a_run(k[1]))]:
                del self._marks[marked]
            return True

    def live(self) -> list[str]:
        with self._lock:
            return [job for job, fields in self._fields.items() if fields["state"] not in FINAL]

    def stopping(self) -> list[str]:
        with self._lock:
            return [job for job, f in self._fields.items() if f["state"] == "cancelled" and "cleaned" not in f]

    def next_attempt(
        self, job: str, step: int, kind: str, task: int, *, note: Note | None = None, add: Mapping[str, int] = {}
    ) -> int:
        with self._lock:
            self._note(job, note, add)
            self._attempts[job, step, kind, task] += 1
            return self._attempts[job, step, kind, task]

    def excuse_attempt(self, job: str, step: int, kind: str, task: int) -> None:
        with self._lock:
            self._attempts[job, step, f"{kind}.excused", task] += 1

    def excused(self, job: str, step: int, kind: str, task: int) -> int:
        with self._lock:
            return self._attempts.get((job, step, f"{kind}.excused", task), 0)

    def look(self, job: str, step: int, kind: str, task: int) -> tuple[str, bool, bool]:
        followed = monotonic() < self._followed.get(job, 0.0)
        return self.state(job), task in self._commits.get((job, step, kind), {}), followed

    def follow(self, job: str, seconds: float) -> None:
        self._followed[job] = monotonic() + seconds

    def add_commit(
        self,
        job: str,
        step: int,
        kind: str,
        task: int,
        commit: bytes,
        *,
        note: Note | None = None,
        add: Mapping[str, int] = {},
    ) -> None:
        with self._lock:
            known = self._commits[job, step, kind]
            if task not in known:
                known[task] = commit
                self._note(job, note, add)

    def _note(self, job: str, note: Note | None, add: Mapping[str, int]) -> None:
        if note is not None:
            table, name, text = note
            self._marks[job, table][name] = text
        for name, amount in add.items():
            self._sums[(job,)][name] += amount
        for name, amount in in_total(add).items():
            self._totals[name] += amount

    def totals(self) -> dict[str, int]:
        with self._lock:
            return dict(self._totals)

    def sums(self, job: str) -> dict[str, int]:
        with self._lock:
            return dict(self._sums.get((job,), {}))

    def note_bad(self, job: str, step: int, kind: str, task: int, records: int) -> int:
        with self._lock:
            self._bad[(job,)][step, kind, task] = records
            return sum(self._bad[(job,)].values())

    def commits(self, job: str, step: int, kind: str) -> dict[int, bytes]:
        with self._lock:
            return {task: data for task, data in self._commits.get((job, step, kind), {}).items() if data}

    def done(self, job: str, step: int, kind: str) -> int:
        return len(self._commits.get((job, step, kind), {}))

    def done_tasks(self, job: str, step: int, kind: str) -> frozenset[int]:
        with self._lock:
            return frozenset(self._commits.get((job, step, kind), {}))

    def set_mark(self, job: str, table: str, name: str, mark: str, *, add: Mapping[str, int] = {}) -> None:
        with self._lock:
            self._note(job, (table, name, mark), add)

    def marks(self, job: str, table: str) -> dict[str, str]:
        with self._lock:
            return dict(self._marks.get((job, table), {}))

    def drop_mark(self, job: str, table: str, name: str) -> None:
        with self._lock:
            self._marks.get((job, table), {}).pop(name, None)

    def done_and_marks(self, job: str, step: int, kind: str, tables: Sequence[str]) -> tuple[int, list[dict[str, str]]]:
        return self.done(job, step, kind), [self.marks(job, table) for table in tables]

    def hold(self, job: str, owner: str, seconds: float) -> bool:
        with self._lock:
            holder, until = self._holders.get(job, (owner, 0.0))
            if holder != owner and monotonic() < until:
                return False
            self._holders[job] = owner, monotonic() + seconds
            return True

    def put_blob(self, job: str, name: str, data: bytes) -> None:
        with self._lock:
            self._blobs[job, name] = data

    def drop_blobs(self, job: str, names: Sequence[str]) -> None:
        with self._lock:
            for name in names:
                self._blobs.pop((job, name), None)

    def get_blob(self, job: str, name: str) -> bytes | None:
        return self._blobs.get((job, name))

    def forget_stage(self, job: str, step: int, kind: str) -> None:
        with self._lock:
            self._commits.pop((job, step, kind), None)

    def jobs(self, limit: int = 100, skip: int = 0) -> list[str]:
        with self._lock:
            newest = sorted(self._fields, key=lambda j: float(self._fields[j].get("created", 0)), reverse=True)
            return newest[skip : skip + limit]

    def drop(self, job: str) -> None:
        with self._lock:
            self._fields.pop(job, None)
            self._requests.pop(job, None)
            tables: tuple[dict[Any, Any], ...] = (
                self._attempts,
                self._commits,
                self._bad,
                self._sums,
                self._blobs,
                self._marks,
            )
            for keyed in tables:
                for key in [k for k in keyed if k[0] == job]:
                    del keyed[key]

    def tell_worker(self, name: str, about: bytes) -> None:
        with self._lock:
            self._workers[name] = monotonic(), about

    def workers(self) -> dict[str, tuple[float, bytes]]:
        now = monotonic()
        with self._lock:
            told = {name: (now - at, about) for name, (at, about) in self._workers.items()}
        return {name: found for name, found in told.items() if found[0] < WORKER_TTL}

    def drop_worker(self, name: str) -> None:
        with self._lock:
            self._workers.pop(name, None)

    def close(self) -> None:
        """Nothing to close."""
