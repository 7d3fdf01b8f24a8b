"""Makes the JSON schemas here from the CRDs of KEDA and of Prometheus' operator: ``python make.py VERSIONS...``

Needs Go and PyYAML; the modules come through Go's module proxy::

    python tests/chart/schemas/make.py github.com/kedacore/keda/v2@v2.21.0 \\
        github.com/prometheus-operator/prometheus-operator@v0.85.0

What is kept of each: types, names, choices and bounds, without a word of text. An object that lists its properties
allows no other, as the API server does with strict field validation.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

KINDS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PrometheusRule"}
DROPPED = {"description", "default", "format", "example"}


def strict(schema: Any) -> Any:
    """An OpenAPI v3 schema of Kubernetes as a JSON schema that allows nothing else."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    for name, value in schema.items():
        if name == "properties":
            found[name] = {key: strict(one) for key, one in value.items()}
        elif name not in DROPPED and not name.startswith("x-kubernetes-"):
            found[name] = strict(value)
    if schema.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
        found.pop("anyOf", None)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def main(modules: list[str]) -> None:
    here = Path(__file__).parent
    for module in modules:
        told = subprocess.run(["go", "mod", "download", "-json", module], check=True, capture_output=True, cwd="/")
        plurals = tuple(f"_{kind.lower()}s.yaml" for kind in KINDS)
        for path in Path(json.loads(told.stdout)["Dir"]).rglob("*crd*/**/*.yaml"):
            if not path.name.endswith(plurals):
                continue
            for crd in yaml.safe_load_all(path.read_text()):
                kind, group = crd["spec"]["names"]["kind"], crd["spec"]["group"]
                for version in crd["spec"]["versions"]:
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object"}
                    text = json.dumps({"$comment": f"made from {module}", **schema}, separators=(",", ":"))
                    (here / f"{group}-{version['name']}-{kind}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
