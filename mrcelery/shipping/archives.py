"""Unpacking untrusted archives: nothing is written outside the folder, and sizes are bounded."""

from __future__ import annotations

import fcntl
import os
import stat
import tarfile
import zipfile
from pathlib import Path

from mrcelery.errors import CorruptDataError

ARCHIVE_LIMIT = 8 << 30
"""Most bytes that one archive may unpack to."""


def unpack_archive(archive: Path, to: Path) -> None:
    """Unpack a zip or a tar file, recognized by its content, into the new folder ``to``.

    Raises :class:`CorruptDataError`, not retryable, for a member outside ``to``, a member that is not a file, a folder
    or a link within ``to``, more than :data:`ARCHIVE_LIMIT` bytes, and a damaged archive.
    """
    to.mkdir()
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            unpack_zip(packed, to, ARCHIVE_LIMIT, archive.name)
        return
    try:
        with tarfile.open(archive) as tar:
            _unpack_tar(tar, to, archive.name)
    except (tarfile.TarError, EOFError, OSError) as e:
        raise _refused(f"archive {archive.name} cannot be unpacked ({e}): pack it again") from None


def unpack_zip(packed: zipfile.ZipFile, to: Path, limit: int, name: str = "of code") -> None:
    """Unpack a zip into an existing folder, with its execute bits; raises the errors of :func:`unpack_archive`."""
    if sum(info.file_size for info in packed.infolist()) > limit:
        raise _refused(f"archive {name} unpacks to more than {limit >> 20} MiB: give data as an input instead")
    for info in packed.infolist():
        # Checked by name rather than by extract(), which would silently put the member elsewhere.
        if info.filename.startswith("/") or ".." in info.filename.split("/"):
            raise _refused(f"archive {name} has a member {info.filename!r} outside of it: pack it again")
        mode = info.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise _refused(f"archive {name} has a link, {info.filename!r}: pack files, or use a tar")
        path = Path(packed.extract(info, to))
        if mode & 0o100 and path.is_file():
            path.chmod(0o755)


def _unpack_tar(tar: tarfile.TarFile, to: Path, name: str) -> None:
    if not hasattr(tarfile, "data_filter"):  # Python 3.11.0 to 3.11.3
        raise _refused(f"archive {name} is a tar, which this worker's Python unpacks from 3.11.4 on: pack a zip")
    left = ARCHIVE_LIMIT
    for member in tar:
        left -= member.size
        if left < 0:
            raise _refused(f"archive {name} unpacks to more than {ARCHIVE_LIMIT >> 20} MiB: give data as an input")
        tar.extract(member, to, filter="data")


def _refused(message: str) -> CorruptDataError:
    error = CorruptDataError(message)
    error.retryable = False
    return error


class Lock:
    """An advisory lock on a file: shared by the users of what it guards, exclusive for removing that."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def shared(cls, path: Path) -> Lock:
        """Wait for the shared lock and take it."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH)
            if _is_at(fd, path):
                return cls(fd)
            os.close(fd)

    @classmethod
    def exclusive(cls, path: Path) -> Lock | None:
        """Take the exclusive lock; return it, or None if another process holds the lock."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if not _is_at(fd, path):
            os.close(fd)
            return None
        return cls(fd)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _is_at(fd: int, path: Path) -> bool:
    """Check whether the open file is still the one at ``path``.

    A holder of the exclusive lock may have removed it meanwhile, and a lock on a removed file guards nothing.
    """
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
