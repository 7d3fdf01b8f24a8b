"""boto3's clients: one for each process and its settings."""

from __future__ import annotations

import os
import threading
from typing import Any

import boto3
from botocore.config import Config

from mrcelery.config import Config as Settings
from mrcelery.storage.transfers import THREADS

# A client keeps the settings it was made with, so one is kept per process and settings.
_KEPT_CLIENTS = (
    4  # each takes some 15 MB and up to 2 * THREADS connections, and settings such as a session's token change
)
_SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "MRCELERY_STORAGE_TIMEOUT",
)
_clients: dict[tuple[object, ...], Any] = {}
_connecting = threading.Lock()  # threads that start together wait for the client that one of them makes


def _forked() -> None:
    """Make a new lock: a thread that the child does not have may hold the parent's."""
    global _connecting
    _connecting = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def inherit() -> None:
    """Take over the parent's clients in a forked process, without their connections."""
    for settings, client in list(_clients.items()):
        if settings[0] == os.getppid():
            client.close()  # closes pooled connections, in this process only: it reconnects
            del _clients[settings]
            _clients[(os.getpid(), *settings[1:])] = client


def client() -> Any:
    """Return this process's client for the present settings."""
    settings = (os.getpid(), *map(os.environ.get, _SETTINGS))
    if (found := _clients.get(settings)) is not None:
        return found
    with _connecting:
        if (found := _clients.get(settings)) is None:
            found = _clients[settings] = _connect()
            for oldest in list(_clients)[:-_KEPT_CLIENTS]:
                del _clients[oldest]  # closed as soon as no call uses it any more
        return found


def _connect() -> Any:
    # A separate session: boto3's default session is not safe to share between threads.
    session = boto3.session.Session()
    timeout = Settings.load({}).storage_timeout
    config = Config(
        connect_timeout=min(10, timeout),
        read_timeout=timeout,
        tcp_keepalive=True,
        max_pool_connections=2 * THREADS,
    )
    profile = session._session.get_scoped_config()
    if not {"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"} & os.environ.keys() and "retry_mode" not in profile:
        # boto3's default mode, "legacy", does not retry everything that S3 recommends retrying.
        config = config.merge(Config(retries={"mode": "standard", "total_max_attempts": 4}))
    return session.client("s3", config=config)
