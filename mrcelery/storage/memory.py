"""Storage in this process's memory: the test double, and the reference for the other storages."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mrcelery.storage.base import ObjectInfo, ObjectWriter, RevokedError, Source, Storage, Version, copy_through

_spaces: dict[str, dict[str, bytes]] = {}
_lock = threading.Lock()


class MemoryStorage:
    """Objects of one named space, ``memory://name`` or, below a prefix, ``memory://name/prefix``.

    All storages with the same name in one process see the same objects.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        name, _, prefix = self.uri.removeprefix("memory://").partition("/")
        with _lock:
            self._objects = _spaces.setdefault(name, {})
        self._prefix = prefix + "/" if prefix else ""

    def __repr__(self) -> str:
        return f"MemoryStorage({self.uri!r})"

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Slice the stored bytes; a missing object raises FileNotFoundError."""
        try:
            data = self._objects[self._prefix + key]
        except KeyError:
            raise FileNotFoundError(f"{self.uri}/{key}") from None
        return data[start:end]

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Cut the bytes present at the first read; later writes are not visible."""
        if version is not None and (now := self.stat(key)) and not version.met(now.tag, now.size):
            raise version.replaced(f"{self.uri}/{key}", start, tag=now.tag, size=now.size)
        data = self.read(key, start, end)
        for at in range(0, len(data), chunk):
            yield data[at : at + chunk]

    def write(self, key: str, data: bytes) -> None:
        """Keep a copy of the bytes."""
        self._objects[self._prefix + key] = bytes(data)

    def create(self, key: str, data: bytes) -> bool:
        """Check and write under one lock, shared by all spaces."""
        with _lock:
            if self._prefix + key in self._objects:
                return False
            self._objects[self._prefix + key] = bytes(data)
            return True

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Collect the bytes in memory and write them when the block ends."""
        return self._writer(key)

    @contextmanager
    def _writer(self, key: str) -> Iterator[ObjectWriter]:
        out = _Buffer()
        yield out
        self.write(key, bytes(out.data))

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the length and the checksum of the stored bytes."""
        data = self._objects.get(self._prefix + key)
        return None if data is None else ObjectInfo(key, len(data), f"{zlib.crc32(data):08x}")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Sort the keys present when the listing starts; keys deleted since are left out."""
        begin = self._prefix + prefix
        for full in sorted(key for key in tuple(self._objects) if key.startswith(begin)):
            if (info := self.stat(full[len(self._prefix) :])) is not None:
                yield info

    def folders(self, prefix: str) -> Iterator[str]:
        """Derive the names from a listing, each once."""
        rests = (info.key[len(prefix) :] for info in self.list(prefix))
        yield from dict.fromkeys(rest.partition("/")[0] for rest in rests if "/" in rest)

    def delete(self, keys: Iterable[str]) -> int:
        """Delete one key at a time; missing ones count too."""
        count = 0
        for key in keys:
            self._objects.pop(self._prefix + key, None)
            count += 1
        return count

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Copy through this process, also within one space."""
        copy_through(self, key, to, to_key)

    def sweep(self, folder: str) -> None:
        """Do nothing: unfinished writes die with their process."""

    def expect(self, present: bool = True) -> None:
        """Do nothing: a memory is never away."""

    def local_path(self, key: str) -> str | None:
        """Return None: no object is in the file system."""
        return None


class MemoryClaim:
    """A claim on objects in memory: a separate object, whose existence each change checks under the same lock."""

    def __init__(self, storage: MemoryStorage, key: str) -> None:
        self._storage = storage
        self._key = key

    def take(self) -> None:
        """Write the claim's object."""
        self._storage.write(self._key, b"")

    def announce(self, keys: Collection[str]) -> None:
        """Do nothing."""

    def copy(self, source: Source, key: str) -> None:
        """Read the source and write it."""
        found = source.storage.stat(source.key)
        if source.tag and (found is None or found.tag != source.tag):
            raise source.changed()
        self.write(key, source.storage.read(source.key))

    def write(self, key: str, data: bytes) -> None:
        """Check for the claim and write, under the lock."""
        with _lock:
            self._check()
            self._storage.write(key, data)

    def remove(self, key: str) -> None:
        """Check for the claim and delete, under the lock."""
        with _lock:
            self._check()
            self._storage.delete([key])

    def release(self) -> None:
        """Delete the claim's object."""
        self._storage.delete([self._key])

    def _check(self) -> None:
        if self._storage.stat(self._key) is None:
            raise RevokedError


class _Buffer:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self.data += data
