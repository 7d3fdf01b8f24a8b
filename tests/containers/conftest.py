"""The image, built once, and a cluster whose input is in its bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import Cluster, build, cluster, why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(1800))  # whichever comes first builds the image


@pytest.fixture(scope="session")
def image() -> str:
    if reason := why_not():
        pytest.skip(reason)
    return build()


@pytest.fixture(scope="module")
def fleet(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of two processes, with the quick preset of the visibility timeout."""
    patch = pytest.MonkeyPatch()
    for name in os.environ:
        if name.startswith(("MRCELERY_", "CELERY_", "AWS_")):
            patch.delenv(name)
    patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    with cluster(tmp_path_factory.mktemp("cluster"), MRCELERY_VISIBILITY_TIMEOUT="4") as started:
        for name, value in started.aws.items():
            patch.setenv(name, value)
        # Of other tests: it has their credentials.
        patch.setattr("boto3.DEFAULT_SESSION", None)
        yield started
    patch.undo()
