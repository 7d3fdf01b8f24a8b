"""The output of a job's attempts: kept in storage, and followed while they run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from mrcelery.jobstore import journal, stage_marks
from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.journal import Entry
from mrcelery.reporting.overview import Overview, StageView
from mrcelery.schema import object_keys
from mrcelery.schema.object_keys import LEFT_OUT
from mrcelery.schema.states import RETRIED
from mrcelery.schema.structs import Kind
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage.base import Storage

_KEY = re.compile(r".*/step-(?P<step>\d+)/(?P<kind>map|reduce)-(?P<task>\d+)/log\.(?P<attempt>[^/]+)")

_REREAD = 256
"""Bytes read again before new output, to find the position in a log whose middle was left out since."""


@dataclass(frozen=True)
class Attempt:
    """An attempt with output, and how it ended, if known."""

    step: int
    kind: Kind
    task: int
    attempt: str
    outcome: str = ""
    error: str = ""
    worker: str = ""

    @property
    def ending(self) -> str:
        """Return why the attempt did not succeed; "" if it did or still runs."""
        if self.outcome == "failed":
            return f"failed: {self.error}"
        if self.outcome == "killed":
            return f"its process died, and its last output was lost: {self.error or 'killed'}"
        return "its worker died or fell silent, and its last output was lost" if self.outcome == "lost" else ""


@dataclass(frozen=True)
class LogFilter:
    """Selects attempts; None selects all."""

    step: int | None = None
    kind: str | None = None
    task: int | None = None
    attempt: str | None = None
    """The name as listed, its number, or its random part."""
    failed: bool = False

    def stage(self, step: int, kind: str) -> bool:
        """Return whether the filter selects any attempts of a stage."""
        return self.step in (None, step) and self.kind in (None, kind)

    def takes(self, one: Attempt) -> bool:
        """Return whether the filter selects this attempt."""
        number, _, token = one.attempt.partition("-")
        return (
            self.stage(one.step, one.kind)
            and self.task in (None, one.task)
            and self.attempt in (None, one.attempt, number, token)
            and (not self.failed or one.outcome in RETRIED)
        )


def listed(
    storage: Storage, job: str, found: Overview | None, wanted: LogFilter
) -> Iterator[tuple[Attempt, str | None]]:
    """Iterate over attempts and their logs' keys, by step, stage and task; a failed one without a log has the key None.

    ``found``, with its attempts, gives each attempt's end; without it, that is not known.
    """
    known: dict[tuple[int, str, int, str], Attempt] = {
        (stage.step, stage.kind, one.task, _token(one.attempt)): _of(stage.step, stage.kind, one)
        for stage in (found.stages if found is not None else ())
        for one in stage.attempts
    }
    failed = [one for one in known.values() if one.outcome in RETRIED]
    failed.sort(key=lambda one: (one.step, one.kind, one.task, one.attempt))
    prefix = object_keys.job_root(job) if wanted.step is None else object_keys.step_root(job, wanted.step)
    logs = _logs(storage, prefix)
    for one, key in _merged(logs, known, failed):
        if wanted.takes(one):
            yield one, key


def _logs(storage: Storage, prefix: str) -> Iterator[tuple[Attempt, str]]:
    for info in storage.list(prefix):
        if match := _KEY.fullmatch(info.key):
            yield (
                Attempt(int(match["step"]), cast("Kind", match["kind"]), int(match["task"]), match["attempt"]),
                info.key,
            )


def _merged(
    logs: Iterable[tuple[Attempt, str]], known: dict[tuple[int, str, int, str], Attempt], failed: list[Attempt]
) -> Iterator[tuple[Attempt, str | None]]:
    """Add to each log how its attempt ended, and insert failed attempts without a log at their position."""
    left = list(failed)
    for one, key in logs:
        entry = known.get((one.step, one.kind, one.task, _token(one.attempt)))
        while left and (left[0].step, left[0].kind, left[0].task) < (one.step, one.kind, one.task):
            yield left.pop(0), None
        if entry is not None:
            left = [other for other in left if other is not entry]
            one = replace(entry, attempt=one.attempt)
        yield one, key
    yield from ((one, None) for one in left)


def _of(step: int, kind: Kind, entry: Entry) -> Attempt:
    return Attempt(step, kind, entry.task, entry.attempt.lstrip("-"), entry.outcome, entry.error, entry.worker)


def _token(attempt: str) -> str:
    return attempt.rpartition("-")[2]


class Follower:
    """Reads the output of a running job's attempts, as they share it.

    While it reads, attempts write their output so far to storage: see :mod:`mrcelery.attempt.output_capture`.
    """

    def __init__(self, store: JobStore, storage: Storage, job: str, wanted: LogFilter) -> None:
        self._store = store
        self._storage = storage
        self._job = job
        self._wanted = wanted
        self._offsets: dict[str, int] = {}
        self._tail: dict[str, bytes] = {}
        self._ended: set[tuple[int, str, str]] = set()
        self._over: set[tuple[int, str]] = set()

    def read(self, stages: Iterable[StageView], seconds: float) -> Iterator[tuple[Attempt, bytes]]:
        """Read new output, of a running attempt in whole lines; ask attempts to share theirs for ``seconds`` more."""
        self._store.follow(self._job, seconds)
        for stage in stages:
            if not self._wanted.stage(stage.step, stage.kind) or (stage.step, stage.kind) in self._over:
                continue
            if stage.state == "queued":
                continue
            names = stage_marks.attempts(self._store, StageId(self._job, stage.step, stage.kind))
            for entry in journal.entries(self._store, StageId(self._job, stage.step, stage.kind)):
                token = _token(entry.attempt)
                # A running attempt is journaled without its number.
                attempt = entry.attempt.lstrip("-") if entry.attempt[0] != "-" else names.get(token, token)
                yield from self._attempt(stage, entry, attempt)
            if stage.state != "running":
                self._over.add((stage.step, stage.kind))

    def _attempt(self, stage: StageView, entry: Entry, attempt: str) -> Iterator[tuple[Attempt, bytes]]:
        mark = (stage.step, stage.kind, f"{entry.task}.{_token(attempt)}")
        if mark in self._ended:
            return
        one = replace(_of(stage.step, stage.kind, entry), attempt=attempt)
        if entry.outcome != "running":
            self._ended.add(mark)
        if not self._wanted.takes(one):
            return
        key = object_keys.log(TaskId(self._job, one.step, one.kind, one.task), one.attempt)
        if new := self._new(key, whole_lines=entry.outcome == "running"):
            yield one, new
        if one.ending:
            yield one, f"[{one.ending}]\n".encode()

    def _new(self, key: str, *, whole_lines: bool) -> bytes:
        """Read the new part of a log."""
        at, tail = self._offsets.get(key, 0), self._tail.get(key, b"")
        info = self._storage.stat(key)
        if info is None or info.size == at:
            return b""
        new = self._storage.read(key, at - len(tail)) if info.size > at else b""
        if new.startswith(tail) and new:
            new = new[len(tail) :]
        else:  # its middle was left out since, and the new part starts somewhere before its end
            text = self._storage.read(key)
            where = text.rfind(tail)
            # Or that position was left out, too.
            new = text[where + len(tail) :] if where >= 0 else text[text.rfind(LEFT_OUT) + 1 :]
            at = len(text) - len(new)
        if whole_lines:
            new = new[: new.rfind(b"\n") + 1]
        self._offsets[key] = at + len(new)
        self._tail[key] = (tail + new)[-_REREAD:]
        return new
