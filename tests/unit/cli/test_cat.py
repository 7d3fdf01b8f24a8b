"""mrcelery cat."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("job_folder")


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000").write_text("line\n" * 100_000)
    shell = f"{sys.executable} -m mrcelery cat out | head -n 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "line\n0\n"
    assert "Broken" not in ran.stderr
    assert "Traceback" not in ran.stderr
