"""A folder whose file system is away says so in the errors of the system, or by being empty."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import StorageOutageError, StorageRefusedError, StorageUnreachableError
from mrcelery.storage import check
from mrcelery.storage.base import MARKER, Storage
from mrcelery.storage.folder import FolderStorage


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, StorageOutageError) for number in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)),
        *((number, StorageRefusedError) for number in (errno.EACCES, errno.EPERM)),
        *((number, StorageUnreachableError) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
    ],
)
def test_what_an_error_is(number: int, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Path, *args: object, **more: object) -> Any:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "open", failing)
    for call in (lambda: FolderStorage(str(tmp_path)).read("a"), lambda: FolderStorage(str(tmp_path)).write("a", b"")):
        with pytest.raises(kind) as raised:
            call()
        assert type(raised.value) is kind


CALLS: dict[str, Callable[[Storage], object]] = {
    "read": lambda storage: storage.read("a/b"),
    "stream": lambda storage: list(storage.stream("a/b")),
    "write": lambda storage: storage.write("a/c", b""),
    "create": lambda storage: storage.create("a/c", b""),
    "stat": lambda storage: storage.stat("a/b"),
    "list": lambda storage: list(storage.list("a/")),
    "folders": lambda storage: list(storage.folders("a/")),
    "delete": lambda storage: storage.delete(["a/b"]),
    "copy": lambda storage: storage.copy("a/b", storage, "a/c"),
    "check": lambda storage: check(storage, anew=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_folder_that_is_not_mounted_is_not_empty(name: str, tmp_path: Path) -> None:
    storage, place = FolderStorage(str(tmp_path / "root")), tmp_path / "root"
    check(storage)
    storage.write("a/b", b"data")
    CALLS[name](storage)
    place.rename(tmp_path / "away")
    place.mkdir()
    with pytest.raises(StorageOutageError, match=rf"is missing \({MARKER} is gone\): mount it again"):
        CALLS[name](storage)
    assert list(place.iterdir()) == []
    place.rmdir()
    with pytest.raises(StorageOutageError):
        CALLS[name](storage)
    assert not place.exists()
    (tmp_path / "away").rename(place)
    assert storage.read("a/b") == b"data" if name != "delete" else storage.stat("a/b") is None


def test_a_folder_that_was_removed_on_purpose_serves_a_new_job(tmp_path: Path) -> None:
    storage = FolderStorage(str(tmp_path / "root"))
    check(storage)
    (tmp_path / "root").rename(tmp_path / "old")
    check(storage)
    storage.write("a/b", b"data")
    assert (tmp_path / "root" / MARKER).exists()
