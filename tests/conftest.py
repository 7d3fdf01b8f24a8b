"""What holds for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something of the machine only.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

HERE = Path(__file__).parent

ONE_ENGINE = ("containers", "browser")
"""Packages whose tests share an engine, or a site that takes long to set up: one process runs each."""


QUICK = ("unit", "conformance")
"""Packages whose slow tests are marked one by one; the others start workers, servers, containers or browsers."""


def pytest_xdist_auto_num_workers() -> int:
    """Take half as many processes again as there are cores: most tests of fleets wait more than they compute."""
    return min(6, (os.cpu_count() or 1) * 3 // 2 or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow packages, and keep tests that share services in one process, so that these start once.

    Unit tests share none: each goes to the process that is free.
    """
    for item in items:
        package, *rest = item.path.relative_to(HERE).with_suffix("").parts
        if package not in QUICK:
            item.add_marker(pytest.mark.slow)
        if package in ONE_ENGINE:
            item.add_marker(pytest.mark.xdist_group(package))
        elif package != "unit":
            item.add_marker(pytest.mark.xdist_group(f"{package}-{rest[-1]}"))
