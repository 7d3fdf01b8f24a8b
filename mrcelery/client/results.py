"""Reading a job's part files back: streamed in order, decompressed, or copied into a local folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcelery.config import Config
from mrcelery.errors import InputError, OutputExistsError, StorageUnreachableError
from mrcelery.events import StorageAwaited
from mrcelery.formats.compression import decompress
from mrcelery.schema import object_keys
from mrcelery.storage.patience import Patience

if TYPE_CHECKING:
    from mrcelery.events import Event
    from mrcelery.storage.base import Storage

Pair = tuple[Any, Any]


def part_names(storage: Storage, where: str) -> list[str]:
    """List the part files at the root of an OUTPUT by number. Raises :class:`InputError` if there are none."""
    found = [i.key for i in storage.list("part-") if object_keys.PART_NAME.fullmatch(i.key)]
    if not found:
        raise InputError(f"{where} holds no part files: give a job id or the OUTPUT of a job that succeeded")
    return sorted(found, key=lambda name: int(name.split("-")[1].split(".")[0]))


def waiting(job: str, seconds: float | None, report: Callable[[Event], None]) -> Patience:
    """Make a client's patience with a storage that is away: ``seconds``, or the configured value."""

    def away(away: float, patience: float, reason: str) -> None:
        report(StorageAwaited(job=job, at=time.time(), seconds=away, patience=patience, reason=reason))

    return Patience(Config.load({}).storage_patience if seconds is None else seconds, away)


def content(storage: Storage, keys: Iterable[str], patience: Patience | None = None) -> Iterator[bytes]:
    """Iterate over the bytes of objects one after the other, in pieces, decompressed by each name's extension."""

    for key in keys:
        yield from decompress(patience.stream(storage, key) if patience else storage.stream(key), key)


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Iterate over lines without their newline, from pieces of bytes with arbitrary boundaries."""
    tail: list[bytes] = []
    for chunk in chunks:
        first, newline, rest = chunk.partition(b"\n")
        tail.append(first)
        if newline:
            yield b"".join(tail)
            *whole, last = rest.split(b"\n")
            yield from whole
            tail = [last]
    if last := b"".join(tail):
        yield last


def parse_json(line: bytes) -> Pair:
    """Parse a ``JSON key TAB JSON value`` line; JSON has no raw tab, so the first one separates."""
    key, _, value = line.partition(b"\t")
    return json.loads(key), json.loads(value)


def parse_raw(line: bytes) -> Pair:
    """Return a line of any other text format as a pair: None as key, and the line as text."""
    return None, line.decode("utf-8", "surrogateescape")


def parse_lenient(line: bytes) -> Pair:
    """Parse a line as JSON if possible, else (an output protocol wrote it) like :func:`parse_raw`."""
    try:
        return parse_json(line)
    except ValueError:
        return parse_raw(line)


def check_free(path: str) -> None:
    """Raise :class:`OutputExistsError` if a local OUTPUT already contains anything."""
    try:
        with os.scandir(path) as entries:
            taken = next(entries, None) is not None
    except FileNotFoundError:
        return
    except NotADirectoryError:
        taken = True
    if taken:
        raise OutputExistsError(f"output {path} exists and is not empty: choose another, or add --overwrite")


def fetch(
    stream: Callable[[str], Iterator[bytes]],
    keys: Iterable[str],
    target: str,
    success: bytes,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int], None] | None = None,
) -> None:
    """Copy part files and a ``_SUCCESS`` into the local folder ``target``, which appears whole or not at all.

    ``stream`` yields an object's bytes by its key. With ``overwrite`` the part files of an existing folder are
    replaced, ``_SUCCESS`` last. ``progress`` is called with a part's name and the number of bytes just written. Raises
    :class:`OutputExistsError` if ``target`` is not empty and ``overwrite`` is False.
    """
    if not overwrite:
        check_free(target)
    place = Path(target).absolute()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # next to the target: a rename is atomic only within one file system
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
            fresh = Path(temporary) / "new"
            fresh.mkdir()
            for key in keys:
                name = key.rpartition("/")[2]
                if f"/{object_keys.BAD_RECORDS}" in f"/{key}":
                    name = object_keys.BAD_RECORDS + name
                    (fresh / object_keys.BAD_RECORDS).mkdir(exist_ok=True)
                with (fresh / name).open("wb") as part:
                    for chunk in stream(key):
                        part.write(chunk)
                        if progress is not None:
                            progress(name, len(chunk))
            (fresh / object_keys.SUCCESS).write_bytes(success)
            if overwrite and place.is_dir():
                with _alone(place):
                    _replace_parts(fresh, place)
            else:
                fresh.rename(place)
    except OSError as e:
        why = e.strerror or e
        raise StorageUnreachableError(f"cannot write {target} ({why}): make it writable, or choose another") from None


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keep other clients from replacing a folder's contents during the block, wherever this client may be stopped."""
    folder = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputExistsError(
                f"another process is replacing what {place} holds: wait for it, or choose another folder"
            ) from None
        except OSError as e:
            if e.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EBADF):  # a file system without locks
                raise
        yield
    finally:
        os.close(folder)


def _replace_parts(fresh: Path, place: Path) -> None:
    """Replace old part files by new ones; leave other files in the folder alone."""
    (place / object_keys.SUCCESS).unlink(missing_ok=True)
    for old in place.iterdir():
        if object_keys.PART_NAME.fullmatch(old.name):
            old.unlink()
    shutil.rmtree(place / object_keys.BAD_RECORDS, ignore_errors=True)
    for new in sorted(fresh.iterdir(), key=lambda path: path.name == object_keys.SUCCESS):
        new.rename(place / new.name)
