"""Does a storage keep the promises that the commits rest on? Asked once per root.

Endpoints that speak S3 differ: some ignore ``If-None-Match`` and overwrite, and then two attempts of
one task could both commit. Such a storage is refused before a job starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from mrcelery.errors import StorageUnreachableError, VersionError
from mrcelery.layout import LAYOUT
from mrcelery.storage.base import Storage

MARKER = "mrcelery.json"
"""Key, at the root, of the object that says a storage was probed, and its layout's version."""

LARGE = (8 << 20) + 1
"""Bytes of the probe's object that goes up in two parts."""


def check(storage: Storage) -> None:
    """Probe a storage, unless its root says that this was done.

    Raises :class:`StorageUnreachableError` with what the storage got wrong, :class:`VersionError`
    where the root was laid out by another version of mrcelery.
    """
    try:
        marker = storage.read(MARKER)
    except FileNotFoundError:
        pass
    else:
        _layout(storage, marker)
        return
    keys: list[str] = []
    try:
        _probe(storage, keys)
    finally:
        storage.delete(keys)
    storage.create(MARKER, json.dumps({"layout": LAYOUT}).encode())


def _layout(storage: Storage, marker: bytes) -> None:
    try:
        found = json.loads(marker)["layout"]
    except (ValueError, KeyError, TypeError):
        found = None
    if found != LAYOUT:
        raise VersionError(
            f"{storage.uri}/{MARKER} says layout {found}, this mrcelery reads layout {LAYOUT}: "
            "use the mrcelery that made it, or another --storage"
        )


def _probe(storage: Storage, keys: list[str]) -> None:
    folder = f"probe-{os.urandom(6).hex()}"

    def key(name: str) -> str:
        keys.append(f"{folder}/{name}")
        return keys[-1]

    def require(kept: bool, promise: str) -> None:
        if not kept:
            raise StorageUnreachableError(
                f"{storage.uri}: the endpoint {promise}: use another storage, or a newer version of this one"
            )

    _probe_create(storage, key, require)
    _probe_order(storage, key, require)
    if storage.uri.startswith("s3://"):
        _probe_large(storage, key, require)


Key = Callable[[str], str]
Require = Callable[[bool, str], None]


def _probe_create(storage: Storage, key: Key, require: Require) -> None:
    commit = key("commit")
    require(storage.create(commit, b"first"), "refuses If-None-Match for an object that is not there")
    again = storage.create(commit, b"second")
    require(
        not again and storage.read(commit) == b"first",
        "ignores If-None-Match: two attempts of one task could both commit, and results would be wrong",
    )
    require(storage.read(commit, 1, 3) == b"ir", "ignores byte ranges, so that inputs could not be split")


def _probe_order(storage: Storage, key: Key, require: Require) -> None:
    names = sorted(key(name) for name in ("b/c", "b.c", "b-c"))
    for name in reversed(names):
        storage.write(name, b"x")
    listed = [info.key for info in storage.list(names[0].rpartition("/")[0] + "/b")]
    require(listed == names, "does not list what was just written, or not in order of key")
    storage.delete(names[:1])
    listed = [info.key for info in storage.list(names[0])]
    require(listed == [] and storage.stat(names[0]) is None, "still lists what was just deleted")


def _probe_large(storage: Storage, key: Key, require: Require) -> None:
    large, copied = key("large"), key("copied")
    block = bytes(range(256)) * 4096
    with storage.writer(large) as out:
        for at in range(0, LARGE, len(block)):
            out.write(block[: LARGE - at])
    info = storage.stat(large)
    require(info is not None and info.size == LARGE, "loses bytes of an object written in several parts")
    require(storage.read(large, LARGE - 3, LARGE) == b"\xfe\xff\x00", "mixes up the parts of a multipart upload")
    storage.copy(large, storage, copied)
    info = storage.stat(copied)
    require(info is not None and info.size == LARGE, "does not copy objects")
