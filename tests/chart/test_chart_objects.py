"""What the chart renders is valid for Kubernetes, KEDA and the Prometheus operator, and passes the linters."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema.validators import Draft202012Validator
from referencing import Registry, Resource

from tests.chart.chart_rendering import CHART, DOCUMENTED, EXAMPLES, NEWEST, Rendered, render, tool

SCHEMAS = Path(__file__).parent / "schemas"
OLDEST = "1.27"

# kube-score's rules that do not fit, each with the reason.
PASSED_OVER = {
    "container-image-pull-policy": "an image by its version or digest need not be pulled each time",
    "container-ephemeral-storage-request-and-limit": "all that is written goes to a volume with a size limit",
    "pod-probes-identical": "Flower has one page that tells its health; startup has a probe of its own",
    "pod-networkpolicy": "wants egress closed too, which needs to know where S3 is: networkPolicy.egress",
    "deployment-replicas": "wants two of everything: Flower and the exporter keep no state, and jobs do without them",
}


@cache
def definitions(version: str) -> Registry[Any]:
    text = _schema(version, "_definitions.json")
    return Resource.from_contents(json.loads(text)) @ Registry()


def _schema(version: str, name: str) -> str:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    (found,) = [one for one in folder.iterdir() if re.fullmatch(rf"v{version}\.\d+-local-strict", one.name)]
    return (found / name).read_text()


@cache
def validator(version: str, api: str, kind: str) -> Draft202012Validator:
    group, _, revision = api.rpartition("/")
    own = SCHEMAS / f"{group}-{revision}-{kind}.json"
    if own.exists():
        return Draft202012Validator(json.loads(own.read_text()))
    head = f"{group.split('.')[0]}-{revision}" if group else revision
    schema = json.loads(_schema(version, f"{kind.lower()}-{head}.json"))
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ definitions(version))


def problems(rendered: Rendered, version: str = NEWEST) -> list[str]:
    return [
        f"{one['kind']} {one['metadata']['name']}, {error.json_path}: {error.message}"
        for one in rendered.objects
        for error in validator(version, one["apiVersion"], one["kind"]).iter_errors(one)
    ]


def test_every_object_is_valid(rendered: Rendered) -> None:
    assert problems(rendered) == []


def test_every_object_is_valid_in_the_oldest_kubernetes() -> None:
    for path in [*EXAMPLES, *DOCUMENTED]:
        assert problems(render(path, version=OLDEST), OLDEST) == []


def test_the_validation_is_strict() -> None:
    found = render(CHART.parent / "examples" / "keda.yaml")
    found.find("Deployment", "-worker-default")["spec"]["template"]["spec"]["bogus"] = 1
    found.find("ScaledObject", "-worker-default")["spec"]["bogus"] = 1
    assert len(problems(found)) == 2


def test_no_object_comes_twice(rendered: Rendered) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered.objects]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", [None, *EXAMPLES, *DOCUMENTED], ids=lambda path: path.stem if path else "defaults")
def test_lint(path: Path | None) -> None:
    command = [tool("helm"), "lint", "--strict", "--kube-version", f"{NEWEST}.0", str(CHART)]
    command += ["--values", str(path)] if path else []
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda path: path.stem if path else "defaults")
def test_kube_score(path: Path | None) -> None:
    rendered = render(*filter(None, [path]))
    command = [tool("kube-score"), "score", "--kubernetes-version", f"v{NEWEST}", "--output-format", "json"]
    # Without a CPU limit, work uses what a node has to spare and ends sooner; requests keep it out of others' way.
    command += ["--ignore-container-cpu-limit", "--ignore-test", ",".join(PASSED_OVER), "-"]
    core = [one for one in rendered.objects if "k8s.io" in one["apiVersion"] or "." not in one["apiVersion"]]
    ran = subprocess.run(command, input=yaml.safe_dump_all(core), capture_output=True, text=True)
    found = [
        f"{one['object_name']}: {check['check']['name']}: {comment['summary']}"
        for one in json.loads(ran.stdout)
        for check in one["checks"]
        if check["grade"] < 5 and not check["skipped"]
        for comment in check["comments"] or [{"summary": ""}]
    ]
    assert found == []
