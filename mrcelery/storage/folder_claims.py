"""Claims on a folder: each is a folder inside it, through which every change is made by a rename.

New content is prepared there and renamed to its place; content to be removed is renamed into it first. To revoke a
claim, its folder is renamed out of the way. Then its holder's paths lead nowhere, and both kinds of rename fail,
whenever the holder tries them: so a process that was suspended changes nothing when it wakes up.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from mrcelery.storage.base import RevokedError, Source
from mrcelery.storage.file_versions import tag_of
from mrcelery.storage.folder import TEMPORARY, FolderStorage, errors_of

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class FolderClaim:
    """The claim whose object is ``key``; the object's folder belongs to the claim."""

    def __init__(self, storage: FolderStorage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._root = Path(storage.uri).absolute()
        self._folder = (self._root / key).parent

    def take(self) -> None:
        """Make the claim's folder, with an empty object by which it is listed."""
        self._storage.write(self._key, b"")

    def announce(self, keys: object) -> None:
        """Do nothing: no key needs to be announced."""

    def copy(self, source: Source, key: str) -> None:
        """Link the file if both roots share a file system, else copy its bytes."""
        staged = self._staged()
        with errors_of(staged):
            try:
                if not self._link(source, staged):
                    self._through(source, staged)
                self._place(staged, key)
            finally:
                staged.unlink(missing_ok=True)

    def _link(self, source: Source, staged: Path) -> bool:
        """Make ``staged`` another name of the source's file; return False if a link is not possible."""
        if not isinstance(source.storage, FolderStorage):
            return False
        path = source.storage.local_path(source.key)
        assert path is not None
        try:
            os.link(path, staged)
            linked = staged.stat()
        except FileNotFoundError:  # missing is the source, or the claim's folder, revoked before or after the link
            self._check()
            raise
        except OSError as e:
            if e.errno in _NO_LINK:
                return False
            raise
        # Not before: the linked file will be read, whatever has its name meanwhile.
        if source.tag and tag_of(linked) != source.tag:
            raise source.changed()
        return True

    def _through(self, source: Source, staged: Path) -> None:
        size = 0
        chunks = source.storage.stream(source.key)
        try:
            out = staged.open("xb")
        except FileNotFoundError:
            raise RevokedError from None
        with out:
            for chunk in chunks:
                out.write(chunk)
                size += len(chunk)
        if source.tag:
            found = source.storage.stat(source.key)
            if size != source.size or found is None or found.tag != source.tag:
                raise source.changed()

    def write(self, key: str, data: bytes) -> None:
        """Write a file in the claim's folder, then rename it."""
        staged = self._staged()
        with errors_of(staged):
            try:
                staged.write_bytes(data)
            except FileNotFoundError:
                raise RevokedError from None
            self._place(staged, key)

    def remove(self, key: str) -> None:
        """Rename the file into the claim's folder and delete it there."""
        path, gone = self._root / key, self._staged()
        with errors_of(path):
            try:
                os.rename(path, gone)
            except (FileNotFoundError, NotADirectoryError):
                self._check()
                return
            with suppress(FileNotFoundError):  # the claim was revoked meanwhile, and the file is gone with it
                gone.unlink()
            if path.parent != self._root:
                with suppress(OSError):  # it is not empty
                    path.parent.rmdir()

    def release(self) -> None:
        """Remove the claim's folder."""
        _bury(self._root, self._folder)

    def _staged(self) -> Path:
        return self._folder / f"{TEMPORARY}{os.urandom(6).hex()}"

    def _place(self, staged: Path, key: str) -> None:
        path = self._root / key
        for _ in range(1000):
            try:
                os.rename(staged, path)
            except FileNotFoundError:
                if not staged.exists():
                    raise RevokedError from None
                path.parent.mkdir(parents=True, exist_ok=True)  # another process may remove it while it is empty
            else:
                # If both names are the same file, the rename leaves both.
                staged.unlink(missing_ok=True)
                return
        raise FileNotFoundError(errno.ENOENT, "the folder keeps being removed", str(path.parent))

    def _check(self) -> None:
        if not self._folder.is_dir():
            raise RevokedError


def revoke(storage: FolderStorage, key: str) -> None:
    """Revoke the claim whose object is ``key``; no error if there is none."""
    root = Path(storage.uri).absolute()
    assert (root / key).parent != root
    with errors_of(root):
        _bury(root, (root / key).parent)


def _bury(root: Path, folder: Path) -> None:
    grave = root / f"{TEMPORARY}{os.getpid()}-{os.urandom(6).hex()}"
    with suppress(FileNotFoundError):
        os.rename(folder, grave)
        shutil.rmtree(grave, ignore_errors=True)
    with suppress(OSError):  # it contains other claims, or is gone
        folder.parent.rmdir()
