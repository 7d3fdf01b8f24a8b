"""The storage interface: what a job needs from the place where its data is stored."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from mrcelery.errors import ChangedInputError, CorruptDataError

MARKER = "mrcelery.json"
"""Key, at the root, of the object that records that a storage was probed, and its layout's version."""


class ObjectInfo(NamedTuple):
    """A stored object: its key relative to the storage's root, its size in bytes, and its tag.

    The tag changes when the object is written again: an ETag on S3 and the web; for a file its size, modification time
    and inode; "" if it is not known.
    """

    key: str
    size: int
    tag: str = ""
    modified: float = 0.0
    """Epoch seconds of its last write, in listings of a folder or of S3; otherwise 0."""


class ObjectWriter(Protocol):
    """Takes an object's bytes in order."""

    def write(self, data: bytes | bytearray | memoryview, /) -> object:
        """Append bytes to the object."""
        ...


class Planned(NamedTuple):
    """An input at the time its job was planned: its tag ("" if not known) and size in bytes (-1: not known)."""

    tag: str = ""
    size: int = -1


class Version:
    """The single version of an object that several requests must read: the planned one, or the first request's."""

    def __init__(self, planned: Planned | None = None) -> None:
        self.planned = planned
        self.tag: str = planned.tag if planned else ""
        self._lock = threading.Lock()

    def met(self, tag: str, size: int = -1) -> bool:
        """Record the version that a request met, ``size`` being the whole object's; False if it is the wrong one."""
        with self._lock:
            self.tag = self.tag or tag
            planned = self.planned.size if self.planned else -1
            return self.tag == (tag or self.tag) and (size < 0 or planned < 0 or size == planned)

    def replaced(self, uri: str, at: int, *, tag: str = "", size: int = -1) -> CorruptDataError:
        """Make the error for an object that is different at byte ``at``; ``tag`` and ``size`` are its present ones."""
        if self.planned is not None:
            was = self.tag if self.tag != tag else ""  # no information if only sizes differ
            had, has = _described(was, self.planned.size), _described(tag if was else "", size)
            return changed_input(uri, had or "other contents", has or "other contents", at)
        return CorruptDataError(
            f"{uri} was replaced while it was read: leave inputs alone while a job runs", file=uri, offset=at
        )


def changed_input(uri: str, had: str, has: str, at: int | None = None) -> ChangedInputError:
    """Make the error for an input that had ``had`` when its job was planned and now has ``has``."""
    remedy = "submit the job again, and leave inputs alone while it runs"
    if uri.startswith(("http://", "https://")):
        remedy += ", or copy the file to storage if servers that differ answer for it"
    return ChangedInputError(
        f"input {uri} has changed since it was planned: it had {had}, and now has {has}: {remedy}", file=uri, offset=at
    )


def _described(tag: str, size: int) -> str:
    """Describe an object: its size, and its tag if people know that kind of tag."""
    said = [f"{size} bytes"] if size >= 0 else []
    if tag.startswith(('"', "W/")):
        said.append(f"the ETag {tag}")
    elif tag:
        said.append(f"the {'date' if ',' in tag else 'ETag'} {tag}")
    return " and ".join(said)


@runtime_checkable
class Storage(Protocol):
    """Objects under a root, addressed by ``/``-separated keys.

    Every method raises :class:`mrcelery.errors.StorageOutageError` if the storage does not answer,
    :class:`mrcelery.errors.StorageRefusedError` if the bucket is missing or access is denied, another
    :class:`mrcelery.errors.StorageUnreachableError` if it cannot be used for another reason, and ``FileNotFoundError``
    if an object to be read is missing.

    Safe for use by several threads of one process; re-opened after a fork.
    """

    uri: str
    """The root, as named by the user, without a trailing slash."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the object's bytes ``[start, end)``; to its end if ``end`` is None."""
        ...

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Yield the same bytes in pieces of about ``chunk`` bytes, never all in memory at once.

        If the storage can detect it, raises :class:`mrcelery.errors.CorruptDataError` for an object that was replaced
        since an earlier stream with the same ``version`` read from it, and :class:`mrcelery.errors.ChangedInputError`
        for one that differs from the planned one in ``version``.
        """
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a whole object; a reader sees the old one or the new one, nothing in between."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write a whole object if the key is free. Of many callers one gets True, all others False."""
        ...

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Write an object in pieces. It appears, whole, when the block ends; never if the block raises.

        Within :func:`mrcelery.storage.transfers.transfers` with ``behind``, it may appear later, when that block ends.
        """
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's key and size, or None if it does not exist."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``, in order of key (by code point), as a stream."""
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the distinct names below ``prefix``, up to the next slash, in no order; ``prefix`` ends with a slash.

        Costs one request per thousand names, however many objects are below each. A name that has been emptied may
        appear.
        """
        ...

    def delete(self, keys: Iterable[str]) -> int:
        """Delete objects in batches, ignoring missing ones. Returns the number of keys given."""
        ...

    def sweep(self, folder: str) -> None:
        """Remove leftovers of unfinished writes to keys below ``folder``, for example a dead process's.

        ``folder`` ends in a slash. A write that is still in progress there fails.
        """
        ...

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Copy an object, by the server or the file system if both ends allow it; atomic like ``write``."""
        ...

    def expect(self, present: bool = True) -> None:
        """From now on, treat the storage as away if its root has no :data:`MARKER`: an unmounted folder.

        Not ``present``: stop that, for a storage that has not been probed yet.
        """
        ...

    def local_path(self, key: str) -> str | None:
        """Return a path in this machine's file system that contains the object's bytes, or None."""
        ...


class Source(NamedTuple):
    """An object to copy, while it has this tag; with the tag "" it may be copied whatever its present version."""

    storage: Storage
    key: str
    size: int
    tag: str = ""

    @property
    def uri(self) -> str:
        """Return the object's address."""
        return f"{self.storage.uri}/{self.key}"

    def changed(self) -> CorruptDataError:
        """Make the error for an object whose tag has changed."""
        return CorruptDataError(f"{self.uri} was replaced while it was copied", file=self.uri)


class RevokedError(Exception):
    """A claim was revoked: its subject belongs to another process now."""


class Claim(Protocol):
    """The right of one process to change a storage, until another process revokes it.

    Nothing is changed once the claim is revoked, whenever the process that holds it was suspended, and for however
    long: each method then raises :class:`RevokedError`. Safe for use by several threads.
    """

    def take(self) -> None:
        """Place the claim, visibly to others."""
        ...

    def announce(self, keys: Collection[str]) -> None:
        """Announce the keys to be changed next; other keys are announced, one at a time, as they are changed."""
        ...

    def copy(self, source: Source, key: str) -> None:
        """Copy an object to ``key``; atomic. Raises :class:`CorruptDataError` if its tag has changed."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a whole object; atomic."""
        ...

    def remove(self, key: str) -> None:
        """Remove an object; ignore a missing one."""
        ...

    def release(self) -> None:
        """Give the claim up; do nothing if it was revoked."""
        ...


def copy_through(source: Storage, key: str, to: Storage, to_key: str) -> None:
    """Copy an object through this process, a chunk at a time."""
    chunks = source.stream(key)
    # The first chunk is fetched before the writer opens: a missing source must not create a target.
    first = next(chunks, b"")
    with to.writer(to_key) as out:
        out.write(first)
        for chunk in chunks:
            out.write(chunk)
