"""mrcelery completion."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(mr: Any, shell: str) -> None:
    assert "_MRCELERY_COMPLETE" in mr("completion", shell).out
