"""Copies of values that could change later."""

from __future__ import annotations

from typing import Any

import pytest

from mrcelery.records.snapshot import snapshot


class Raises:
    """Cannot be copied."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise self._error


def test_what_cannot_be_copied_is_left_to_the_codec() -> None:
    value = Raises(TypeError)
    assert snapshot(value) is value


def test_a_copy_that_memory_does_not_allow_is_no_value_that_cannot_be_copied() -> None:
    with pytest.raises(MemoryError):
        snapshot([Raises(MemoryError)])
