"""Environments take minutes and an index of packages: they are made when this folder is named, as .ci/run does."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass the folder over unless an argument of the command lies in it."""
    named = any(
        HERE in (place, *place.parents) for place in (Path(arg.split("::")[0]).resolve() for arg in config.args)
    )
    return None if named else True
