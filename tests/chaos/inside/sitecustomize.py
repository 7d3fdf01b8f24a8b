"""In each process of a worker's pool: die at exactly the storage write or Redis command that the driver has chosen.

The driver puts tickets into a folder, ``writes`` or ``commands``; each operation takes one, and the process that takes
the last one dies, before the operation or after it, as the ticket says. Python imports this file by its name.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from celery.signals import worker_process_init

FOLDER = os.environ["CHAOS_TICKETS"]


def take(kind: str) -> str:
    """Take a ticket and return what it says, or "" if none is left."""
    folder = os.path.join(FOLDER, kind)
    for name in sorted(os.listdir(folder)):
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            continue  # another process was quicker
        return name.partition("-")[2]
    return ""


def deadly(kind: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        said = take(kind)
        if said == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation(*args, **kwargs)
        if said == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


@worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
def patch(**_: Any) -> None:
    import redis.connection

    import mrcelery.storage.s3
    from mrcelery.jobstore import connection
    from mrcelery.storage import folder

    class Os:
        """The module os as :mod:`mrcelery.storage.folder` sees it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    ours = Os()
    for name in ("replace", "link"):
        setattr(ours, name, deadly("writes", getattr(os, name)))
    folder.os = ours  # type: ignore[attr-defined]
    reads, writes = mrcelery.storage.s3.S3Storage._call, deadly("writes", mrcelery.storage.s3.S3Storage._call)

    def call(self: Any, operation: str, *args: Any, **kwargs: Any) -> Any:
        changes = not operation.startswith(("get", "head", "list"))
        return (writes if changes else reads)(self, operation, *args, **kwargs)

    mrcelery.storage.s3.S3Storage._call = call  # type: ignore[method-assign]
    connection._Hiredis._exchange = deadly("commands", connection._Hiredis._exchange)  # type: ignore[method-assign]
    client = redis.connection.AbstractConnection
    client.send_packed_command = deadly("commands", client.send_packed_command)  # type: ignore[method-assign]
