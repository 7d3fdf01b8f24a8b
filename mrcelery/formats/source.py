"""The bytes of an input file, wherever it is stored; reads no more of them than requested."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from mrcelery.errors import ChangedInputError, InputError
from mrcelery.schema.structs import Extent
from mrcelery.storage import Storage, locate, scheme_of
from mrcelery.storage.base import Planned, Version, changed_input
from mrcelery.storage.file_versions import FileVersion, checked
from mrcelery.storage.readahead import Piece, foreseen, ranges, read_ahead

BLOCK = 1 << 20
"""Bytes read at a time."""

SLACK = 64 << 10
"""Bytes requested beyond an extent's end in the same request, for the rest of its last line."""

_LARGEST = 64 << 20


def read_from(extent: Extent, start: int) -> Iterator[bytes]:
    """Yield the file's bytes from ``start`` to its end, in chunks of about :data:`BLOCK`.

    Stop iterating once the extent's last record is complete: bytes beyond the extent's end are fetched piece by piece.
    Raises :class:`InputError` if the file is gone or may not be read.
    """
    with readable(extent.uri):
        storage, key = locate(extent.uri)
        path = storage.local_path(key)
        if path is not None:
            yield from _local(path, start, extent)
        elif extent.end < 0:
            yield from storage.stream(key, start, None, BLOCK, Version(planned(extent)))
        else:
            yield from _remote(storage, key, start, extent)


@contextmanager
def in_turn(extents: Iterable[Extent]) -> Iterator[None]:
    """Announce that this block reads these extents in this order: small files on S3 are fetched ahead."""
    pieces = []
    for extent in extents:
        if scheme_of(extent.uri) == "s3" and extent.start == 0 and not extent.block:
            storage, key = locate(extent.uri)
            pieces.append(Piece(storage, key, 0, min(extent.size, extent.end + SLACK), planned(extent)))
    with foreseen(pieces):
        yield


def planned(extent: Extent) -> Planned:
    """Return the planned version of the extent's file."""
    return Planned(extent.tag, extent.size)


def watch(extent: Extent, *, may_grow: bool = True) -> Callable[[], None]:
    """Return a function that raises :class:`ChangedInputError` if a file on a disk differs from the planned one.

    It does nothing for a file elsewhere.
    """
    storage, key = locate(extent.uri)
    path = storage.local_path(key)
    if path is None:
        return lambda: None
    version = FileVersion(extent.uri, path, planned(extent), may_grow=may_grow)

    def check() -> None:
        with readable(extent.uri):
            version.check()

    return check


def whole(extent: Extent) -> Extent:
    """Return the extent that covers the whole file, to its end wherever that is."""
    return replace(extent, start=0, end=-1)


def requests_for(extent: Extent) -> int:
    """Count the ranges that :func:`read_from` requests from S3, unless a last line is longer than :data:`SLACK`."""
    return len(ranges(max(0, extent.start - 1), min(extent.size, extent.end + SLACK)))


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Raise :class:`InputError` in this block for a file that is gone or forbidden."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"input {uri} is gone, or is not on this machine ({os.uname().nodename}): leave inputs alone while a job "
            "runs, and put them where all workers see them"
        ) from None
    except (PermissionError, IsADirectoryError) as e:
        raise InputError(f"input {uri} cannot be read ({e.strerror}): grant the workers read access") from None


def shortened(extent: Extent, size: int) -> ChangedInputError:
    """Make the error for a file that ended at ``size`` bytes, before its extent did."""
    return changed_input(extent.uri, f"{extent.size} bytes", f"{size} bytes", size)


def _local(path: str, start: int, extent: Extent) -> Iterator[bytes]:
    with Path(path).open("rb", buffering=0) as file:
        yield from checked(file, extent.uri, planned(extent), start, chunk=BLOCK)


def _remote(storage: Storage, key: str, start: int, extent: Extent) -> Iterator[bytes]:
    # An open-ended request that is abandoned half-way would transfer the rest in vain and cost the connection.
    at, stop, step = start, extent.end + SLACK, BLOCK
    version = Version(planned(extent))
    scheme = scheme_of(storage.uri)
    # A web server may send the whole file whatever range is requested; if the file was split, it does not.
    ranged = scheme == "s3" or (scheme in ("http", "https") and (extent.start > 0 or extent.end < extent.size))
    while extent.size < 0 or at < extent.size:
        if extent.size >= 0:
            stop = min(stop, extent.size)
        read = partial(read_ahead, storage) if ranged else storage.stream
        for data in read(key, at, stop, BLOCK, version):
            at += len(data)
            yield data
        if at < stop:
            return
        stop += step
        step = min(2 * step, _LARGEST)
