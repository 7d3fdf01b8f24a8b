"""The process of a local cluster's Redis (or Valkey) server.

Imports almost nothing: the local worker starts the server before it imports anything else.
"""

from __future__ import annotations

import os
import subprocess

SERVER_STATUS = "redis.status"
"""Name of the file, in the cluster's folder, with the exit status of a server that ended on its own."""


def start_server(program: str, folder: str) -> subprocess.Popen[bytes]:
    """Start a server in ``folder``: its socket is ``redis.sock`` there, its log ``redis.log``. It saves no data."""
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
        # In this process's group, which the client kills.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
