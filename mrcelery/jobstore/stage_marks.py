"""Short texts about the tasks of a stage that the job store keeps, a table of them per stage.

==============================  ====================  =================================================
table                           name                  text
==============================  ====================  =================================================
``running.<step>.<kind>``       ``<task>.<attempt>``  start and now (epoch seconds), records, worker, process
``rates.<step>.<kind>``         a small number        records a second of a task that has committed
``repairs.<step>.<kind>``       a task or a step      times published again, and when last; of the kind barrier:
                                                      a map task that ran again since its run was damaged
``backups.<step>.<kind>``       a task                when its backup was started
==============================  ====================  =================================================
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from mrcelery.jobstore.base import JobStore
from mrcelery.schema.stragglers import Republished, Running
from mrcelery.schema.structs import Commit
from mrcelery.schema.task_id import StageId, TaskId

SAMPLE = 64
"""Rates kept of a stage, however many tasks it has."""

SHORT = 0.1
"""Seconds of a task whose rate says nothing: it is over before one could be backed up."""

QUIET = 3.0
"""Seconds after which an attempt that has not told again is not taken for one that runs; it tells each second."""


def report_running(store: JobStore, task: TaskId, attempt: str, *, began: float, records: int, worker: str) -> None:
    """Say that an attempt runs, since when (epoch seconds), how many records it has taken, and where."""
    text = f"{began:.3f} {time.time():.3f} {records} {worker}"
    store.set_mark(task.job, f"running.{task.stage.name}", f"{task.task}.{attempt}", text)


def drop_running(store: JobStore, task: TaskId, attempt: str) -> None:
    """Take that back."""
    store.drop_mark(task.job, f"running.{task.stage.name}", f"{task.task}.{attempt}")


def drop_dead(store: JobStore, task: TaskId, worker: str) -> None:
    """Take it back for an attempt whose process died; another one of the task, of this worker, tells again."""
    table = f"running.{task.stage.name}"
    for name, text in store.marks(task.job, table).items():
        if name.partition(".")[0] == str(task.task) and text.split(" ", 3)[3] == worker:
            store.drop_mark(task.job, table, name)


def running(store: JobStore, stage: StageId, now: float) -> tuple[Running, ...]:
    """The attempts of a stage that have told that they run."""
    return _running(store.marks(stage.job, f"running.{stage.name}"), now)


def attempts(store: JobStore, stage: StageId) -> dict[str, str]:
    """Names of the attempts that have told that they run, by their random part."""
    names = store.marks(stage.job, f"running.{stage.name}")
    return {name.rpartition("-")[2]: name.partition(".")[2] for name in names}


def _running(table: Mapping[str, str], now: float) -> tuple[Running, ...]:
    found = []
    for name, text in table.items():
        began, told, records, worker = text.split(" ", 3)
        task, _, attempt = name.partition(".")
        seconds, quiet = max(0.001, now - float(began)), max(0.0, now - float(told))
        host, token = worker.partition(" ")[0], attempt.partition("-")[2]
        found.append(Running(int(task), host, seconds, int(records), quiet, token, worker))
    return tuple(found)


def not_failed(store: JobStore, task: TaskId) -> int:
    """Starts of a task that are no failed attempts: its backup, those that still run, and those that were excused."""
    alive = [one for one in running(store, task.stage, time.time()) if one.task == task.task and one.quiet < QUIET]
    return (task.task in backups(store, task.stage)) + len(alive) + store.excused(task)


def record_rate(store: JobStore, commit: Commit) -> None:
    """Keep how quick a task was, as one of a sample."""
    if commit.seconds >= SHORT and commit.records_in:
        rate = commit.records_in / commit.seconds
        store.set_mark(commit.job, f"rates.{commit.step}.{commit.kind}", str(commit.task % SAMPLE), f"{rate:.6g}")


def rates(store: JobStore, stage: StageId) -> list[float]:
    """Records a second of a sample of a stage's tasks."""
    return _rates(store.marks(stage.job, f"rates.{stage.name}"))


def _rates(table: Mapping[str, str]) -> list[float]:
    return [float(text) for text in table.values()]


def note_republished(store: JobStore, job: str, step: int, what: str, name: str, again: Republished) -> None:
    """Note that something was published again."""
    store.set_mark(job, f"repairs.{step}.{what}", name, f"{again.times} {again.last:.3f}")


def republished(store: JobStore, job: str, step: int, what: str) -> dict[str, Republished]:
    """What was published again in a stage."""
    found = {}
    for name, text in store.marks(job, f"repairs.{step}.{what}").items():
        times, last = text.split(" ")
        found[name] = Republished(int(times), float(last))
    return found


def record_backup(store: JobStore, task: TaskId, now: float) -> None:
    """Note that a task got its backup: it may start once more than others."""
    store.set_mark(task.job, f"backups.{task.stage.name}", str(task.task), f"{now:.3f}")


def backups(store: JobStore, stage: StageId) -> frozenset[int]:
    """Tasks that got a backup."""
    return frozenset(map(int, store.marks(stage.job, f"backups.{stage.name}")))


class Glimpse(NamedTuple):
    """What one look at a stage tells: commits that are remembered, and what running attempts and their like say."""

    done: int
    running: tuple[Running, ...]
    rates: list[float]
    backups: frozenset[int]


def glimpse(store: JobStore, stage: StageId, now: float) -> Glimpse:
    """A stage in one round trip."""
    tables = [f"{name}.{stage.name}" for name in ("running", "rates", "backups")]
    done, (running, rates, backups) = store.done_and_marks(stage, tables)
    return Glimpse(done, _running(running, now), _rates(rates), frozenset(map(int, backups)))
