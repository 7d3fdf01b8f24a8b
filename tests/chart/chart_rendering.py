"""The chart as Helm renders it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.services import missing

ROOT = Path(__file__).parent.parent.parent
CHART = ROOT / "helm" / "mrcelery"
EXAMPLES = sorted((ROOT / "helm" / "examples").glob("*.yaml"))
DOCUMENTED = sorted((Path(__file__).parent / "values").glob("*.yaml"))
NEWEST = "1.37"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ChartError(Exception):
    """Helm's refusal."""


@cache
def tool(name: str) -> str:
    """Find a program on PATH, or next to this Python, and return its path."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        missing(name)
    assert found is not None
    return found


@cache
def _template(version: str, files: tuple[Path, ...], sets: tuple[str, ...]) -> str:
    command = [tool("helm"), "template", "mr", str(CHART), "--namespace", "batch", "--kube-version", f"{version}.0"]
    for path in files:
        command += ["--values", str(path)]
    for one in sets:
        command += ["--set-json", one]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if ran.returncode:
        raise ChartError(ran.stderr)
    return ran.stdout


def template(*files: Path, version: str = NEWEST, sets: Sequence[str] = ()) -> str:
    """Return what Helm renders with values files and ``key=JSON`` settings. Raises :class:`ChartError`."""
    return _template(version, tuple(files), tuple(sets))


def render(*files: Path, version: str = NEWEST, sets: Sequence[str] = ()) -> Rendered:
    """Render and parse the objects. Raises :class:`ChartError`."""
    text = template(*files, version=version, sets=sets)
    return Rendered(text, [one for one in yaml.load_all(text, Loader) if one])


@dataclass
class Rendered:
    text: str
    objects: list[dict[str, Any]]

    def find(self, kind: str, name: str) -> dict[str, Any]:
        """Find the one object of a kind whose name ends with ``name``."""
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"].endswith(name)]
        return found

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.objects if one["kind"] == kind]

    def pods(self) -> list[tuple[str, dict[str, Any]]]:
        """List the name and template of everything that makes a pod."""
        return [(f"{one['kind']} {one['metadata']['name']}", pod) for one in self.objects if (pod := pod_of(one))]


def pod_of(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metadata and spec of the pods that an object makes, if any."""
    spec = one.get("spec") or {}
    if one["kind"] == "Pod":
        return dict(one)
    if one["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    template: dict[str, Any] | None = spec.get("template")
    return template


def environment_of(container: Mapping[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}
