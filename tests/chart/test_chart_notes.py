"""What Helm prints after an installation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.chart_rendering import CHART, DOCUMENTED, EXAMPLES, NEWEST, tool


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes in a ConfigMap, as ``helm template`` leaves notes out."""
    copy = tmp_path_factory.mktemp("notes") / "mrcelery"
    shutil.copytree(CHART, copy)
    notes = (copy / "templates" / "NOTES.txt").read_text()
    (copy / "templates" / "_notes.tpl").write_text(f'{{{{- define "notes" }}}}{notes}{{{{- end }}}}')
    (copy / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | toJson }}')
    return copy


def notes(chart: Path, *more: str) -> str:
    command = [tool("helm"), "template", "mr", str(chart), "--namespace", "batch", "--kube-version", f"{NEWEST}.0"]
    ran = subprocess.run([*command, "--show-only", "templates/notes.yaml", *more], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    text: str = yaml.safe_load(ran.stdout)["notes"]
    return text


@pytest.mark.parametrize("path", [*EXAMPLES, *DOCUMENTED], ids=lambda path: path.stem)
def test_notes_hold_no_secret_and_no_gap(chart: Path, path: Path) -> None:
    text = notes(chart, "--values", str(path))
    assert "helm test mr -n batch" in text
    assert "mrcelery submit" in text
    assert "<no value>" not in text
    assert "\n\n\n\n" not in text


def test_notes_tell_of_what_is_missing(chart: Path) -> None:
    text = notes(chart)
    assert "NO STORAGE is set" in text
    assert "ONE POD, for trials" in text
    assert "port-forward svc/mr-mrcelery-redis 6379" in text
    assert "get secret mr-mrcelery-flower" in text
    text = notes(chart, "--values", str(CHART.parent / "examples" / "elasticache.yaml"))
    assert "NO STORAGE" not in text
    assert "ONE POD" not in text
    assert "https://mrcelery.example.internal" in text
    assert "get secret mrcelery-signing" in text


def test_the_broker_address_of_the_notes_is_one(chart: Path) -> None:
    """The shell line that makes an address for the tunnel, run on an address as the chart makes it."""
    (line,) = [line for line in notes(chart).splitlines() if "sed " in line]
    edit = line.rpartition("| ")[2].rstrip(")")
    address = "redis://mrcelery:secret@mr-mrcelery-redis.batch.svc:6379/0"
    ran = subprocess.run(["sh", "-c", edit], input=address, capture_output=True, text=True, check=True)
    assert ran.stdout == "redis://mrcelery:secret@localhost:6379/0"
