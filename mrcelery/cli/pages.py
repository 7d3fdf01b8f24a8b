"""The pages of the guide, as the package ships them: Markdown files under ``mrcelery/guide``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby

KINDS = {
    "tutorial": "Tutorial",
    "howto": "How-to",
    "reference": "Reference",
    "explanation": "Explanation",
    "": "Architecture",
}
"""Folders of pages with their headings, in the order in which they are listed."""

_COMMENT = re.compile(r"\s*<!--.*-->\s*")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})")
_BLOCK_START = re.compile(r"\s*([-*+] |\d+\. |#|\|)")


@dataclass(frozen=True)
class Page:
    """One page; ``text`` is its Markdown without comments, which are for the tests of the page."""

    kind: str
    stem: str
    text: str

    @property
    def name(self) -> str:
        """What no other page is called: ``howto/fleet``."""
        return f"{self.kind}/{self.stem}" if self.kind else self.stem

    @property
    def title(self) -> str:
        """The heading of the page."""
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def summary(self) -> str:
        """The sentence below the title."""
        return " ".join(self.text.partition("\n\n")[2].partition("\n\n")[0].split())

    def lines(self) -> Iterator[str]:
        """Iterate over paragraphs, list items and table rows, each joined to one line, and lines of code."""
        held: list[str] = []
        for line, code in with_code(self.text):
            if held and (code or not line.strip() or _BLOCK_START.match(line)):
                yield " ".join(held)
                held = []
            if code and not _FENCE.match(line):
                yield line.strip()
            elif not code and line.strip():
                held.append(line.strip())
        if held:
            yield " ".join(held)


def pages() -> list[Page]:
    """Read all pages, by kind and name."""
    guide = files("mrcelery") / "guide"
    found = []
    for kind in KINDS:
        folder = guide / kind if kind else guide
        for file in sorted(folder.iterdir(), key=lambda file: file.name) if folder.is_dir() else ():
            stem, _, suffix = file.name.rpartition(".")
            if suffix == "md":
                found.append(Page(kind, stem, without_comments(file.read_text(encoding="utf-8"))))
    return found


def with_code(text: str) -> Iterator[tuple[str, bool]]:
    """Iterate over the lines of Markdown, each with whether it belongs to a fenced block of code."""
    fence = ""
    for line in text.splitlines():
        mark = _FENCE.match(line)
        yield line, bool(fence or mark)
        if mark and not fence:
            fence = mark[1]
        elif fence and line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            fence = ""


def without_comments(text: str) -> str:
    """Remove lines that are HTML comments, and the blank lines that this leaves; code stays unchanged."""
    kept = [(line, code) for line, code in with_code(text) if code or not _COMMENT.fullmatch(line)]
    lines: list[str] = []
    for blank, run in groupby(kept, lambda one: not (one[1] or one[0].strip())):
        lines += [""] if blank else [line for line, _ in run]
    return "\n".join(lines).strip("\n") + "\n"
