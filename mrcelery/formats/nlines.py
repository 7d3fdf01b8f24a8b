"""Lines in groups of N (``lines:N``): each value is a list of N lines as ``str``, under the key None.

For records that always take the same number of lines, such as FASTQ's four, and for work lists from which one call
should take several lines. Only a file's last group may be shorter. The start of a group depends on the count of lines
before it, so a file is never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mrcelery.formats.base import RecordBlock
from mrcelery.formats.lines import line_blocks, offsets, too_long
from mrcelery.formats.text import text_lines
from mrcelery.schema.structs import Extent


class GroupedLinesInput:
    """Values are lists of ``count`` lines, each as in the ``text`` format."""

    splittable = False

    def __init__(self, count: int) -> None:
        self._count = count

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Regroup the lines by N from the file's first; values are lists of N lines, the last one may be shorter."""
        n = self._count
        held: list[str] = []  # lines of an incomplete group, which begins at byte held_at
        held_at = 0
        for offset, raw in line_blocks(extent, max_record):
            if not held:
                held_at = offset
            lines = held + text_lines(raw)
            whole = len(lines) - len(lines) % n
            groups = [lines[i : i + n] for i in range(0, whole, n)]
            offset_of = _offsets(held_at, len(held), n, offset, raw)
            if offset + len(raw) - held_at > max_record:
                _check_lengths(extent.uri, groups, offset_of, max_record)
            if groups:
                yield RecordBlock(None, groups, extent.uri, offset_of)
                held = lines[whole:]
                held_at = offset + _last_lines(raw, len(held))
            else:
                held = lines
            if held and offset + len(raw) - held_at > max_record:
                raise too_long(extent.uri, held_at, max_record)
        if held:
            yield RecordBlock(None, [held], extent.uri, lambda i: held_at)


def _offsets(held_at: int, held: int, n: int, offset: int, raw: bytes) -> Callable[[int], int]:
    """Make a function that finds the offset of group ``i``; the first may begin with lines of earlier blocks."""
    of_line = offsets(offset, raw)
    return lambda i: of_line(i * n - held) if i else held_at


def _last_lines(raw: bytes, count: int) -> int:
    """Find where in a block its last ``count`` lines begin."""
    at = len(raw) - raw.endswith(b"\n")
    for _ in range(count):
        at = raw.rfind(b"\n", 0, at)
    return at + 1 if count else len(raw)


def _check_lengths(uri: str, groups: list[list[str]], offset_of: Callable[[int], int], max_record: int) -> None:
    for i, group in enumerate(groups):
        if sum(len(line.encode("utf-8", "surrogateescape")) for line in group) > max_record:
            raise too_long(uri, offset_of(i), max_record)
