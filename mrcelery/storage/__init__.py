"""Objects under a root: a folder, S3, HTTP, memory.

:func:`open_storage` opens a root that jobs write to, :func:`locate` finds one input object, and :func:`check` verifies,
once per root, that a storage keeps the promises on which commits depend.
"""

# ruff: noqa: PLC0415 - a storage is imported when it is addressed: boto3 and urllib3 take long

from __future__ import annotations

import os
import sys

from mrcelery.storage.addresses import INPUT, STORAGE, parse, scheme_of
from mrcelery.storage.base import ObjectInfo, ObjectWriter, Storage
from mrcelery.storage.folder import FolderStorage
from mrcelery.storage.memory import MemoryStorage
from mrcelery.storage.probe import check

__all__ = ["ObjectInfo", "ObjectWriter", "Storage", "check", "inherit", "locate", "open_storage", "scheme_of"]

# By process id: clients and their connections must not cross a fork.
_opened: dict[tuple[int, str], Storage] = {}
_servers: dict[tuple[int, str], Storage] = {}


def open_storage(uri: str) -> Storage:
    """Open the storage whose root is ``uri``.

    A root is ``s3://bucket/prefix``, a folder, ``file:///folder`` or ``memory://name``. Within one process, the same
    address gives the same object. Nothing is created or requested yet. Raises :class:`ConfigError` for any other
    address.
    """
    slot = (os.getpid(), uri)
    storage = _opened.get(slot)
    if storage is None:
        address = str(parse(uri, STORAGE)).rstrip("/") or "/"
        same = (os.getpid(), address)  # one storage, however its address is spelled
        storage = _opened.get(same) or _opened.setdefault(same, _open(address))
        storage = _opened.setdefault(slot, storage)
    return storage


def _open(uri: str) -> Storage:
    scheme = scheme_of(uri)
    if scheme == "memory":
        return MemoryStorage(uri)
    if scheme == "s3":
        from mrcelery.storage.s3 import S3Storage

        return S3Storage(uri)
    return FolderStorage(uri)


def inherit() -> None:
    """Take over the parent's clients, without their connections, in a forked process: making new clients takes long."""
    if (s3 := sys.modules.get("mrcelery.storage.s3_clients")) is not None:
        s3.inherit()


def locate(uri: str) -> tuple[Storage, str]:
    """Return the storage and the key of one object to be read.

    An address is a path, ``file://``, ``s3://bucket/key``, ``http(s)://...`` or ``memory://name/key``. Does not check
    whether the object exists. Raises :class:`InputError` for any other address.
    """
    scheme, root, key = parse(uri, INPUT)
    if not scheme:
        return open_storage("/"), key.lstrip("/")
    if scheme in ("http", "https"):
        from mrcelery.storage.http import HttpStorage

        slot = (os.getpid(), f"{scheme}://{root}")
        server = _servers.get(slot)
        if server is None:
            server = _servers.setdefault(slot, HttpStorage(slot[1]))
        return server, key
    return open_storage(f"{scheme}://{root}"), key
