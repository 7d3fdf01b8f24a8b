"""The command, run in the test's own process in a folder with a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrcelery.cli.main import cli, run_command
from tests.support.command_line import JOB, TEXT, Ran


@pytest.fixture
def job_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MRCELERY_BROKER", "CELERY_BROKER_URL", "MRCELERY_STORAGE", "MRCELERY_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("MRCELERY_RUNNER", "inline")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wc.py").write_text(JOB)
    (tmp_path / "in.txt").write_text(TEXT)


@pytest.fixture
def mr(job_folder: None, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*args: str) -> Ran:
        code = run_command(cli, list(args), "mrcelery")
        return Ran(code, *capsys.readouterr())

    return run
