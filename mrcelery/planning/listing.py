"""Inputs to files: the files meant by a file, a folder, a glob or an address.

Files are listed lazily: 100,000 of them are never in memory at once.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mrcelery.errors import InputError, StorageUnreachableError
from mrcelery.formats.base import InputFormat
from mrcelery.formats.compression import compression_of, why_unreadable
from mrcelery.planning.globs import Glob, has_magic, hidden
from mrcelery.storage import ObjectInfo, Storage, locate
from mrcelery.storage.addresses import INPUT, parse
from mrcelery.storage.file_versions import growing
from mrcelery.storage.folder import FolderStorage


class InputFile(NamedTuple):
    """A file of the input: its address, its size in bytes (-1: not known), and whether it may be cut.

    ``tag`` distinguishes it from later content at its address: a strong ETag on S3, on the web also the date of its
    last change; for a file on a disk see :mod:`mrcelery.storage.file_versions`; "" if it has none.
    """

    uri: str
    size: int
    splittable: bool
    tag: str = ""


def list_inputs(inputs: Iterable[str], fmt: InputFormat, since: float = math.inf) -> Iterator[InputFile]:
    """Yield the files of each input in the order given; within a folder, a prefix or a glob, in order of name.

    A folder means all files below it, except those whose name, or the name of a folder on the way, begins with ``_`` or
    ``.``; a file named explicitly is taken whatever its name. A file on a disk that was written to since ``since``
    (epoch seconds) may be appended to while the job runs. Raises :class:`InputError` for an input that matches nothing.
    """
    for uri in inputs:
        address = parse(uri, INPUT)
        scheme = address.scheme
        if scheme in ("http", "https"):
            yield _http_file(str(address), fmt)
            continue
        storage, key = locate(uri)
        begin = f"{storage.uri}/" if scheme in ("s3", "memory") else "/"
        found = False
        try:
            for info in _objects(storage, key, folder=uri.endswith("/")):
                found = True
                yield _file(begin + info.key, info.size, fmt, tag=_tag(info, since, on_disk=not scheme))
        except StorageUnreachableError as e:
            if not scheme:
                raise InputError(f"input {uri} cannot be listed: {e}") from None
            raise
        if not found:
            raise InputError(
                f"input {uri} matches no file (names that begin with _ or . are skipped): "
                "give a file, a folder, a glob or an s3:// address that exists"
            )


def _objects(storage: Storage, key: str, folder: bool) -> Iterator[ObjectInfo]:
    """Yield the objects meant by an input: the one with this key, or those in a glob or a folder."""
    if key and not folder and (info := storage.stat(key)) is not None:
        yield info
        return
    if has_magic(key) and not _is_folder(storage, key):
        glob = Glob(key)
        found, match = _walk(storage, glob.prefix, glob.enter), glob.match
    else:
        prefix = key.rstrip("/") + "/" if key else ""

        def shown(key: str) -> bool:
            return not any(map(hidden, key[len(prefix) :].split("/")))

        found, match = _walk(storage, prefix, shown), shown
    for info in found:
        # A key that ends in a slash is a console's marker of an empty folder.
        if not info.key.endswith("/") and match(info.key):
            yield info


def _is_folder(storage: Storage, key: str) -> bool:
    path = storage.local_path(key.rstrip("/"))
    return path is not None and os.path.isdir(path)


def _walk(storage: Storage, prefix: str, enter: Callable[[str], bool]) -> Iterator[ObjectInfo]:
    if isinstance(storage, FolderStorage):
        return storage.list(prefix, enter)
    return storage.list(prefix)


def _tag(info: ObjectInfo, since: float, *, on_disk: bool) -> str:
    if on_disk:
        return growing(f"/{info.key}", info.tag, since)
    return "" if info.tag.startswith("W/") else info.tag


def _file(uri: str, size: int, fmt: InputFormat, ranges: bool = True, tag: str = "") -> InputFile:
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise InputError(f"the file name {uri!r} is not UTF-8: rename the file") from None
    if why := why_unreadable(uri, getattr(fmt, "endings", ())):
        raise InputError(why)
    return InputFile(uri, size, fmt.splittable and ranges and size >= 0 and not compression_of(uri), tag)


def _http_file(uri: str, fmt: InputFormat) -> InputFile:
    from mrcelery.storage.http import HttpStorage  # noqa: PLC0415 - only http addresses need urllib3

    storage, key = locate(uri)
    assert isinstance(storage, HttpStorage)
    found = storage.probe(key)
    if found is None:
        raise InputError(f"input {uri} does not exist (HTTP 404): correct the address")
    return _file(uri, found.size, fmt, ranges=found.ranges, tag=found.tag)
