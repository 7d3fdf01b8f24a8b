"""One case of each kind; ``python -m tests.hostile.run`` runs as many as you like."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mrcelery.errors import ConfigError
from mrcelery.runners.redis_server import find_server
from tests.hostile.run import CASES, in_its_own_process
from tests.support.services import missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="the driver finds processes in /proc"),
]

PATIENCE = 4.0
"""What is asserted is what comes out, and that it ends; not how soon."""


def can_mount(folder: Path) -> bool:
    """Whether a file system may be mounted here, as a sick machine needs it."""
    if os.geteuid() or not shutil.which("mount"):
        return False
    if subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=False, capture_output=True).returncode:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


@pytest.mark.parametrize("kind", CASES)
def test_a_case_goes_right(kind: str, tmp_path: Path) -> None:
    try:
        find_server()
    except ConfigError as e:
        missing(str(e))
    if kind == "sick machine" and not can_mount(tmp_path):
        pytest.skip("no file system may be mounted here")
    outcome = in_its_own_process(kind, 0, tmp_path / "case", PATIENCE)
    assert outcome.verdict == "right", f"{outcome.drawn}\n{outcome.problem}"
