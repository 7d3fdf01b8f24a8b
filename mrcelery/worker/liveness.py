"""A worker's sign of life: the time of a file, for a supervisor's probe (:mod:`mrcelery.worker.alive`).

The file has the time at which the worker's event loop last went round: where a worker hangs, it gets older. It is
kept young in spite of a loop that stands still while the worker has lost its broker, and waits for it: that is no
reason to end what its processes run.
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

EVERY_SECONDS = 2.0

_log = logging.getLogger(__name__)


class LivenessStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches ``MRCELERY_LIVENESS_FILE``, where that is set, from when the worker is ready."""

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
        with suppress(OSError):
            self._path.unlink()  # an earlier worker's
        worker_ready.connect(self._on_ready)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        """Called at the start, and after each reconnect; never in pools without an event loop."""
        if self._timer is not None:
            self._timer.cancel()
        self._go_round()
        self._timer = hub.call_repeatedly(EVERY_SECONDS, self._go_round)

    def _go_round(self) -> None:
        self._went_round = time.time()

    def _on_ready(self, **_: Any) -> None:
        threading.Thread(target=self._run, name="mrcelery-liveness", daemon=True).start()

    def _run(self) -> None:
        told = False
        while True:
            try:
                seen = time.time() if self._is_excused() else self._went_round
                with suppress(FileExistsError):
                    self._path.touch(0o644, exist_ok=False)
                os.utime(self._path, (seen, seen))
                told = False
            except OSError as e:
                if not told:
                    _log.error("%s cannot be touched: %s", self._path, e.strerror)
                told = True
            if self._stopped.wait(EVERY_SECONDS):
                return

    def _is_excused(self) -> bool:
        """Whether the event loop need not go round: it was left, there is none, or it runs a task itself."""
        if self._timer is None or self._worker.consumer.connection is None:
            return True
        return isinstance(self._worker.pool, SoloPool) and bool(state.active_requests)

    def stop(self, worker: Any) -> None:
        self._stopped.set()

    terminate = stop
