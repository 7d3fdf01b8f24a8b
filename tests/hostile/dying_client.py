"""The command line of a client that kills itself at the n-th operation on Redis or storage.

Run as ``python -m tests.hostile.dying_client N before|after ARGUMENT...``.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from mrcelery.cli.main import main
from mrcelery.jobstore import connection
from mrcelery.storage.folder import FolderStorage


def deadly(operation: Callable[..., Any], count: itertools.count[int], number: int, when: str) -> Callable[..., Any]:
    """Die before or after the call that is the ``number``-th of all."""

    def call(*args: Any, **kwargs: Any) -> Any:
        mine = next(count) == number
        if mine and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = operation(*args, **kwargs)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


if __name__ == "__main__":
    number, when = int(sys.argv[1]), sys.argv[2]
    count = itertools.count(1)
    for owner, name in [(connection._Hiredis, "_exchange"), (FolderStorage, "write"), (FolderStorage, "delete")]:
        setattr(owner, name, deadly(getattr(owner, name), count, number, when))
    sys.argv = ["mrcelery", *sys.argv[3:]]
    main()
