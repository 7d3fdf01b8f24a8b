"""Which reduce task reads which parts: the committed parts, sorted by partition in bounded memory.

M map tasks leave up to M times R parts, too many to hold if both are large.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict

from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Part, ShuffleInput

HELD = 16 << 20
"""Encoded bytes of parts kept in memory; beyond it they go to files, one per partition."""


class PartLists:
    """Collects parts in order of map task; a context manager that removes its files under ``scratch``."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._folder = ""
        self._held: defaultdict[int, bytearray] = defaultdict(bytearray)
        self._bytes = 0

    def __enter__(self) -> PartLists:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, part: Part) -> None:
        """Add one part to its partition's list; write all lists to files beyond :data:`HELD` bytes."""
        data = encode(part)
        held = self._held[part.partition]
        held += data
        held += b","
        self._bytes += len(data) + 1
        if self._bytes > HELD:
            self._spill()

    def _spill(self) -> None:
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="parts-", dir=self._scratch)
        for partition, held in self._held.items():
            with open(self._path(partition), "ab") as file:
                file.write(held)
        self._held.clear()
        self._bytes = 0

    def _path(self, partition: int) -> str:
        return os.path.join(self._folder, str(partition))

    def encoded(self, partition: int, low: bytes | None = None, high: bytes | None = None) -> bytes:
        """Encode the :class:`ShuffleInput` of a partition like :func:`mrcelery.schema.encoding.encode`."""
        parts = bytes(self._held.get(partition, b""))
        if self._folder and os.path.exists(self._path(partition)):
            with open(self._path(partition), "rb") as file:
                parts = file.read() + parts
        head = encode(ShuffleInput(partition=partition, low=low, high=high, parts=())).removesuffix(b"]}")
        return head + parts.rstrip(b",") + b"]}"
