"""Docstrings, comments and messages keep to the words that CONTRIBUTING.md fixes, as the pages do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.guide_pages import BANNED, ROOT
from tests.support.source_text import comments, docstrings, messages, python_files

PACKAGE, TESTS = ROOT / "mrcelery", ROOT / "tests"

ANY = re.compile(rf"\b(?:{'|'.join(BANNED)})\b", re.IGNORECASE)

KEYS = re.compile(r"mrcelery:workers:told\b|X:told\b")
"""Redis keys in messages: they keep their names."""


def faults(texts: Iterator[tuple[int, str]], path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {found[0]!r}: write {better}"
        for line, text in texts
        if ANY.search(text)
        for banned, better in BANNED.items()
        for found in re.finditer(rf"\b(?:{banned})\b", KEYS.sub("", text), re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    ("folder", "texts"),
    [(PACKAGE, comments), (PACKAGE, docstrings), (PACKAGE, messages), (TESTS, comments), (TESTS, docstrings)],
    ids=lambda value: value.name if isinstance(value, Path) else value.__name__,
)
def test_no_banned_word_is_used(folder: Path, texts: Callable[[str], Iterator[tuple[int, str]]]) -> None:
    files = python_files(folder)
    assert len(files) > 100
    assert [fault for path in files for fault in faults(texts(path.read_text()), path)] == []


def test_each_kind_of_text_is_read() -> None:
    source = '"""A module: ``it stands``."""\n\nX = f"it is {1} no number"  # told\n"""Stands."""\nY = "came back"\n'
    assert list(docstrings(source)) == [(1, "A module: CODE."), (4, "Stands.")]
    assert list(comments(source)) == [(3, "# told")]
    assert list(messages(source)) == [(3, "it is X no number"), (5, "came back")]
    assert len(faults(docstrings(source), ROOT / "a.py")) == 1
    assert len(faults(comments(source), ROOT / "a.py")) == 1
    assert len(faults(messages(source), ROOT / "a.py")) == 1
