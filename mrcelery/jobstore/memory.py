"""Job store in this process: for the inline runner and for tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from threading import RLock
from typing import Any

from mrcelery.jobstore.base import FINAL, State


class MemoryJobStore:
    """:class:`mrcelery.jobstore.base.JobStore` as dictionaries under a lock."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._fields: dict[str, dict[str, str]] = {}
        self._requests: dict[str, bytes] = {}
        self._attempts: defaultdict[tuple[str, int, str, int], int] = defaultdict(int)
        self._commits: defaultdict[tuple[str, int, str], dict[int, bytes]] = defaultdict(dict)
        self._bad: defaultdict[tuple[str], dict[tuple[int, str, int], int]] = defaultdict(dict)
        self._blobs: dict[tuple[str, str], bytes] = {}

    def create(self, job: str, fields: Mapping[str, str], request: bytes) -> bool:
        with self._lock:
            if job in self._fields:
                return False
            self._fields[job] = {**fields, "state": "submitted"}
            self._requests[job] = request
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

    def state(self, job: str) -> str:
        return self._fields.get(job, {}).get("state", "")

    def move(self, job: str, to: State, fields: Mapping[str, str] | None = None) -> bool:
        with self._lock:
            known = self._fields.get(job)
            if known is None or known["state"] in FINAL:
                return False
            known.update(fields or {}, state=to)
            return True

    def next_attempt(self, job: str, step: int, kind: str, task: int) -> int:
        with self._lock:
            self._attempts[job, step, kind, task] += 1
            return self._attempts[job, step, kind, task]

    def add_commit(self, job: str, step: int, kind: str, task: int, commit: bytes) -> None:
        with self._lock:
            self._commits[job, step, kind].setdefault(task, commit)

    def note_bad(self, job: str, step: int, kind: str, task: int, records: int) -> int:
        with self._lock:
            self._bad[(job,)][step, kind, task] = records
            return sum(self._bad[(job,)].values())

    def commits(self, job: str, step: int, kind: str) -> dict[int, bytes]:
        with self._lock:
            return dict(self._commits.get((job, step, kind), {}))

    def done(self, job: str, step: int, kind: str) -> int:
        return len(self._commits.get((job, step, kind), {}))

    def put_blob(self, job: str, name: str, data: bytes) -> None:
        with self._lock:
            self._blobs[job, name] = data

    def get_blob(self, job: str, name: str) -> bytes | None:
        return self._blobs.get((job, name))

    def forget_stage(self, job: str, step: int, kind: str) -> None:
        with self._lock:
            self._commits.pop((job, step, kind), None)

    def jobs(self, limit: int = 100) -> list[str]:
        with self._lock:
            return sorted(self._fields, key=lambda j: float(self._fields[j].get("created", 0)), reverse=True)[:limit]

    def drop(self, job: str) -> None:
        with self._lock:
            self._fields.pop(job, None)
            self._requests.pop(job, None)
            tables: tuple[dict[Any, Any], ...] = (self._attempts, self._commits, self._bad, self._blobs)
            for keyed in tables:
                for key in [k for k in keyed if k[0] == job]:
                    del keyed[key]

    def close(self) -> None:
        """Nothing to close."""
