"""What README.md shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

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
    command = block("sh", "word_count LICENSE")
    setup, _, run = command.partition("\n  .venv/bin/mrcelery ")
    assert setup == "python3 -m venv .venv && .venv/bin/pip install -q '.[local]' &&"
    # the setup is what .ci/run goes through with the wheel; here the package at hand runs
    shown = shell(f"{sys.executable} -m mrcelery {run}", ROOT)
    assert shown == block("", '"the"')
    words = Counter((ROOT / "LICENSE").read_text().split())
    assert shown == "".join(f'"{word}"\t{count}\n' for word, count in words.most_common(5))


def test_the_class_runs(tmp_path: Path) -> None:
    (tmp_path / "wc.py").write_text(block("python", "class WordCount"))
    text = tmp_path / "text"
    text.write_text("a b\nb\n")
    assert shell(f"{sys.executable} wc.py -r inline text", tmp_path) == '"a"\t1\n"b"\t2\n'
    shipped = (ROOT / "mrcelery" / "examples" / "word_count.py").read_text()
    assert block("python", "class WordCount").partition("class ")[2] == shipped.partition("class ")[2]


def test_the_installed_app_has_the_tasks(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("python", "mrcelery.install(app)"))
    shown = shell(f"{sys.executable} -c 'import shop; print(*sorted(shop.app.tasks))'", tmp_path)
    assert "mrcelery.map" in shown.split()


def test_variables_that_are_named_exist() -> None:
    named = set(re.findall(r"MRCELERY_([A-Z_]+)", README))
    assert {"BROKER", "STORAGE"} <= named
    assert [name for name in named if name.lower() not in SETTINGS] == []


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
