"""The command line of a client that kills itself at the n-th operation on Redis or storage.

Run as ``python -m tests.hostile.dying_client N before|after ARGUMENT...``. Operations are each command of a pipeline to
Redis, each object that is deleted, and each other call of a storage, whether it changes anything or not.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mrcelery.cli.main import main
from mrcelery.jobstore import connection
from mrcelery.storage.folder import FolderStorage
from mrcelery.storage.s3 import S3Storage

CALLS = ("read", "stream", "list", "folders", "stat", "writer", "write", "create", "copy", "sweep")
"""Methods of a storage that are one operation each."""


class Deadly:
    """Counts operations from 1, and kills this process at one of them."""

    def __init__(self, number: int, when: str) -> None:
        self.number, self.when = number, when
        self.done = 0

    def perform(self, operation: Callable[[], Any]) -> Any:
        self.done += 1
        mine = self.done  # an operation may call another one
        if (mine, self.when) == (self.number, "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return operation()
        finally:  # also where it found nothing
            if mine == self.number:
                os.kill(os.getpid(), signal.SIGKILL)


def arm(number: int, when: str) -> None:
    """Have this process die ``before`` or ``after`` its n-th operation."""
    deadly = Deadly(number, when)
    exchange = connection._Hiredis._exchange

    def one_by_one(self: connection._Hiredis, commands: Iterable[connection.Command]) -> list[Any]:
        return [deadly.perform(partial(exchange, self, [command]))[0] for command in commands]

    def each(delete: Callable[..., int]) -> Callable[..., int]:
        return lambda self, keys: sum(deadly.perform(partial(delete, self, [key])) for key in keys)

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: deadly.perform(partial(original, *args, **kwargs))

    replaced: list[tuple[type, str, Callable[..., Any]]] = [
        (connection._Hiredis, "_exchange", one_by_one),
        *((storage, "delete", each(storage.delete)) for storage in (FolderStorage, S3Storage)),
        *((storage, name, counted(getattr(storage, name))) for storage in (FolderStorage, S3Storage) for name in CALLS),
    ]
    for owner, name, function in replaced:
        setattr(owner, name, function)


if __name__ == "__main__":
    arm(int(sys.argv[1]), sys.argv[2])
    sys.argv = ["mrcelery", *sys.argv[3:]]
    main()
