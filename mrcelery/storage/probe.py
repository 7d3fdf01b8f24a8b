"""Checking, once per root, that a storage keeps the promises on which commits depend.

Endpoints that implement S3 differ: some ignore ``If-None-Match`` and overwrite, and then two attempts at one task could
both commit. Such a storage is rejected before a job starts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress

from mrcelery.errors import StorageOutageError, StorageRefusedError, StorageUnreachableError, VersionError
from mrcelery.schema.object_keys import LAYOUT
from mrcelery.storage.base import MARKER, RevokedError, Storage
from mrcelery.storage.claims import claim, revoke

Key = Callable[[str], str]
"""Makes the key of a probe object from a name."""

LARGE = (8 << 20) + 1
"""Size in bytes of the probe's object that is uploaded in two parts."""


def check(storage: Storage, *, anew: bool = True) -> None:
    """Probe a storage, unless its root records that this was done; if not ``anew``, it must have been.

    Raises :class:`StorageRefusedError` with the storage's fault, :class:`StorageOutageError` if it does not answer now,
    and :class:`VersionError` if the root was laid out by another version of mrcelery.
    """
    storage.expect(not anew)
    if is_marked(storage):
        storage.expect()
        return
    with closing(probe(storage)) as found:
        for _, wrong in found:
            if wrong:
                raise StorageRefusedError(wrong)
    storage.create(MARKER, json.dumps({"layout": LAYOUT}).encode())
    storage.expect()


def probe(
    storage: Storage, promises: Mapping[str, Callable[[Storage, Key], str]] | None = None
) -> Generator[tuple[str, str], None, None]:
    """Probe each promise during iteration; yield its name and how it is broken, "" if it is kept.

    ``promises``: those to probe, by default those without which no job may run. The probe's objects are removed.
    """
    keys: list[str] = []
    folder = f"probe-{os.urandom(6).hex()}"

    def key(name: str) -> str:
        keys.append(f"{folder}/{name}")
        return keys[-1]

    try:
        for name, keeps in (PROMISES if promises is None else promises).items():
            if keeps is not _multipart or storage.uri.startswith("s3://"):
                yield name, _broken(storage, keeps, key)
    finally:
        with suppress(StorageUnreachableError):  # a probe that deletes has reported it already
            storage.delete(keys)


def _broken(storage: Storage, keeps: Callable[[Storage, Key], str], key: Key) -> str:
    try:
        broken = keeps(storage, key)
    except StorageOutageError:
        raise
    except StorageUnreachableError as e:
        return str(e)
    except FileNotFoundError:
        broken = "loses what was just written"
    if not broken:
        return ""
    return f"{storage.uri}: the endpoint {broken}: use another storage, or a newer version of this one"


def is_marked(storage: Storage) -> bool:
    """Check whether the root records a probe; :class:`VersionError` if its layout has another version."""
    try:
        found = json.loads(storage.read(MARKER))["layout"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        found = None
    if found != LAYOUT:
        raise VersionError(
            f"{storage.uri}/{MARKER} says layout {found}, this mrcelery reads layout {LAYOUT}: "
            "use the mrcelery that made it, or another --storage"
        )
    return True


def _conditional(storage: Storage, key: Key) -> str:
    commit = key("commit")
    if not storage.create(commit, b"first"):
        return "refuses If-None-Match for an object that is not there"
    if storage.create(commit, b"second") or storage.read(commit) != b"first":
        return "ignores If-None-Match: two attempts of one task could both commit, and results would be wrong"
    return ""


def _ranges(storage: Storage, key: Key) -> str:
    name = key("ranges")
    storage.write(name, b"first")
    kept = storage.read(name, 1, 3) == b"ir"
    return "" if kept else "ignores byte ranges, so that inputs could not be split"


def _listing(storage: Storage, key: Key) -> str:
    names = sorted(key(name) for name in ("b/c", "b.c", "b-c"))
    for name in reversed(names):
        storage.write(name, b"x")
    listed = [info.key for info in storage.list(names[0].rpartition("/")[0] + "/b")]
    if listed != names:
        return "does not list what was just written, or not in order of key"
    storage.delete(names[:1])
    listed = [info.key for info in storage.list(names[0])]
    return "" if listed == [] and storage.stat(names[0]) is None else "still lists what was just deleted"


def _multipart(storage: Storage, key: Key) -> str:
    large, copied = key("large"), key("copied")
    block = bytes(range(256)) * 4096
    with storage.writer(large) as out:
        for at in range(0, LARGE, len(block)):
            out.write(block[: LARGE - at])
    info = storage.stat(large)
    if info is None or info.size != LARGE:
        return "loses bytes of an object written in several parts"
    if storage.read(large, LARGE - 3, LARGE) != b"\xfe\xff\x00":
        return "mixes up the parts of a multipart upload"
    storage.copy(large, storage, copied)
    info = storage.stat(copied)
    return "" if info is not None and info.size == LARGE else "does not copy objects"


def _claims(storage: Storage, key: Key) -> str:
    mine, announced, later = claim(storage, key("claim")), key("announced"), key("later")
    mine.take()
    mine.announce([announced])
    revoke(storage, key("claim"))
    for name in (announced, later):
        with suppress(RevokedError):
            mine.write(name, b"late")
            with suppress(RevokedError):
                mine.release()
            return (
                f"{'completes an aborted upload' if name == announced else 'ignores If-Match'}: a worker that was "
                "stopped for long could replace what another job has published meanwhile"
            )
    return ""


PROMISES: dict[str, Callable[[Storage, Key], str]] = {
    "conditional write": _conditional,
    "byte ranges": _ranges,
    "listing": _listing,
    "multipart": _multipart,
}
"""The probes by name; each returns how the endpoint fails it, "" if it does not."""

WISHES: dict[str, Callable[[Storage, Key], str]] = {"claims on OUTPUT": _claims}
"""Probes of what protects an OUTPUT in rare cases only: a job may run without it."""
