"""A folder as storage, visible to one machine or to all machines of a shared file system.

Atomic by ``rename`` and ``link``. Nothing is synced to the disk: the promises hold when processes die; after a power
failure a job must be run again.
"""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from mrcelery.errors import StorageOutageError, StorageRefusedError, StorageUnreachableError
from mrcelery.storage.base import MARKER, ObjectInfo, ObjectWriter, Storage, Version, copy_through
from mrcelery.storage.file_versions import checked, tag_of

TEMPORARY = ".mrcelery-tmp-"
"""Prefix of an unfinished file's name; such files are never listed."""

STALE = 3600.0
"""Seconds without a write after which an unfinished file is considered a dead process's."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

_AWAY = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.EAGAIN, errno.EINTR, errno.ESHUTDOWN,
        errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, getattr(errno, "EREMOTEIO", errno.EIO),
    }
)  # fmt: skip
"""Errors reported by a network file system, FUSE or a disk that vanished."""


class FolderStorage:
    """Objects are files under ``uri``; folders appear with their first object and disappear with their last."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/") or "/"
        self._root = Path(uri).absolute()
        self._expected = False

    def __repr__(self) -> str:
        return f"FolderStorage({self.uri!r})"

    def _path(self, key: str) -> Path:
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise ValueError(f"{key!r} is not a storage key: a key is names joined by single slashes")
        return self._root / key

    def expect(self, present: bool = True) -> None:
        """From now on, check for the marker whenever something is missing: an unmounted folder is empty."""
        self._expected = present

    def _check_there(self) -> None:
        """Raise :class:`StorageOutageError` if the root should have its marker and does not."""
        if self._expected and not (self._root / MARKER).is_file():
            raise StorageOutageError(f"the storage {self.uri} is missing ({MARKER} is gone): mount it again")

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        """Translate errors in reading; a file missing from a storage that is away may not be missing."""
        try:
            with errors_of(path, reading=True):
                yield
        except FileNotFoundError:
            self._check_there()
            raise

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read with one seek; a folder in the object's place raises FileNotFoundError."""
        path = self._path(key)
        with self._reading(path), path.open("rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else max(0, end - start))

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Read unbuffered. Only a planned ``version`` is checked: an open file keeps its bytes."""
        path = self._path(key)
        with self._reading(path), path.open("rb", buffering=0) as file:
            if version is not None and version.planned is not None:
                yield from checked(file, f"{self.uri}/{key}", version.planned, start, end, chunk)
                return
            file.seek(start)
            left = float("inf") if end is None else end - start
            while left > 0 and (data := file.read(int(min(chunk, left)))):
                left -= len(data)
                yield data

    def write(self, key: str, data: bytes) -> None:
        """Write a temporary file next to the object, then rename it."""
        with self._new(key) as (file, temporary, path), errors_of(path):
            file.write(data)
            file.close()
            os.replace(temporary, path)

    def create(self, key: str, data: bytes) -> bool:
        """Create by ``link(2)``, which is atomic on NFS, too.

        Raises :class:`StorageRefusedError` on a file system without hard links.
        """
        with self._new(key) as (file, temporary, path), errors_of(path):
            file.write(data)
            file.close()
            try:
                os.link(temporary, path)
            except FileExistsError:
                # NFS may lose the answer to a link that succeeded and try again: the link count shows it.
                return temporary.stat().st_nlink == 2
            except OSError as e:
                if e.errno not in _NO_LINKS:
                    raise
                raise StorageRefusedError(
                    f"the file system of {self.uri} has no hard links ({e.strerror}), which commits need: "
                    "set --storage to a folder on another file system"
                ) from None
            return True

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Write to a temporary file, which is renamed when the block ends."""
        return self._writer(key)

    @contextmanager
    def _writer(self, key: str) -> Iterator[ObjectWriter]:
        with self._new(key) as (file, temporary, path):
            yield _Unfinished(file, path)
            with errors_of(path):
                file.close()
                os.replace(temporary, path)

    @contextmanager
    def _new(self, key: str) -> Iterator[tuple[BinaryIO, Path, Path]]:
        """Yield an open temporary file next to ``key`` and both paths, and remove the temporary file afterwards.

        Errors raised by the block are not the storage's: they pass unchanged.
        """
        path = self._path(key)
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}")
        with errors_of(path):
            if self._expected and not path.parent.is_dir():
                self._check_there()  # else files would be written to the folder below a mount point
            file = _open_new(temporary)
        try:
            yield file, temporary, path
        finally:
            try:
                with errors_of(path):
                    file.close()
            finally:
                with errors_of(path):
                    temporary.unlink(missing_ok=True)

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the size and tag of a regular file; None for a folder."""
        found = self._info(key)
        return None if found is None else found._replace(modified=0.0)

    def _info(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with errors_of(path):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                self._check_there()
                return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return ObjectInfo(key, found.st_size, tag_of(found), found.st_mtime)

    def list(self, prefix: str = "", enter: Callable[[str], bool] | None = None) -> Iterator[ObjectInfo]:
        """List according to the protocol, without walking folders whose key ``enter`` rejects."""
        above, slash, begin = prefix.rpartition("/")
        self._check_there()
        stack = [_entries(self._path(above) if above else self._root, above + slash, begin)]
        while stack:
            for key, folder in stack[-1]:
                path = self._root / key
                if folder:
                    if (enter is None or enter(key)) and not _loops(path):
                        stack.append(_entries(path, key + "/", ""))
                        break
                elif (info := self._info(key)) is not None:
                    yield info
            else:
                stack.pop()

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the sub-folders, symbolic links to folders included."""
        self._check_there()
        for key, is_folder in _entries(self._path(prefix.rstrip("/")), "", ""):
            if is_folder:
                yield key

    def delete(self, keys: Iterable[str]) -> int:
        """Unlink the files, then remove the folders that this emptied, up to the root."""
        count = 0
        self._check_there()
        source = iter(keys)
        while batch := list(islice(source, 1000)):
            count += len(batch)
            emptied = set()
            for key in batch:
                path = self._path(key)
                with errors_of(path):
                    try:
                        path.unlink(missing_ok=True)
                    except (IsADirectoryError, NotADirectoryError):
                        continue
                emptied.add(path.parent)
            while emptied:  # level by level: a folder of thousands is checked once, not for each of them
                emptied = {folder.parent for folder in emptied if self._prune(folder)}
        return count

    def sweep(self, folder: str) -> None:
        """Remove temporary files and empty folders below ``folder``, whatever their age."""
        root = self._path(folder.removesuffix("/"))
        with errors_of(root):
            for where, _, names in os.walk(root, topdown=False):
                for name in names:
                    if name.startswith(TEMPORARY):
                        Path(where, name).unlink(missing_ok=True)
                with suppress(OSError):  # it is not empty, or is gone
                    os.rmdir(where)

    def _prune(self, folder: Path) -> bool:
        """Remove a folder if it is empty, and return whether it is gone. The root stays."""
        if folder == self._root or self._root not in folder.parents:
            return False
        for _ in range(2):
            try:
                folder.rmdir()
                return True
            except FileNotFoundError:
                return True
            except OSError:
                if not _sweep(folder):
                    return False
        return False

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Link the file if both roots share a file system, else copy its bytes."""
        if not isinstance(to, FolderStorage):
            copy_through(self, key, to, to_key)
            return
        source = self._path(key)
        with self._reading(source), source.open("rb") as data:
            if not to._link(source, to_key):
                with to._writer(to_key) as out:
                    shutil.copyfileobj(data, out, 1 << 20)

    def _link(self, source: Path, key: str) -> bool:
        """Make ``key`` another name of a complete file; return False if the file systems cannot."""
        with self._new(key) as (file, temporary, path), errors_of(path):
            file.close()
            temporary.unlink()
            try:
                os.link(source, temporary)
            except OSError as e:
                if e.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                    return False  # another file system, or one without links
                raise
            os.replace(temporary, path)
        return True

    def local_path(self, key: str) -> str | None:
        """Return the file's path; the file need not exist."""
        return str(self._path(key))


