"""mrcelery completion."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(mr, shell: str) -> None:
    assert "_MRCELERY_COMPLETE" in mr("completion", shell).out
