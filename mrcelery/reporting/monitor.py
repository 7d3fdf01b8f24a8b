"""Derives the events that a waiting client reports (:mod:`mrcelery.events`) from polled data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mrcelery import events
from mrcelery.errors import MissingExtraError, StorageOutageError, StorageUnreachableError, UsageError
from mrcelery.jobstore.presence import Workers, ailing, listening, of_queue, waits_for_itself
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Failure
from mrcelery.storage.patience import AGAIN_SECONDS

POLL_SECONDS = 2.0
"""Seconds between two polls of the workers, each of which takes a round trip."""

BLIP_SECONDS = 1.0
"""A broker's absence of up to this many seconds is not worth an event."""

NONE_SECONDS = 5.0
"""Seconds without a listening worker before that is reported: a worker may be about to start."""


_OF_STORAGE = {StorageOutageError.__name__, StorageUnreachableError.__name__}


class Monitor:
    """Reports changes from poll to poll. ``patience``: seconds without a broker until the wait ends."""

    def __init__(
        self,
        job: str,
        report: Callable[[events.Event], None],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._report = report
        self._patience = patience
        self._clock = clock
        self._answered = self._observed = clock()
        self._broker_reported = 0.0
        self._none_since: float | None = None
        self._none_reported = 0.0
        self._alive: frozenset[str] = frozenset()
        self._sick: frozenset[str] = frozenset()
        self._sick_reported = 0.0
        self._retried: str | None = None
        self._storage_lost: tuple[float, object] | None = None
        self._storage_reported = 0.0
        self._stood_still: object = None
        self._extra_reported = 0.0
        self._awaited: Failure | None = None

    def unreachable(self, reason: str) -> None:
        """Record that the broker did not answer."""
        now = self._clock()
        away = now - self._answered
        if away >= BLIP_SECONDS and (not self._broker_reported or now - self._broker_reported >= AGAIN_SECONDS):
            self._broker_reported = now
            self._report(
                events.BrokerLost(job=self._job, at=time.time(), seconds=away, patience=self._patience, reason=reason)
            )

    def answered(self, fields: Mapping[str, str]) -> None:
        """Record that the broker answered with the job's fields."""
        now = self._clock()
        if self._retried is None:
            self._retried = fields.get("retrying", "")  # it was reported before this wait began
        if self._broker_reported:
            self._report(events.BrokerBack(job=self._job, at=time.time(), seconds=now - self._answered))
            self._broker_reported = 0.0
            # The workers have to reconnect, too, before they can be missed.
            self._alive, self._none_since, self._observed = frozenset(), None, now
        self._answered = now

    def reentered(self) -> None:
        """Report that the job was registered again with a broker that had lost it."""
        self._report(events.JobReentered(job=self._job, at=time.time()))

    def due(self) -> bool:
        """Return whether it is time for :meth:`observe`."""
        return self._clock() - self._observed >= POLL_SECONDS

    def observe(self, fields: Mapping[str, str], workers: Workers, progress: Callable[[], object]) -> None:
        """Compare a poll with the one before; ``progress`` is called only if the job is held up.

        Raises :class:`UsageError` if the job waits for the process that waits for it.
        """
        self._observed = self._clock()
        queue = fields.get("queue") or "celery"
        self._check_itself(queue, workers)
        self._observe_workers(queue, workers)
        self._observe_sick(queue, workers)
        self._observe_storage(progress)
        self._observe_retries(fields.get("retrying", ""), progress)
        self._report_storage(float(fields.get("storage_patience") or 0))

    def _check_itself(self, queue: str, workers: Workers) -> None:
        if waits_for_itself(workers, queue):
            raise UsageError(
                f"job {self._job} cannot run, as the only process of the only worker on queue {queue} waits for it: "
                "do not wait for a job in a task, or give the worker more processes (--concurrency 2)"
            )

    def _observe_workers(self, queue: str, workers: Workers) -> None:
        now = self._clock()
        ours = of_queue(workers, queue)
        alive = listening(workers, queue)
        # A worker that was stopped has removed its entry.
        if lost := {name for name in self._alive - alive if name in ours}:
            self._report(events.WorkersLost(job=self._job, at=time.time(), count=len(lost), left=len(alive)))
        self._alive = alive
        if alive:
            if self._none_reported:
                self._report(events.WorkersFound(job=self._job, at=time.time(), queue=queue, count=len(alive)))
            self._none_since, self._none_reported = None, 0.0
            return
        if self._none_since is None:
            self._none_since = now
        since = now - self._none_since
        if since >= NONE_SECONDS and (not self._none_reported or now - self._none_reported >= AGAIN_SECONDS):
            self._none_reported = now
            self._report(events.NoWorkers(job=self._job, at=time.time(), queue=queue, seconds=since))

    def _observe_sick(self, queue: str, workers: Workers) -> None:
        now, sick = self._clock(), ailing(workers, queue)
        before, self._sick = self._sick, frozenset(sick)
        left = len(self._alive) - len(sick)
        if not sick:
            if before and left:
                self._report(events.WorkersWell(job=self._job, at=time.time(), queue=queue, count=left))
            return
        if not self._sick <= before or (not left and now - self._sick_reported >= AGAIN_SECONDS):
            self._sick_reported = now
            name = min(self._sick - before or self._sick)
            self._report(
                events.WorkersSick(
                    job=self._job,
                    at=time.time(),
                    queue=queue,
                    count=len(sick),
                    left=left,
                    worker=name,
                    reason=sick[name],
                )
            )

    def _observe_retries(self, text: str, progress: Callable[[], object]) -> None:
        if not text or (text == self._retried and MissingExtraError.__name__ not in text):
            return
        self._retried = text
        why = decode(text.encode(), Failure)
        if why.error == MissingExtraError.__name__:
            self._observe_extra(why, progress())
            return
        if why.error not in _OF_STORAGE:
            self._report(
                events.TaskRetried(
                    job=self._job, at=time.time(), step=why.step, kind=why.kind, task=why.task, message=why.message
                )
            )
            return
        if self._storage_lost is None:
            self._storage_lost = self._clock(), progress()
        self._awaited = why

    def _report_storage(self, patience: float) -> None:
        """Report, at intervals, that the job waits for its storage."""
        now, why = self._clock(), self._awaited
        if self._storage_lost is None or why is None:
            return
        if not self._storage_reported or now - self._storage_reported >= AGAIN_SECONDS:
            self._storage_reported = now
            self._report(
                events.StorageLost(
                    job=self._job,
                    at=time.time(),
                    step=why.step,
                    kind=why.kind,
                    task=why.task,
                    message=why.message,
                    seconds=now - self._storage_lost[0],
                    patience=patience,
                )
            )

    def _observe_extra(self, why: Failure, progress: object) -> None:
        """Report what workers lack if there is no progress meanwhile; if other workers have it, they take the tasks."""
        now, stands = self._clock(), progress == self._stood_still
        self._stood_still = progress
        if stands and (not self._extra_reported or now - self._extra_reported >= AGAIN_SECONDS):
            self._extra_reported = now
            self._report(
                events.TaskRetried(
                    job=self._job, at=time.time(), step=why.step, kind=why.kind, task=why.task, message=why.message
                )
            )

    def _observe_storage(self, progress: Callable[[], object]) -> None:
        if self._storage_lost is None:
            return
        since, before = self._storage_lost
        if progress() != before:
            self._report(events.StorageBack(job=self._job, at=time.time(), seconds=self._clock() - since))
            self._storage_lost, self._storage_reported, self._awaited = None, 0.0, None
