"""Every value is documented, checked by the schema, and does something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from mrcelery.config import SETTINGS
from tests.chart.chart_rendering import CHART, DOCUMENTED, ChartError, environment_of, render, template

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())


def leaves(values: dict[str, Any], *path: str) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, *path, name)
        else:
            yield (*path, name)


def places(values: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """Find where a file sets a value, for all workers or for one group; yield mapping and key."""
    roots = [(values, path)]
    if path[0] == "workers":
        roots += [(group, path[1:]) for group in values.get("workerGroups", {}).values()]
    for at, names in roots:
        for name in names[:-1]:
            at = at.get(name) or {} if isinstance(at, dict) else {}
        if isinstance(at, dict) and names[-1] in at:
            yield at, names[-1]


def without_random(text: str) -> list[str]:
    return [one for one in text.split("---\n") if "kind: Secret" not in one]


def acts(path: tuple[str, ...], folder: Path) -> bool:
    """Whether a file sets the value, and without it renders something else or is refused."""
    for file in DOCUMENTED:
        values = yaml.safe_load(file.read_text())
        found = list(places(values, path))
        if not found:
            continue
        for at, name in found:
            del at[name]
        other = folder / f"{'.'.join(path)}.yaml"
        other.write_text(yaml.safe_dump(values))
        try:
            changed = without_random(template(other)) != without_random(template(file))
        except ChartError:
            return True  # the other values are refused without this one
        if changed:
            return True
    return False


def test_every_value_does_something(tmp_path: Path) -> None:
    paths = [path for path in leaves(VALUES) if path[0] != "workerGroups" and not path[0].endswith("SecurityContext")]
    paths += [("podSecurityContext",), ("containerSecurityContext",)]
    paths.remove(("redis", "enabled"))  # it only makes the chart refuse: see below
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda path: acts(path, tmp_path), paths))
    assert [".".join(path) for path, acted in zip(paths, found, strict=True) if not acted] == []


def test_every_value_is_in_the_schema_and_nothing_else() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], where: str) -> None:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if "properties" not in schema:
            return
        assert schema["additionalProperties"] is False, where
        assert values.keys() <= schema["properties"].keys(), where
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, schema["properties"][name], f"{where}.{name}")

    compare(VALUES, SCHEMA, "")
    assert SCHEMA["properties"].keys() - VALUES.keys() == {"global"}
    own = {"broker", "result_backend", "queue", "storage", "signing_key", "s3_encryption", "s3_kms_key", "scratch"}
    own |= {"soft_shutdown_timeout", "liveness_file", "runner", "workers"}
    assert SCHEMA["properties"]["config"]["properties"].keys() == SETTINGS.keys() - own


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("bogus=1", "additional properties 'bogus' not allowed"),
        ("workers.replica=1", "'/workers': additional properties 'replica' not allowed"),
        ("workerGroups.default.replica=1", "additional properties 'replica' not allowed"),
        ('workerGroups.Spot={"replicas":1}', "additional properties 'Spot' not allowed"),
        ("workerGroups.default=null", "minProperties: got 0, want 1"),
        ("config.visibility=1", "additional properties 'visibility' not allowed"),
        ('config.broker="redis://x"', "additional properties 'broker' not allowed"),
        ("workers.concurrency=0", "'/workers/concurrency': minimum: got 0, want 1"),
        ('workers.replicas="2"', "got string, want integer"),
        ('workers.keda.trigger="magic"', "value must be one of 'metrics', 'prometheus', 'redis'"),
        ('workers.resources.limits.memory="lots"', "'lots' does not match pattern"),
        ("workers.podDisruptionBudget.maxUnavailable=0", "minimum: got 0, want 1"),
        ('s3.encryption="rot13"', "value must be one of"),
        ('broker="http://host"', "is not a Redis address: write redis://host:6379/0"),
        ('broker="rediss://user:secret@host:6379/0"', "put the address into a secret and name that in brokerSecret"),
        ('resultBackend="redis://:secret@host:6379/0"', "put the address into a secret"),
        ('storage="bucket/prefix"', "is not supported: write s3://bucket/prefix, or a folder"),
        ('s3.kmsKeyId="alias/x"', "s3.encryption is not aws:kms"),
        ("redis.enabled=false", "no Redis is configured: set broker"),
        ("workers.softShutdownSeconds=55", "(60) must be at least ten seconds more than"),
        ("workerGroups.default.terminationGracePeriodSeconds=25", "workerGroups.default: termination"),
        ("workers.keda.enabled=true,workers.hpa.enabled=true", "would fight for its replicas"),
        ("workers.keda.enabled=true,workers.keda.minReplicas=20", "keda.minReplicas (20) is more than"),
        ("workers.keda.enabled=true,metrics.enabled=false", "set metrics.enabled=true, or another trigger"),
        ('workers.keda.enabled=true,workers.keda.trigger="prometheus"', "needs keda.prometheus.serverAddress"),
        ('flower.ingress.enabled=true,flower.auth.type="none"', "flower.ingress is enabled without a login"),
        ("clean.enabled=true", "clean.enabled needs a storage to clean: set storage"),
        ('broker="redis://h",brokerSecret.name="x"', "broker and brokerSecret.name are both set: keep one"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(setting: str, says: str) -> None:
    with pytest.raises(ChartError) as refusal:
        render(sets=[setting])
    assert says in str(refusal.value)
    assert "secret@" not in str(refusal.value)


def test_a_group_has_what_it_says_and_else_what_all_have() -> None:
    found = render(
        sets=[
            "workers.concurrency=3",
            'workers.nodeSelector={"disk":"fast"}',
            'workerGroups.gpu={"queue":"gpu","resources":{"limits":{"nvidia.com/gpu":1}},"nodeSelector":{"gpu":"yes"}}',
        ]
    )
    workers = [found.find("Deployment", f"-worker-{name}") for name in ("default", "gpu")]
    default, gpu = (one["spec"]["template"]["spec"] for one in workers)
    assert default["nodeSelector"] == {"disk": "fast"}
    assert gpu["nodeSelector"] == {"disk": "fast", "gpu": "yes"}
    assert "nvidia.com/gpu" not in default["containers"][0]["resources"]["limits"]
    assert gpu["containers"][0]["resources"]["limits"] == {"memory": "2Gi", "nvidia.com/gpu": 1}
    assert gpu["containers"][0]["args"][:5] == ["worker", "--queue", "gpu", "--concurrency", "3"]


def test_a_changed_setting_rolls_all_pods() -> None:
    def sums(*sets: str) -> set[str]:
        rolled = [pod for name, pod in render(sets=sets).pods() if name.startswith("Deployment")]
        return {pod["metadata"]["annotations"]["checksum/config"] for pod in rolled}

    before, after = sums(), sums('storage="s3://bucket/prefix"')
    assert len(before) == len(after) == 1
    assert before != after


def test_the_variables_are_settings() -> None:
    """No name is misspelled: each MRCELERY_ variable of a pod is a setting of mrcelery."""
    found = render(Path(__file__).parent / "values" / "everything.yaml")
    names = set(found.find("ConfigMap", "mr-counting")["data"])
    for _, pod in found.pods():
        for container in pod["spec"]["containers"]:
            names |= environment_of(container).keys()
    own = {name.removeprefix("MRCELERY_").lower() for name in names if name.startswith("MRCELERY_")}
    assert {"broker", "result_backend", "signing_key", "storage", "scratch", "queue", "s3_kms_key"} <= own
    # The file that the worker's probe reads.
    assert own - SETTINGS.keys() <= {"liveness_file"}
