"""Turning a client's inputs into addresses that the workers can read.

If workers see this machine's files (the inline and local runners, or a fleet whose storage is a folder), a local input
becomes an absolute path. Otherwise its content goes to the job's storage once, as ``inputs/<sha256>/<name>``: through
the job store if the whole input is small, else uploaded from here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mrcelery.errors import InputError
from mrcelery.formats import input_format as format_named
from mrcelery.schema import object_keys
from mrcelery.storage import open_storage
from mrcelery.storage.addresses import INPUT, is_remote, local, tidy
from mrcelery.storage.patience import Patience

SMALL = 256 << 10
"""Largest local input, in bytes over all files, that is sent through the job store."""

_CHUNK = 1 << 20

Progress = Callable[[str, int, int], None]
"""Called with a file's name, its bytes uploaded so far and its size."""


@dataclass
class Inputs:
    """Addresses for the request, and the content sent along with it, by SHA-256 (hex)."""

    uris: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)


def absolute(inputs: Iterable[str], spool: str) -> Inputs:
    """Make addresses for workers that see this machine's files.

    Standard input and other streams are written into the folder ``spool``. Raises :class:`InputError` for a local
    input that does not exist.
    """
    found = Inputs()
    for number, uri in enumerate(inputs):
        if is_remote(uri):
            found.uris.append(tidy(uri, INPUT))
        elif is_stream(uri):
            found.uris.append(str(_spooled(uri, spool, number)))
        else:
            found.uris.append(_existing(uri))
    return found


def upload(
    inputs: Iterable[str],
    storage_uri: str,
    input_format: str,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Inputs:
    """Upload local inputs and make addresses for workers that do not see this machine's files.

    If the storage is away, wait for it with ``patience``, if given. A file whose content is already in storage is not
    uploaded again. Raises :class:`InputError` for a local input that matches nothing, and for one that changes
    meanwhile.
    """
    found = Inputs()
    pending: list[tuple[int, Path]] = []
    with tempfile.TemporaryDirectory(prefix="mrcelery-") as spool:
        for number, uri in enumerate(inputs):
            paths: Iterable[Path | None]
            if is_remote(uri):
                paths = [None]
            elif is_stream(uri):
                paths = [_spooled(uri, spool, number)]
            else:
                paths = _paths(uri, input_format)
            for path in paths:
                if path is not None:
                    pending.append((len(found.uris), path))
                found.uris.append(tidy(uri, INPUT))
        if sum(path.stat().st_size for _, path in pending) <= SMALL:
            for at, path in pending:
                data = path.read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                found.blobs[digest] = data
                name = found.names.setdefault(digest, path.name)
                found.uris[at] = f"{storage_uri}/{object_keys.shared_input(digest, name)}"
        else:
            for at, path in pending:
                send = partial(_send, storage_uri, path, progress)
                found.uris[at] = f"{storage_uri}/{patience.call(send) if patience else send()}"
    return found


def _existing(uri: str) -> str:
    path = local(uri)
    if not any(c in path for c in "*?[") and not os.path.exists(path):
        raise InputError(f"input {uri!r} does not exist: give a file, a folder, a glob or an s3:// address")
    return path


def is_stream(uri: str) -> bool:
    """Check whether only this process can read an input, and only once: ``-``, FIFO, ``/dev/stdin``, ``<(command)``."""
    if uri == "-":
        return True
    if is_remote(uri):
        return False
    path = local(uri)
    if path.startswith(("/dev/stdin", "/dev/fd/", "/proc/self/fd/")):
        return True
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _spooled(uri: str, spool: str, number: int) -> Path:
    """Copy the stream with this input number into a file."""
    copy = Path(spool) / ("stdin" if uri == "-" else f"stream-{number}")
    with contextlib.ExitStack() as stack:
        try:
            source = sys.stdin.buffer if uri == "-" else stack.enter_context(open(local(uri), "rb"))
        except OSError as e:
            raise InputError(
                f"input {uri} cannot be read ({e.strerror}): give a file, or - for standard input"
            ) from None
        shutil.copyfileobj(source, stack.enter_context(copy.open("wb")))
    return copy


def _paths(uri: str, input_format: str) -> Iterator[Path]:
    from mrcelery.planning.listing import list_inputs  # noqa: PLC0415 - only inputs to upload are listed here

    for file in list_inputs([_existing(uri)], format_named(input_format)):
        yield Path(local(file.uri))


def _send(storage_uri: str, path: Path, progress: Progress | None) -> str:
    storage = open_storage(storage_uri)
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        digest = hashlib.sha256()
        for chunk in _first(source, size):
            digest.update(chunk)
        key = object_keys.shared_input(digest.hexdigest(), path.name)
        there = storage.stat(key)
        if there is None or there.size != size:
            sent, seen = 0, hashlib.sha256()
            with storage.writer(key) as target:
                for chunk in _first(source, size):
                    target.write(chunk)
                    seen.update(chunk)
                    sent += len(chunk)
                    if progress is not None:
                        progress(path.name, sent, size)
                if seen.digest() != digest.digest():  # within the block: the object never appears
                    raise InputError(
                        f"input {path} changed while it was uploaded: submit again when nothing writes to it"
                    )
    return key


def _first(source: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the first ``size`` bytes: data appended to a growing file meanwhile is not part of the input."""
    source.seek(0)
    while size > 0 and (chunk := source.read(min(_CHUNK, size))):
        size -= len(chunk)
        yield chunk
