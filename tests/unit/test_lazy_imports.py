"""What must not be imported: `import mrcelery`, `--help` and a submit to a fleet stay quick."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

HEAVY = ["boto3", "botocore", "redis", "celery", "kombu", "rich", "urllib3"]


def loaded_after(code: str, among: list[str]) -> list[str]:
    script = f"import sys\n{code}\nprint([m for m in {among!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return list(literal_eval(run.stdout.splitlines()[-1]))


def test_importing_mrcelery_loads_nothing() -> None:
    assert loaded_after("import mrcelery", [*HEAVY, "msgspec", "click", "asyncio"]) == []


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["submit", "--help"]])
def test_help_is_light(args: list[str]) -> None:
    code = f"from mrcelery.cli.main import cli, run_command\nassert run_command(cli, {args!r}, 'mrcelery') == 0"
    assert loaded_after(code, [*HEAVY, "msgspec"]) == []


def test_a_job_file_and_the_client_of_a_fleet_are_light() -> None:
    code = "from mrcelery import MRJob, run\nimport mrcelery.client.submission, mrcelery.runners.fleet"
    assert loaded_after(code, HEAVY) == []


def test_a_short_job_on_a_terminal_does_without_a_picture(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    submit = ["submit", "-r", "inline", "mrcelery.examples.word_count:WordCount", f"{tmp_path}/in.txt"]
    code = f"""
from mrcelery.cli import progress
from mrcelery.cli.main import cli, run_command
progress.QUIET_SECONDS = progress.PLAIN_QUIET_SECONDS = 60.0
sys.stderr.isatty = lambda: True
assert run_command(cli, {submit!r}, "mrcelery") == 0"""
    assert loaded_after(code, ["rich", "mrcelery.reporting.timeline", "mrcelery.reporting.rates"]) == []


def test_every_public_name_is_there() -> None:
    import mrcelery

    for name in mrcelery.__all__:
        assert getattr(mrcelery, name) is not None
        assert name in dir(mrcelery)
    with pytest.raises(AttributeError, match="nope"):
        _ = mrcelery.nope
