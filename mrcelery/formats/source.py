"""The bytes of an input file, from wherever it lies, no more of them than are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mrcelery.errors import CorruptDataError, InputError
from mrcelery.schema.structs import Extent
from mrcelery.storage import Storage, locate, scheme_of
from mrcelery.storage.base import Version
from mrcelery.storage.readahead import Piece, foreseen, ranges, read_ahead

BLOCK = 1 << 20
"""Bytes read at a time."""

SLACK = 64 << 10
"""Bytes asked for beyond an extent's end in the same request, for the rest of its last line."""

_LARGEST = 64 << 20


def read_from(extent: Extent, start: int) -> Iterator[bytes]:
    """Yield the file's bytes from ``start`` to its end, in chunks of about :data:`BLOCK`.

    Stop iterating once the extent's last record is complete: what lies beyond its end is fetched piece
    by piece. Raises :class:`InputError` if the file is gone or may not be read.
    """
    with readable(extent.uri):
        storage, key = locate(extent.uri)
        path = storage.local_path(key)
        if path is not None:
            yield from _local(path, start)
        elif extent.end < 0:
            yield from storage.stream(key, start, None, BLOCK, Version())
        else:
            yield from _remote(storage, key, start, extent)


@contextmanager
def in_turn(extents: Iterable[Extent]) -> Iterator[None]:
    """Announce that this block reads these extents in this order: small files on S3 are fetched ahead."""
    pieces = []
    for extent in extents:
        if scheme_of(extent.uri) == "s3" and extent.start == 0 and not extent.block:
            storage, key = locate(extent.uri)
            pieces.append(Piece(storage, key, 0, min(extent.size, extent.end + SLACK)))
    with foreseen(pieces):
        yield


def requests_for(extent: Extent) -> int:
    """Count the ranges that :func:`read_from` requests of S3, unless a last line is longer than :data:`SLACK`."""
    return len(ranges(max(0, extent.start - 1), min(extent.size, extent.end + SLACK)))


@contextmanager
def readable(uri: str) -> Iterator[None]:
    """Raise :class:`InputError` in this block for a file that is gone or forbidden."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"input {uri} is gone: leave inputs alone while a job runs, then submit again") from None
    except (PermissionError, IsADirectoryError) as e:
        raise InputError(f"input {uri} cannot be read ({e.strerror}): give the workers the right to it") from None


def shortened(extent: Extent, size: int) -> CorruptDataError:
    """Make the error for a file that ended at ``size`` bytes, before its extent did."""
    error = CorruptDataError(
        f"{extent.uri} had {extent.size} bytes when the job was planned, and now ends at {size}: "
        "leave inputs alone while a job runs, then submit again",
        file=extent.uri,
        offset=size,
    )
    error.retryable = False
    return error


def _local(path: str, start: int) -> Iterator[bytes]:
    with Path(path).open("rb", buffering=0) as file:
        file.seek(start)
        while data := file.read(BLOCK):
            yield data


def _remote(storage: Storage, key: str, start: int, extent: Extent) -> Iterator[bytes]:
    # An open-ended request, left half way, would have the rest sent for nothing and cost the connection.
    at, stop, step = start, extent.end + SLACK, BLOCK
    version = Version()
    scheme = scheme_of(storage.uri)
    # A web server may send the whole file whatever range is asked for; if it was split, it does not.
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
