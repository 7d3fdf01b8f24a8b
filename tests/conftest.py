"""What holds for all tests."""

import os
import sys
import tempfile
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def no_jobs_of_others() -> Iterator[None]:
    """Forget the modules that a test has loaded from its folders: a job file of the same name is another one.

    Not our own, of a checkout that lies in the temporary folder itself.
    """
    before, folder, ours = set(sys.modules), tempfile.gettempdir(), f"{HERE.parent}{os.sep}"
    yield
    for name in sys.modules.keys() - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if path.startswith(folder) and not path.startswith(ours):
            del sys.modules[name]


def pytest_xdist_auto_num_workers() -> int:
    """Take twice as many processes as there are cores: most tests of fleets wait more than they compute."""
    return min(8, 2 * (os.cpu_count() or 1))


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


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run tests that share services in several processes: each would start its own, for each module."""
    if not session.config.getoption("loadgroup", False):  # pytest-xdist sets it in its processes
        return
    for item in session.items:
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
            raise pytest.UsageError("this pytest-xdist does not keep groups of tests together with this pytest")
