"""Short texts about the tasks of a stage that the job store keeps, a table of them per stage.

==============================  ====================  =================================================
table                           name                  text
==============================  ====================  =================================================
``running.<step>.<kind>``       ``<task>.<attempt>``  start and now (epoch seconds), records, worker, process
``rates.<step>.<kind>``         a small number        records a second of a task that has committed
``repairs.<step>.<kind>``       a task or a step      times republished, and when last; for the kind barrier:
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
"""A task shorter than this many seconds gives no useful rate: it is over before it could be backed up."""

QUIET = 3.0
"""Seconds after its last report for which an attempt counts as running; it reports every second."""


def report_running(store: JobStore, task: TaskId, attempt: str, *, began: float, records: int, worker: str) -> None:
    """Report that an attempt runs: since when (epoch seconds), how many records it has taken, and where."""
    text = f"{began:.3f} {time.time():.3f} {records} {worker}"
    store.set_mark(task.job, f"running.{task.stage.name}", f"{task.task}.{attempt}", text)


def drop_running(store: JobStore, task: TaskId, attempt: str) -> None:
    """Remove the report of an attempt that has ended."""
    store.drop_mark(task.job, f"running.{task.stage.name}", f"{task.task}.{attempt}")


def drop_dead(store: JobStore, task: TaskId, worker: str) -> None:
    """Remove the report of an attempt whose process died.

    A second attempt at the task on this worker reports itself again at its next poll.
    """
    table = f"running.{task.stage.name}"
    for name, text in store.marks(task.job, table).items():
        if name.partition(".")[0] == str(task.task) and text.split(" ", 3)[3] == worker:
            store.drop_mark(task.job, table, name)


def running(store: JobStore, stage: StageId, now: float) -> tuple[Running, ...]:
    """Return the attempts of a stage that have reported that they run."""
    return _running(store.marks(stage.job, f"running.{stage.name}"), now)


def attempts(store: JobStore, stage: StageId) -> dict[str, str]:
    """Return the names of the attempts that have reported that they run, by their random part."""
    names = store.marks(stage.job, f"running.{stage.name}")
    return {name.rpartition("-")[2]: name.partition(".")[2] for name in names}


def _running(table: Mapping[str, str], now: float) -> tuple[Running, ...]:
    found = []
    for name, text in table.items():
        began, reported, records, worker = text.split(" ", 3)
        task, _, attempt = name.partition(".")
        seconds, quiet = max(0.001, now - float(began)), max(0.0, now - float(reported))
        host, token = worker.partition(" ")[0], attempt.partition("-")[2]
        found.append(Running(int(task), host, seconds, int(records), quiet, token, worker))
    return tuple(found)


def not_failed(store: JobStore, task: TaskId) -> int:
    """Count the starts of a task that are not failed attempts: its backup, running attempts, excused ones."""
    alive = [one for one in running(store, task.stage, time.time()) if one.task == task.task and one.quiet < QUIET]
    return (task.task in backups(store, task.stage)) + len(alive) + store.excused(task)


def record_rate(store: JobStore, commit: Commit) -> None:
    """Record the speed of a committed task, as one of a sample."""
    if commit.seconds >= SHORT and commit.records_in:
        rate = commit.records_in / commit.seconds
        store.set_mark(commit.job, f"rates.{commit.step}.{commit.kind}", str(commit.task % SAMPLE), f"{rate:.6g}")


def rates(store: JobStore, stage: StageId) -> list[float]:
    """Return the speeds of a sample of a stage's tasks, in records per second."""
    return _rates(store.marks(stage.job, f"rates.{stage.name}"))


def _rates(table: Mapping[str, str]) -> list[float]:
    return [float(text) for text in table.values()]


def note_republished(store: JobStore, job: str, step: int, what: str, name: str, again: Republished) -> None:
    """Record that a lost message was republished; ``what``: the stage kind or coordinator step it belongs to."""
    store.set_mark(job, f"repairs.{step}.{what}", name, f"{again.times} {again.last:.3f}")


def republished(store: JobStore, job: str, step: int, what: str) -> dict[str, Republished]:
    """Return the republished messages of a stage or coordinator step (``what``), by name."""
    found = {}
    for name, text in store.marks(job, f"repairs.{step}.{what}").items():
        times, last = text.split(" ")
        found[name] = Republished(int(times), float(last))
    return found


def record_backup(store: JobStore, task: TaskId, now: float) -> None:
    """Record that a task got its backup, so that it may start once more than others."""
    store.set_mark(task.job, f"backups.{task.stage.name}", str(task.task), f"{now:.3f}")


def backups(store: JobStore, stage: StageId) -> frozenset[int]:
    """Return the tasks that got a backup."""
    return frozenset(map(int, store.marks(stage.job, f"backups.{stage.name}")))


class Glimpse(NamedTuple):
    """A stage at one moment: how many tasks have committed, running attempts, speeds and backups."""

    done: int
    running: tuple[Running, ...]
    rates: list[float]
    backups: frozenset[int]


def glimpse(store: JobStore, stage: StageId, now: float) -> Glimpse:
    """Read a stage in one round trip."""
    tables = [f"{name}.{stage.name}" for name in ("running", "rates", "backups")]
    done, (running, rates, backups) = store.done_and_marks(stage, tables)
    return Glimpse(done, _running(running, now), _rates(rates), frozenset(map(int, backups)))
