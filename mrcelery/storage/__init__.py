"""Objects under a root: a folder, S3, HTTP, memory.

:func:`open_storage` opens a root that jobs write to, :func:`locate` finds one input object, and
:func:`check` makes sure, once per root, that a storage keeps the promises the commits rest on.
"""

# ruff: noqa: PLC0415 - a storage is imported when it is addressed: boto3 and urllib3 take long

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from mrcelery.errors import ConfigError
from mrcelery.storage.base import ObjectInfo, ObjectWriter, Storage
from mrcelery.storage.folder import FolderStorage
from mrcelery.storage.memory import MemoryStorage
from mrcelery.storage.probe import check

__all__ = ["ObjectInfo", "ObjectWriter", "Storage", "check", "locate", "open_storage", "scheme_of"]

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")

# By process id: clients and their connections must not cross a fork.
_opened: dict[tuple[int, str], Storage] = {}
_servers: dict[tuple[int, str], Storage] = {}


def scheme_of(uri: str) -> str:
    """Return the scheme of an address in lower case; ``""`` for a plain path."""
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else ""


def open_storage(uri: str) -> Storage:
    """Open the storage whose root is ``uri``: ``s3://bucket/prefix``, a folder, ``file:///folder`` or
    ``memory://name``. The same object for the same address within one process.

    Nothing is created or asked for yet. Raises :class:`ConfigError` for any other address.
    """
    if not uri:
        raise ConfigError("storage is empty: set --storage to s3://bucket/prefix or to a folder")
    slot = (os.getpid(), uri)
    storage = _opened.get(slot)
    if storage is None:
        storage = _opened.setdefault(slot, _open(uri))
    return storage


def _open(uri: str) -> Storage:
    scheme = scheme_of(uri)
    if scheme == "":
        return FolderStorage(uri)
    if scheme == "file":
        return FolderStorage(file_path(uri))
    if scheme == "memory":
        return MemoryStorage(uri)
    if scheme == "s3":
        from mrcelery.storage.s3 import S3Storage

        return S3Storage(uri)
    if scheme in ("http", "https"):
        raise ConfigError(f"{uri} can only be read: set --storage or --output to s3://bucket/prefix or a folder")
    raise ConfigError(f"{uri} has an unknown scheme: use s3://bucket/prefix, a folder or file:///folder")


def locate(uri: str) -> tuple[Storage, str]:
    """Return the storage and the key of one object that is to be read.

    An address is a path, ``file://``, ``s3://bucket/key``, ``http(s)://...`` or ``memory://name/key``.

    Whether the object exists is not looked up. Raises :class:`ConfigError` for any other address.
    """
    scheme = scheme_of(uri)
    if scheme in ("", "file"):
        path = file_path(uri) if scheme else uri
        return open_storage("/"), os.path.abspath(path).lstrip("/")
    if scheme in ("s3", "memory"):
        root, _, key = uri[len(scheme) + 3 :].partition("/")
        return open_storage(f"{scheme}://{root}"), key
    if scheme in ("http", "https"):
        from mrcelery.storage.http import HttpStorage

        root, _, key = uri[len(scheme) + 3 :].partition("/")
        slot = (os.getpid(), f"{scheme}://{root}")
        server = _servers.get(slot)
        if server is None:
            server = _servers.setdefault(slot, HttpStorage(slot[1]))
        return server, key
    raise ConfigError(f"{uri} has an unknown scheme: an input is a path, s3://bucket/key or http(s)://...")


def file_path(uri: str) -> str:
    """Return the path of a ``file://`` address. Raises :class:`ConfigError` if it names another host."""
    host, slash, path = uri[len("file://") :].partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigError(f"{uri} names the host {host!r}: a file address has three slashes, file:///folder/name")
    return str(Path("/" + unquote(path)))
