"""The storages that one suite runs against."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3_endpoint import s3_bucket, s3_endpoint


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    with s3_endpoint(), s3_bucket() as name:
        yield name


@pytest.fixture(params=["memory", "folder", pytest.param("s3", marks=pytest.mark.slow)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty root."""
    if request.param == "memory":
        return f"memory://test-{os.urandom(6).hex()}"
    if request.param == "folder":
        return str(tmp_path / "root")
    return f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"