class _Unfinished:
    """Takes an object's bytes; translates refused writes to storage errors, within a block that raises other errors."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        """Append bytes."""
        try:
            return self._file.write(data)
        except OSError:
            with errors_of(self._path):
                raise


def _open_new(path: Path) -> BinaryIO:
    """Open a new file, making its folder if necessary."""
    for _ in range(1000):
        try:
            return path.open("xb")
        except FileNotFoundError:
            pass
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, FileExistsError):
            # Retry if delete() of a folder's last file removed a folder in between; but not below a file.
            if any(folder.is_file() for folder in path.parents):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path.parent)) from None
    raise FileNotFoundError(errno.ENOENT, "the folder keeps being removed", str(path.parent))


def _entries(path: Path, prefix: str, begin: str) -> Iterator[tuple[str, bool]]:
    """Yield the keys in a folder whose names start with ``begin``, and whether each is a folder, in key order."""
    with errors_of(path):
        try:
            with os.scandir(path) as found:
                # A folder sorts by its name and a slash, like the keys in it: "a.b" is before "a/b".
                names = sorted(
                    entry.name + "/" if entry.is_dir() else entry.name
                    for entry in found
                    if entry.name.startswith(begin) and not entry.name.startswith(TEMPORARY)
                )
        except (FileNotFoundError, NotADirectoryError):
            return
    for name in names:
        yield prefix + name.removesuffix("/"), name.endswith("/")


def _loops(path: Path) -> bool:
    """Check whether a folder is a link to one of its parents."""
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _sweep(folder: Path) -> bool:
    """Remove dead processes' leftovers from a folder with nothing else in it, and return whether it is empty now."""
    old = time.time() - STALE
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not entry.name.startswith(TEMPORARY) or entry.stat().st_mtime > old:
                    return False
                os.unlink(entry.path)
    except OSError:
        return False  # another process is doing the same
    return True


def _who() -> str:
    """Name this process's user and machine: on a fleet, they are often a worker's, not the reader's."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return f"user {name} on {os.uname().nodename}"


@contextmanager
def errors_of(path: Path, reading: bool = False) -> Iterator[None]:
    """Translate the file system's errors to those of the storage interface."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as e:
        raise StorageRefusedError(
            f"access denied to {e.filename or path} for {_who()}: grant that user access, or choose another folder"
        ) from None
    except OSError as e:
        if reading and e.errno in (errno.EISDIR, errno.ENOTDIR):
            raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
        why = f"{path}: {e.strerror or e}"
        if e.errno in _AWAY:
            raise StorageOutageError(f"{why}: check that its file system is mounted and responds") from None
        raise StorageUnreachableError(f"{why}: make room or choose another folder") from None
