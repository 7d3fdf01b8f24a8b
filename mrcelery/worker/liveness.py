"""A worker's liveness file, for a supervisor's probe (:mod:`mrcelery.worker.alive`).

Each iteration of the worker's event loop touches the file: if a worker hangs, the file ages. While the
worker has lost its broker and waits for it, the file is kept fresh although the loop does not run: a lost broker is not
a reason to end the tasks that its processes run.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import bootsteps
from celery.concurrency.solo import TaskPool as SoloPool
from celery.signals import worker_ready
from celery.worker import state

from mrcelery.config import Config
from mrcelery.worker.broker_wait import waiting

EVERY_SECONDS = 2.0

_log = logging.getLogger(__name__)


class LivenessStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches ``MRCELERY_LIVENESS_FILE``, if that is set, once the worker is ready."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        self._path = Path(Config.load({}).liveness_file)
        self.enabled = self._path != Path()
        self._worker = worker
        self._went_round = 0.0
        self._timer: Any = None
        self._stopped = threading.Event()

    def start(self, worker: Any) -> None:
        """Remove an earlier worker's file, and wait until this worker is ready."""
        with suppress(OSError):
            self._path.unlink()  # an earlier worker's
        worker_ready.connect(self._on_ready)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Record each iteration; called at startup and after each reconnect, in pools with an event loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._go_round()
        self._timer = hub.call_repeatedly(EVERY_SECONDS, self._go_round)

    def _go_round(self) -> None:
        self._went_round = time.time()

    def _on_ready(self, **_: Any) -> None:
        threading.Thread(target=self._run, name="mrcelery-liveness", daemon=True).start()

    def _run(self) -> None:
        reported = False
        while True:
            try:
                seen = time.time() if self._is_excused() else self._went_round
                with suppress(FileExistsError):
                    self._path.touch(0o644, exist_ok=False)
                os.utime(self._path, (seen, seen))
                reported = False
            except OSError as e:
                if not reported:
                    _log.error("%s cannot be touched: %s", self._path, e.strerror)
                reported = True
            if self._stopped.wait(EVERY_SECONDS):
                return

    def _is_excused(self) -> bool:
        """Check whether the event loop may be idle: it was left, there is none, or it runs a task itself."""
        if self._timer is None or self._worker.consumer.connection is None:
            return True
        if waiting.is_set():  # Celery before 5.7 keeps the connection that it has lost
            return True
        return isinstance(self._worker.pool, SoloPool) and bool(state.active_requests)

    def stop(self, worker: Any) -> None:
        """Stop touching the file."""
        self._stopped.set()

    terminate = stop
