"""The map side's buffer of Arrow columns: what :mod:`mrcelery.buffer` is for pairs."""

from __future__ import annotations

from typing import Any

from mrcelery.codec import Block
from mrcelery.colops import UnfitError, fold_of
from mrcelery.columns import order, take
from mrcelery.folding import folded
from mrcelery.ops import Op
from mrcelery.shuffle import joined

SLACK = 1 << 18
"""Rows of accumulators that are held before equal keys among them become one."""


class ArrayBuffer:
    """Columns of one pair of types; accumulators of ``op`` where there is one."""

    def __init__(self, op: Op | None) -> None:
        self._op = op
        self._fold = fold_of(op)
        self._held: list[Block] = []
        self._rows = 0
        self._merged = 0  # rows at the front in which no key comes twice
        self.bytes = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, keys: Any, values: Any) -> bool:
        """Take two arrays; False, and nothing is taken, where they are to become objects."""
        if self._op is not None:
            if self._fold is None:
                return False
            try:
                keys, values = self._fold.create(keys, values)
            except UnfitError:
                return False
        if self._held and (self._held[0].keys.type, self._held[0].values.type) != (keys.type, values.type):
            return False
        self._hold(Block(keys, values))
        if self._fold is not None and self._rows > 3 * self._merged + SLACK:
            self._merge()
        return True

    def _hold(self, block: Block) -> None:
        self._held.append(block)
        self._rows += len(block.keys)
        self.bytes += block.keys.nbytes + block.values.nbytes

    def _merge(self) -> None:
        """Make one accumulator of those of a key; where arrays cannot hold it, they stay apart."""
        assert self._fold is not None
        held = joined(self._held)
        try:
            held = Block(*self._fold.merge(*held))
        except UnfitError:
            pass
        self._held, self._rows, self.bytes = [], 0, 0
        self._hold(held)
        self._merged = self._rows

    def drain(self) -> Block:
        """Everything in order of key; the buffer is empty afterwards."""
        held, self._held = self._held, []
        self._rows = self._merged = self.bytes = 0
        if self._fold is not None:
            try:
                return folded(self._fold, held)
            except UnfitError:
                pass
        keys, values = joined(held)
        del held
        by = order(keys)
        return Block(take(keys, by), take(values, by))
