"""The storage seam: what a job needs of the place where its data lives."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

from mrcelery.errors import ChangedInputError, CorruptDataError

MARKER = "mrcelery.json"
"""Key, at the root, of the object that says a storage was probed, and its layout's version."""


class ObjectInfo(NamedTuple):
    """A stored object: its key relative to the storage's root, its size in bytes, and its tag.

    The tag is another one when the object was written again: an ETag on S3 and the web; of a file its size, time of
    change and inode; "" if it is not known.
    """

    key: str
    size: int
    tag: str = ""
    modified: float = 0.0
    """Epoch seconds of its last write, in listings of a folder or of S3; else 0."""


class ObjectWriter(Protocol):
    """Takes an object's bytes in order."""

    def write(self, data: bytes | bytearray | memoryview, /) -> object:
        """Append bytes to the object."""
        ...


class Planned(NamedTuple):
    """An input as it was when its job was planned: its tag ("" if not known) and size in bytes (-1: not known)."""

    tag: str = ""
    size: int = -1


class Version:
    """The one version of an object that several requests read: that which was planned, or which the first one met."""

    def __init__(self, planned: Planned | None = None) -> None:
        self.planned = planned
        self.tag: str = planned.tag if planned else ""
        self._lock = threading.Lock()

    def met(self, tag: str, size: int = -1) -> bool:
        """Record the version that a request met, ``size`` being the whole object's; False if it should be another."""
        with self._lock:
            self.tag = self.tag or tag
            planned = self.planned.size if self.planned else -1
            return self.tag == (tag or self.tag) and (size < 0 or planned < 0 or size == planned)

    def replaced(self, uri: str, at: int, *, tag: str = "", size: int = -1) -> CorruptDataError:
        """Make the error for an object that is another at byte ``at``; ``tag`` and ``size`` are what it has now."""
        if self.planned is not None:
            was = self.tag if self.tag != tag else ""  # which says nothing where sizes differ only
            had, has = _described(was, self.planned.size), _described(tag if was else "", size)
            return changed_input(uri, had or "other contents", has or "other contents", at)
        return CorruptDataError(
            f"{uri} was replaced while it was read: leave inputs alone while a job runs", file=uri, offset=at
        )


def changed_input(uri: str, had: str, has: str, at: int | None = None) -> ChangedInputError:
    """Make the error for an input that ``had`` something when its job was planned and now ``has`` something else."""
    remedy = "submit the job again, and leave inputs alone while it runs"
    if uri.startswith(("http://", "https://")):
        remedy += ", or copy the file to storage if servers that differ answer for it"
    return ChangedInputError(
        f"input {uri} is not what was planned: it had {had}, and now has {has}: {remedy}", file=uri, offset=at
    )


def _described(tag: str, size: int) -> str:
    """Say what an object has: its size, and its tag as far as people know such tags."""
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
    :class:`mrcelery.errors.StorageUnreachableError` if it cannot be used for another reason, and
    ``FileNotFoundError`` for a missing object that is to be read.

    Safe for use by several threads of one process; re-opened after a fork.
    """

    uri: str
    """The root, as the user named it, without a trailing slash."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return the object's bytes ``[start, end)``; to its end if ``end`` is None."""
        ...

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Yield the same bytes in pieces of about ``chunk`` bytes, never all in memory at once.

        If the storage can detect it, raises :class:`mrcelery.errors.CorruptDataError` for an object that was replaced
        since an earlier stream with the same ``version`` read from it, and :class:`mrcelery.errors.ChangedInputError`
        for one that is not what ``version`` says was planned.
        """
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a whole object; a reader sees the old one or the new one, nothing between."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write a whole object if none is there. One caller of many gets True; all others False."""
        ...

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Write an object in pieces. It appears, whole, when the block ends; never if it raised.

        Within :func:`mrcelery.storage.transfers.transfers` with ``behind``, it may be later, when that block ends.
        """
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the object's key and size, or None if there is no such object."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``, in order of key (by code point), streamed."""
        ...

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names, up to the next slash, of what lies below ``prefix``, which ends with a slash; in no order.

        Costs a request for a thousand of them, however much lies in each. One that has been emptied may be named.
        """
        ...

    def delete(self, keys: Iterable[str]) -> int:
        """Delete objects in batches; a missing one is no error. Returns how many were asked for."""
        ...

    def sweep(self, folder: str) -> None:
        """Remove what unfinished writes to keys below ``folder`` have left, those of a dead process for example.

        ``folder`` ends in a slash. A write that is still under way there fails.
        """
        ...

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Copy an object, by the server or the file system if both ends allow it; atomic as ``write``."""
        ...

    def expect(self, present: bool = True) -> None:
        """Treat the storage as away, from now on, if its root has no :data:`MARKER`: a folder that is not mounted.

        Not ``present``: stop that, for a storage that is yet to be probed.
        """
        ...

    def local_path(self, key: str) -> str | None:
        """Return a path of this machine's file system with the object's bytes, or None."""
        ...


class Source(NamedTuple):
    """An object to copy, as it is while it has this tag; "" for any, if it may be copied whatever it is now."""

    storage: Storage
    key: str
    size: int
    tag: str = ""

    @property
    def uri(self) -> str:
        """Return the object's address."""
        return f"{self.storage.uri}/{self.key}"

    def changed(self) -> CorruptDataError:
        """Make the error for an object that has another tag by now."""
        return CorruptDataError(f"{self.uri} was replaced as it was copied", file=self.uri)


class RevokedError(Exception):
    """A claim was revoked: what it stands for belongs to somebody else now."""


class Claim(Protocol):
    """The right of one process to change a storage, until another process revokes it.

    Nothing is changed once the claim is revoked, at whatever moment the process that holds it was stopped, and for
    however long: each method then raises :class:`RevokedError`. Safe for use by several threads.
    """

    def take(self) -> None:
        """Lay the claim, visibly to others."""
        ...

    def announce(self, keys: Collection[str]) -> None:
        """Say which keys are to be changed next; others are announced, one at a time, as they are changed."""
        ...

    def copy(self, source: Source, key: str) -> None:
        """Copy an object to ``key``; atomic. Raises :class:`CorruptDataError` if it has another tag by now."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write a whole object; atomic."""
        ...

    def remove(self, key: str) -> None:
        """Remove an object; a missing one is no error."""
        ...

    def release(self) -> None:
        """Give the claim up; no error if it was revoked."""
        ...


def copy_through(source: Storage, key: str, to: Storage, to_key: str) -> None:
    """Copy an object by way of this process, a chunk at a time."""
    chunks = source.stream(key)
    # The first chunk is fetched before the writer opens: a missing source must not leave a target.
    first = next(chunks, b"")
    with to.writer(to_key) as out:
        out.write(first)
        for chunk in chunks:
            out.write(chunk)
