"""Removing what attempts leave in a scratch folder when their process dies.

While its main process lives, a worker removes its children's leftovers at once. This module is for workers that died
themselves: another worker with the same scratch folder, usually the replacement, sweeps it. An attempt's progress file
is locked for as long as its process lives, which is visible to a container that shares the folder, too.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress

from mrcelery.attempt.progress_file import keeper_of_dead


def sweep(scratch: str, *, own: bool = False) -> None:
    """Remove files left by dead processes of vanished workers; ``own``: also those of this worker, which is ending.

    A living worker removes its own processes' files.
    """
    # An attempt creates its progress file first: a file found now that has none afterwards belongs to no process.
    found = {folder: _names(os.path.join(scratch, folder)) for folder in ("tasks", "marks")}
    living = set()
    alive = os.path.join(scratch, "alive")
    for name in _names(alive):
        pid = _pid(name)
        keeper = keeper_of_dead(os.path.join(alive, name))
        if keeper is None or (_runs(keeper) and not (own and keeper == os.getpid())):
            living.add(pid)
        else:
            with suppress(OSError):
                os.unlink(os.path.join(alive, name))
    for folder, names in found.items():
        for name in names:
            if _pid(name) in living:
                continue
            path = os.path.join(scratch, folder, name)
            if folder == "tasks":
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    os.unlink(path)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _pid(name: str) -> str:
    return name.rpartition(".")[2]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True
