"""The names of formats."""

from __future__ import annotations

import pytest

from mrcelery.errors import UsageError
from mrcelery.formats import input_format, output_format


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="use one of text, lines, jsonl, whole-file"):
        input_format("exe")
    with pytest.raises(UsageError, match="use one of json, text, jsonl, none"):
        output_format("exe")
