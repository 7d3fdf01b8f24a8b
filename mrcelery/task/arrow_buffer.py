"""The map side's buffer of Arrow columns, the counterpart of :mod:`mrcelery.task.map_buffer` for pairs."""

from __future__ import annotations

from typing import Any

from mrcelery.ops import Op
from mrcelery.records.blocks import Block
from mrcelery.records.columns import order, take
from mrcelery.shuffle.runs import joined
from mrcelery.task.arrow_ops import UnfitError, fold_of
from mrcelery.task.folding import folded

SLACK = 1 << 20
"""Rows to hold, if there is room, before merging equal keys: Arrow groups few rows at twice the cost of many."""


class ArrayBuffer:
    """Columns with one pair of types; accumulators of ``op`` if there is one."""

    def __init__(self, op: Op | None, room: int) -> None:
        """Make an empty buffer that holds about ``room`` bytes before it merges equal keys."""
        self._op = op
        self._room = room
        self._fold = fold_of(op)
        self._new: list[Block] = []  # values that are not in accumulators yet
        self._held: list[Block] = []
        self._rows = 0
        self._merged = 0  # number of held rows at the front whose keys are distinct
        self.bytes = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, block: Block) -> list[Block]:
        """Take a block of arrays; return the blocks, this one or more, that must be converted to objects instead."""
        if self._op is not None and self._fold is None:
            return [block]
        alike = (self._new or self._held)[:1]
        if alike and self._fold is None and _types(alike[0]) != _types(block):
            return [block]
        if self._new and _types(self._new[0]) != _types(block) and (refused := self._create()):
            return [*refused, block]
        self._new.append(block)
        self._count(block)
        if self._fold is None or not self._full():
            return []
        return self._create() or self._merge()

    def _full(self) -> bool:
        # At least half as many rows again as there are keys, or it would do nothing but merge.
        enough = self._rows > self._merged * 3 // 2
        return enough and (self.bytes > self._room or self._rows > 2 * self._merged + SLACK)

    def _count(self, block: Block) -> None:
        self._rows += len(block.keys)
        self.bytes += block.keys.nbytes + block.values.nbytes

    def _create(self) -> list[Block]:
        """Make accumulators of the new values; return the blocks for which arrays cannot hold them."""
        if self._fold is None or not self._new:
            return []
        new, self._new = self._new, []
        try:
            made = Block(*self._fold.create(*joined(new)))
        except UnfitError:
            made = None
        if made is not None and (not self._held or _types(made) == _types(self._held[0])):
            self._held.append(made)
            new = []
        self._recount()
        return new

    def _merge(self) -> list[Block]:
        """Merge the accumulators of each key into one; if arrays cannot hold it, they stay separate."""
        assert self._fold is not None
        if len(self._held) > 1:
            held = joined(self._held)
            try:
                held = Block(*self._fold.merge(*held))
            except UnfitError:
                pass
            self._held = [held]
        self._recount()
        self._merged = self._rows
        return []

    def _recount(self) -> None:
        self._rows = self.bytes = 0
        for block in self._held:
            self._count(block)

    def drain(self) -> tuple[Block | None, list[Block]]:
        """Return everything in order of key, and blocks to convert to objects; empty the buffer."""
        refused = self._create()
        held, self._held = [*self._held, *self._new], []
        self._new = []
        self._rows = self._merged = self.bytes = 0
        if not held:
            return None, refused
        if self._fold is not None:
            try:
                return folded(self._fold, held), refused
            except UnfitError:
                pass
        keys, values = joined(held)
        del held
        by = order(keys)
        return Block(take(keys, by), take(values, by)), refused


def _types(block: Block) -> tuple[Any, Any]:
    return block.keys.type, block.values.type
