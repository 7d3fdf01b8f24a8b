"""The fleet: Celery workers at a broker, wherever they run.

A client depends on little of them: it registers the job in the job store and puts one message on the queue
(:mod:`mrcelery.jobstore.messages`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mrcelery.errors import UsageError
from mrcelery.jobstore.base import generation_of, is_of_generation
from mrcelery.jobstore.messages import start_message
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.enter import enter, perhaps, register, send
from mrcelery.schema.structs import Request


class FleetRunner:
    """Submits jobs to the workers at ``broker`` that listen on the queue of a job's options."""

    storage = ""  # a fleet's storage is configured

    patience = 60.0

    def __init__(self, broker: str, result_backend: str | None = None) -> None:
        self.store = RedisJobStore(broker)
        self._queue = ""
        self._started = ""
        self._enter: Callable[[], object] | None = None
        """Registers the awaited job again."""

    def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
        """Register and start the job; it runs without this process.

        If the broker fails, the error says whether the job may have been registered anyway.
        """
        self._enter = partial(enter, self.store, request, envelope, code, blobs)
        send(self.store, request, code, blobs)
        job = request.job
        with perhaps(job, "submitted", f"or wait for it with `mrcelery wait {job}`, before you submit it again"):
            register(self.store, request, envelope)
            self.start(request.job, request.options.queue)

    def start(self, job: str, queue: str, generation: int = 0) -> None:
        """Queue the message that starts a registered job; a second message does no harm."""
        self.store.push(queue, start_message(job, queue, generation))

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        """Register the job again if Redis has lost it: it resumes from its commits in storage."""
        if fields.get("state"):
            if self._enter is None and (envelope := self.store.request(job)) is not None:
                kept = {name: text for name, text in fields.items() if name != "state" and not is_of_generation(name)}
                self._enter = partial(self.store.create, job, kept, envelope)
            self._queue = fields.get("queue") or "celery"
            self._started = fields.get("started") or self._started
            return False
        if self._enter is None or not self._queue:
            return False
        with suppress(UsageError):  # a worker registered it first
            self._enter()
            if self._started:
                self.store.update(job, {"started": self._started})
        self.start(job, self._queue, generation_of(self.store.fields(job)))
        return True

    def check(self) -> None:
        """Do nothing: workers may come and go."""

    def close(self) -> None:
        """Close the connection to Redis."""
        self.store.close()
