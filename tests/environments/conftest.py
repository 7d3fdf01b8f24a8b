"""Environments take minutes and a package index: pytest skips this folder unless it is named; .ci/run runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore the folder unless an argument of the command lies in it."""
    named = any(
        HERE in (place, *place.parents) for place in (Path(arg.split("::")[0]).resolve() for arg in config.args)
    )
    return None if named else True
