"""What tests of the client share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.word_count import TEXT


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the test's own."""
    for name in ("MRCELERY_BROKER", "CELERY_BROKER_URL", "MRCELERY_STORAGE", "MRCELERY_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text(TEXT)
