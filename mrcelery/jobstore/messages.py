"""The queue message that starts a job, without Celery.

It is written in the format of Celery's protocol 2 and kombu's Redis transport, because importing Celery would take
longer than a small job.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import uuid

from mrcelery.jobstore.base import generation_argument


def start_message(job: str, queue: str, generation: int = 0) -> bytes:
    """Return the message that starts a generation of a job, as ``send_task("mrcelery.start")`` would publish it."""
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
