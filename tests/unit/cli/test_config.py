"""mrcelery config."""

from __future__ import annotations

import json
from typing import Any

import pytest


def test_config_show(mr: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCELERY_SIGNING_KEY", "s3cret")
    shown = json.loads(mr("config", "show", "--json").out)
    assert shown["signing_key"] == {"value": "****", "origin": "MRCELERY_SIGNING_KEY"}
    assert shown["queue"] == {"value": "celery", "origin": "default"}
    assert "s3cret" not in mr("config", "show").out
