"""The probe: what it says of a file, and that it costs little."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mrcelery.worker import alive


def aged(path: Path, seconds: float) -> str:
    path.touch()
    then = time.time() - seconds
    os.utime(path, (then, then))
    return str(path)


def test_a_young_file_is_a_sign_of_life(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = aged(tmp_path / "f", 50)
    assert alive.main([file]) == 0
    assert alive.main([file, "--max-age", "40"]) == 1
    assert re.search(r"last touched 5\d s ago, and 40 s are allowed", capsys.readouterr().out)


def test_a_worker_that_is_not_ready_has_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert alive.main([str(tmp_path / "none")]) == 1
    assert "not ready" in capsys.readouterr().out


def test_the_file_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The parser reads the environment each time, as a probe is a process of its own.
    monkeypatch.setenv(alive.VARIABLE, aged(tmp_path / "f", 0))
    assert alive.main([]) == 0
    monkeypatch.delenv(alive.VARIABLE)
    with pytest.raises(SystemExit, match="2"):
        alive.main([])


def test_the_probe_imports_neither_celery_nor_anything_like_it(tmp_path: Path) -> None:
    script = "import sys\nfrom mrcelery.worker import alive\nalive.main([sys.argv[1]])\nprint(*sys.modules)"
    file = aged(tmp_path / "f", 0)
    run = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in run.stdout.split()}
    assert "mrcelery" in loaded
    assert not loaded & {"celery", "kombu", "redis", "boto3", "click", "msgspec", "asyncio"}
