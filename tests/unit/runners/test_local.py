"""The local runner's folders, and folders that others have left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcelery.runners import local


def test_a_folder_that_goes_while_others_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client has just ended, which is not an error here; what dead clients left is removed all the same."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    going, dead = tmp_path / f"{local.PREFIX}going", tmp_path / f"{local.PREFIX}left"
    for folder in (going, dead):
        folder.mkdir()
    (dead / "lock").touch()
    listed = Path.glob

    def glob(self: Path, pattern: str) -> Iterator[Path]:
        for path in sorted(listed(self, pattern)):
            if path == going:
                path.rmdir()
            yield path

    monkeypatch.setattr(Path, "glob", glob)
    local._sweep()
    assert list(tmp_path.iterdir()) == []
