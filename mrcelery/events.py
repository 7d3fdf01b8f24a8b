"""Events that a waiting client reports next to a job's progress: see ``on_event`` of :meth:`mrcelery.JobHandle.wait`.

``str()`` of an event is one line for a person. ``msgspec.json.encode`` gives an object for a program, whose ``event``
is the kind: ``broker_lost``, ``no_workers`` and so on. A condition that lasts is reported again from time to time, with
its ``seconds``.
"""

from __future__ import annotations

import re

import msgspec

VERSION = 1
"""Version of the events as written for programs."""


def _kind(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=_kind):
    """Base of all events: the id of the job that is waited for, and the time of the event in epoch seconds."""

    v: int = VERSION
    job: str
    at: float


class BrokerLost(Event, frozen=True, kw_only=True):
    """The broker does not answer; the wait ends after ``patience`` seconds without an answer."""

    seconds: float
    """Since its last answer."""
    patience: float
    reason: str

    def __str__(self) -> str:
        return f"broker not reachable for {self.seconds:.0f} s: waiting, at most {self.patience:.0f} s ({self.reason})"


class BrokerBack(Event, frozen=True, kw_only=True):
    """The broker answers again."""

    seconds: float
    """How long it was away."""

    def __str__(self) -> str:
        return f"broker is back after {self.seconds:.0f} s: still waiting"


class JobReentered(Event, frozen=True, kw_only=True):
    """The broker had lost the job; this client registered it again, and it resumes from its commits in storage."""

    def __str__(self) -> str:
        return f"broker had lost job {self.job}: registered again, it resumes from its committed tasks"


class TriedAgain(Event, frozen=True, kw_only=True):
    """Base of the events of a task that is retried; ``kind`` is map, reduce, barrier or finish."""

    step: int
    kind: str
    task: int
    """-1 for the coordinator's steps."""
    message: str

    def __str__(self) -> str:
        return f"{_task(self.step, self.kind, self.task)} is retried: {self.message}"


class StorageLost(TriedAgain, frozen=True, kw_only=True):
    """A task could not reach its storage; it waits for that for ``patience`` seconds, and its attempts do not count."""

    seconds: float = 0.0
    """Since this client first saw it."""
    patience: float = 0.0

    def __str__(self) -> str:
        return _awaited(self.seconds, self.patience, f"{_task(self.step, self.kind, self.task)}: {self.message}")


class StorageAwaited(Event, frozen=True, kw_only=True):
    """This client itself cannot reach the storage, to upload inputs or to fetch results, and waits for it."""

    seconds: float
    patience: float
    reason: str

    def __str__(self) -> str:
        return _awaited(self.seconds, self.patience, self.reason)


class StorageBack(Event, frozen=True, kw_only=True):
    """Tasks commit again after a :class:`StorageLost`."""

    seconds: float
    """Since the first :class:`StorageLost`."""

    def __str__(self) -> str:
        return f"storage is back: tasks commit again, after {self.seconds:.0f} s"


class TaskRetried(TriedAgain, frozen=True, kw_only=True):
    """An attempt failed for another reason, which may be temporary."""


class NoWorkers(Event, frozen=True, kw_only=True):
    """No worker listens on the job's queue."""

    queue: str
    seconds: float
    """How long this client has seen none."""

    def __str__(self) -> str:
        return (
            f"no worker has listened on queue {self.queue} for {self.seconds:.0f} s: start one with "
            f"`mrcelery worker --queue {self.queue}`, or cancel the job"
        )


class WorkersFound(Event, frozen=True, kw_only=True):
    """Workers listen again, after :class:`NoWorkers`."""

    queue: str
    count: int

    def __str__(self) -> str:
        return f"{_workers(self.count)} on queue {self.queue} now"


class WorkersLost(Event, frozen=True, kw_only=True):
    """Workers of the job's queue fell silent without having been stopped; their tasks run elsewhere."""

    count: int
    left: int
    """Workers that still listen."""

    def __str__(self) -> str:
        return f"{_workers(self.count)} lost, {self.left} left: tasks of lost workers run elsewhere"


class WorkersSick(Event, frozen=True, kw_only=True):
    """Workers of the job's queue take no tasks, because their machines fail them: a full disk, say."""

    queue: str
    count: int
    left: int
    """Workers of the queue that take tasks."""
    worker: str
    """One of those that are sick."""
    reason: str
    """Why that one takes none, and what to do."""

    def __str__(self) -> str:
        others = f"{_workers(self.left)} left" if self.left else "none left: the job waits until one is well"
        return f"{_workers(self.count)} of queue {self.queue} sick, {others}; {self.worker}: {self.reason}"


class WorkersWell(Event, frozen=True, kw_only=True):
    """All workers of the job's queue take tasks again, after :class:`WorkersSick`."""

    queue: str
    count: int

    def __str__(self) -> str:
        return f"no worker of queue {self.queue} is sick any longer: {_workers(self.count)} on it now"


def _awaited(seconds: float, patience: float, reason: str) -> str:
    most = f", at most {patience:.0f} s" if patience else ""
    return f"storage not reachable for {seconds:.0f} s: waiting{most} ({reason})"


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"


def _task(step: int, kind: str, task: int) -> str:
    return f"step {step}, {kind}" + (f" task {task}" if task >= 0 else "")
