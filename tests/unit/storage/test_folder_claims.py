"""A claim that is revoked in the midst of a copy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mrcelery.storage import open_storage
from mrcelery.storage.base import RevokedError, Source
from mrcelery.storage.claims import claim, revoke


def test_a_claim_that_is_revoked_once_its_copy_is_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is gone, not the file to copy: that would be made again."""
    storage, output = open_storage(str(tmp_path / "storage")), open_storage(str(tmp_path / "out"))
    storage.write("part", b"bytes")
    found = storage.stat("part")
    assert found is not None
    mine = claim(output, "claims/1/claim")
    mine.take()
    link = os.link

    def linked(source: Any, target: Any) -> None:
        link(source, target)
        revoke(output, "claims/1/claim")

    monkeypatch.setattr(os, "link", linked)
    with pytest.raises(RevokedError):
        mine.copy(Source(storage, "part", found.size, found.tag), "part-00000")
    assert list(output.list()) == []
