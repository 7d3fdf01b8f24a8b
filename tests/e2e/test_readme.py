"""What README.md shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ast import literal_eval
from collections import Counter
from pathlib import Path

import click
import pytest

from mrcelery.cli.submit import command as submit
from mrcelery.config import SETTINGS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def block(kind: str, holds: str) -> str:
    """The one fenced block of a kind that holds a text."""
    (found,) = [body for name, body in BLOCKS if name == kind and holds in body]
    return found


def shell(command: str, folder: Path, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**clean, "PATH": path, **env},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = block("sh", "pytest").splitlines()
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_first_command_prints_what_is_shown() -> None:
    (command,) = block("sh", "word_count LICENSE").splitlines()
    setup, _, run = command.partition(".venv/bin/mrcelery ")
    assert setup == "python3 -m venv .venv && .venv/bin/pip install -q '.[local]' && "
    # the setup is what .ci/run goes through with the wheel; here the package at hand runs
    shown = shell(f"{sys.executable} -m mrcelery {run}", ROOT)
    assert shown == block("", '"the"')
    words = Counter((ROOT / "LICENSE").read_text().split())
    assert shown == "".join(f'"{word}"\t{count}\n' for word, count in words.most_common(5))


def test_the_jobs_in_columns_run(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="these jobs import it")
    (tmp_path / "jobs.py").write_text(block("python", "class SortRecords"))
    (tmp_path / "text").write_text(" a b  a\n\nc a \n")
    run = f"{sys.executable} -m mrcelery submit --runner inline"
    shown = shell(f"{run} jobs.py:CountWords text", tmp_path)
    assert sorted(shown.splitlines()) == ['"a"\t3', '"b"\t1', '"c"\t1']
    records = [f"{i * 7919 % 1000:010}{i:090}".encode() for i in range(1000)]
    (tmp_path / "records").write_bytes(b"".join(records))
    shell(f"{run} jobs.py:SortRecords records -R 3 -o out", tmp_path)
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert len(parts) == 3
    assert b"".join(part.read_bytes() for part in parts) == b"".join(sorted(records))


def test_the_class_runs(tmp_path: Path) -> None:
    (tmp_path / "wc.py").write_text(block("python", "class WordCount"))
    text = tmp_path / "text"
    text.write_text("a b\nb\n")
    assert shell(f"{sys.executable} wc.py -r inline text", tmp_path) == '"a"\t1\n"b"\t2\n'
    shipped = (ROOT / "mrcelery" / "examples" / "word_count.py").read_text()
    assert block("python", "class WordCount").partition("class ")[2] == shipped.partition("class ")[2]


def test_the_declared_reducer_runs(tmp_path: Path) -> None:
    (tmp_path / "longest.py").write_text(block("python", "ops.Max()"))
    (tmp_path / "text").write_text("a ab b\nAbc\n")
    assert shell("mrcelery submit -r inline longest.py text", tmp_path) == '"a"\t3\n"b"\t1\n'


def test_the_python_api_runs(tmp_path: Path) -> None:
    (tmp_path / "wc.py").write_text(block("python", "class WordCount"))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "one.txt").write_text("a b\nb\n")
    (tmp_path / "api.py").write_text(block("python", "mrcelery.submit("))
    shown = shell(f"{sys.executable} api.py", tmp_path, MRCELERY_RUNNER="inline")
    counters, *counts = shown.splitlines()
    assert sorted(counts) == ["a 1", "b 2"]
    assert list(literal_eval(counters)) == ["mrcelery shuffle, step 0"]


def test_the_installed_app_has_the_tasks(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("python", "mrcelery.install(app)"))
    shown = shell(f"{sys.executable} -c 'import shop; print(*sorted(shop.app.tasks))'", tmp_path)
    assert "mrcelery.map" in shown.split()


def test_the_table_has_every_option_of_submit() -> None:
    rows = [line.split("|")[1] for line in README.splitlines() if line.startswith("| `-")]
    listed = {option for row in rows for option in re.findall(r"`(-[-\w]+)`", row)}
    flags = [param for param in submit.params if isinstance(param, click.Option)]
    offered = {name for flag in flags for name in flag.opts}
    assert listed <= offered
    assert [flag.name for flag in flags if not listed & set(flag.opts)] == []


@pytest.mark.parametrize("name", ["MRCELERY_BROKER", "MRCELERY_STORAGE", "MRCELERY_SIGNING_KEY"])
def test_variables_that_are_named_exist(name: str) -> None:
    assert name in README
    assert name.removeprefix("MRCELERY_").lower() in SETTINGS


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
