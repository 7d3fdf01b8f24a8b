"""The fleet: Celery workers at a broker, wherever they run.

A client needs little of them: it enters the job into the job store and puts one message on the queue.
That message is written here, in the format of Celery's protocol 2 and kombu's Redis transport, because
importing Celery would take longer than a small job.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mrcelery.errors import UsageError
from mrcelery.executor.submit import enter
from mrcelery.jobstore.base import generation_argument, generation_of, is_of_generation
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.records import Request


class FleetRunner:
    """Submits jobs to the workers at ``broker`` that listen on the queue of a job's options."""

    storage = ""  # a fleet has none of its own: it is configured

    patience = 60.0

    def __init__(self, broker: str, result_backend: str | None = None) -> None:
        self.store = RedisJobStore(broker)
        self._queue = ""
        self._started = ""
        self._enter: Callable[[], object] | None = None
        """Enters the job that is waited for again."""

    def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
        """Hand the job over; it goes on without this process."""
        self._enter = partial(enter, self.store, request, envelope, code, blobs)
        enter(self.store, request, envelope, code, blobs)
        self.start(request.job, request.options.queue)

    def start(self, job: str, queue: str, generation: int = 0) -> None:
        """Have a worker start a job that was entered; once more does no harm."""
        self.store.push(queue, start_message(job, queue, generation))

    def look_after(self, job: str, fields: dict[str, str]) -> bool:
        """Enter a job again that Redis has lost: its commits are in storage, and it goes on from there."""
        if fields.get("state"):
            if self._enter is None and (envelope := self.store.request(job)) is not None:
                kept = {name: text for name, text in fields.items() if name != "state" and not is_of_generation(name)}
                self._enter = partial(self.store.create, job, kept, envelope)
            self._queue = fields.get("queue") or "celery"
            self._started = fields.get("started") or self._started
            return False
        if self._enter is None or not self._queue:
            return False
        with suppress(UsageError):  # a worker was quicker to enter it
            self._enter()
            if self._started:
                self.store.update(job, {"started": self._started})
        self.start(job, self._queue, generation_of(self.store.fields(job)))
        return True

    def check(self) -> None:
        """Workers may come and go."""

    def close(self) -> None:
        self.store.close()


def start_message(job: str, queue: str, generation: int = 0) -> bytes:
    """The message that makes a worker start a run of a job: what ``send_task("mrcelery.start")`` would publish."""
    kwargs = {"job": job, **generation_argument(generation)}
    identity = f"{job}.start"
    body = json.dumps([[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "mrcelery.start",
            "id": identity,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": job,
            "parent_id": None,
            "argsrepr": "()",
            "kwargsrepr": repr(kwargs),
            "origin": f"{os.getpid()}@{socket.gethostname()}",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": identity,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(message).encode()
