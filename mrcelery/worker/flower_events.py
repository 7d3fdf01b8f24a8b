"""Celery events that report the progress of a worker's attempts to listeners such as Flower.

They are sent as a task's custom state ``PROGRESS``, with the number of records read as its result. Nothing is sent
unless someone has asked the worker for events.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker import state

from mrcelery.attempt.progress_file import records_read
from mrcelery.worker.hung import KINDS, progress_path_of
from mrcelery.worker.tasks import open_jobs

EVERY_SECONDS = 2.0


class ProgressStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sends progress events from a worker's own loop, in which Celery sends its events, too."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Start sending."""
        self._timer = consumer.timer.call_repeatedly(EVERY_SECONDS, send_progress, (consumer,))

    def stop(self, consumer: Any) -> None:
        """Stop sending."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def send_progress(consumer: Any) -> None:
    """Send how many records each running attempt has read."""
    dispatcher = consumer.event_dispatcher
    if dispatcher is None or not dispatcher.enabled or (dispatcher.groups and "task" not in dispatcher.groups):
        return
    for request in tuple(state.active_requests):
        if request.name in KINDS and request.time_start:
            records = records_read(progress_path_of(open_jobs(consumer.app).scratch_path, request))
            if records:
                # Repeat name and arguments: the task's other events may have been sent before anyone listened.
                event = {"name": request.name, "kwargs": request.kwargsrepr, "result": f"{records:,} records read"}
                request.send_event("task-progress", **event)
