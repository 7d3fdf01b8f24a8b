"""A sick machine takes no tasks: its worker stops consuming if the machine makes tasks fail, or if its clock is wrong.

The worker stops consuming the queue that such a task came from, reports why
(:class:`mrcelery.schema.structs.Presence`), and tests its machine again after a pause that doubles. When the test
succeeds, the worker consumes again; the next pause starts short only if the worker stays well for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps

from mrcelery.attempt.machine import ailment
from mrcelery.worker.sick import goes_back
from mrcelery.worker.tasks import open_jobs

log = logging.getLogger(__name__)

FIRST_PAUSE = 2.0
"""Seconds until a worker that has stopped consuming tests its machine; doubles with each failure."""

LONGEST_PAUSE = 60.0
"""The longest pause, and how long a worker must have been well for its next first pause to be short again."""

OWN_APP = "mrcelery"
"""Name of our own app, whose workers run nothing else: they are tested before their first task."""


class Health:
    """The health of this worker, in its main process.

    ``stop`` and ``resume`` are called with a queue's name to stop or resume consuming that queue.
    """

    def __init__(self, stop: Callable[[str], None], resume: Callable[[str], None], first: float = FIRST_PAUSE) -> None:
        self._stop, self._resume = stop, resume
        self._first, self._pause, self._well_since = first, 0.0, float("-inf")
        self._lock = threading.Lock()
        self._fell_ill = threading.Event()
        self._ended = threading.Event()
        self._left: set[str] = set()
        self.reason = ""
        """Why this worker takes no tasks; "" if it is well."""
        self.clock = ""
        """The problem with this machine's clock, as found by :mod:`mrcelery.worker.leases`; "" if there is none."""

    def failed(self, queue: str, reason: str, *, certain: bool = True) -> None:
        """Stop consuming a queue until the machine is well, because it made a task of that queue fail for ``reason``.

        If that is not ``certain``, the pause is always the shortest.
        """
        with self._lock:
            if queue not in self._left:
                self._left.add(queue)
                self._stop(queue)
            ailing, self.reason = bool(self.reason), reason
            if ailing:
                return
            recent = time.monotonic() - self._well_since < LONGEST_PAUSE
            self._pause = min(LONGEST_PAUSE, 2 * self._pause) if recent and certain else self._first
        log.error("this worker takes no tasks from queue %s, which other workers may: %s", queue, reason)
        self._fell_ill.set()

    def end(self) -> None:
        """Stop testing: the worker is stopping."""
        self._ended.set()
        self._fell_ill.set()

    def run(self, probe: Callable[[], str]) -> None:
        """Each time the worker has fallen ill, resume consuming once ``probe`` finds no problem."""
        while True:
            self._fell_ill.wait()
            if self._ended.wait(self._pause):
                return
            wrong = probe()
            with self._lock:
                if wrong:
                    self.reason, self._pause = wrong, min(LONGEST_PAUSE, 2 * self._pause)
                    continue
                self._fell_ill.clear()
                self.reason, self._well_since = "", time.monotonic()
                for queue in sorted(self._left):
                    self._resume(queue)
                self._left.clear()
            log.warning("this worker takes tasks again: its machine is well")


class _Consuming:
    """A Celery worker's consumption of queues, which any of its threads may change."""

    consumer: Any = None

    def stop(self, queue: str) -> None:
        self._do(self._cancel, queue)

    def resume(self, queue: str) -> None:
        self._do(self._add, queue)

    def _do(self, change: Callable[[str], None], queue: str) -> None:
        if self.consumer is None:
            return
        if threading.current_thread() is threading.main_thread():
            change(queue)
        else:
            self.consumer.call_soon(change, queue)

    def _cancel(self, queue: str) -> None:
        queues = self.consumer.app.amqp.queues
        queues.deselect(queue)  # so that it is not consumed after a reconnect either
        if self.consumer.task_consumer is not None:  # else it is reconnecting
            self.consumer.task_consumer.cancel_by_queue(queues.aliases.get(queue, queue))

    def _add(self, queue: str) -> None:
        queues = self.consumer.app.amqp.queues
        queues.select_add(queues[queue])
        if self.consumer.task_consumer is not None:
            self.consumer.add_task_queue(queue)


_consuming = _Consuming()

health = Health(_consuming.stop, _consuming.resume)
"""This process's health; the process is a worker's main one."""


class HealthStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tests a worker's machine at startup and after tasks have failed there; a step of the worker's consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    _running = False

    def start(self, consumer: Any) -> None:
        """Start the thread that tests the machine; after a reconnect it already exists."""
        _consuming.consumer = consumer
        if self._running or not goes_back():
            return
        self._running = True
        # Started right away: a machine that runs out of threads could not start one later.
        threading.Thread(target=self._run, args=(consumer.app,), name="mrcelery-health", daemon=True).start()

    def _run(self, app: Any) -> None:
        if app.main == OWN_APP and (wrong := _probe(app)):
            for queue in sorted(app.amqp.queues.consume_from):
                health.failed(queue, wrong)
        health.run(lambda: _probe(app))

    def shutdown(self, consumer: Any) -> None:
        """Stop testing the machine."""
        health.end()


def _probe(app: Any) -> str:
    return health.clock or ailment(open_jobs(app))
