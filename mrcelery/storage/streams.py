"""What several storages share."""

from __future__ import annotations

from mrcelery.storage.base import Storage


def copy_through(source: Storage, key: str, to: Storage, to_key: str) -> None:
    """Copy an object by way of this process, a chunk at a time."""
    chunks = source.stream(key)
    # The first chunk is fetched before the writer opens: a missing source must not leave a target.
    first = next(chunks, b"")
    with to.writer(to_key) as out:
        out.write(first)
        for chunk in chunks:
            out.write(chunk)
