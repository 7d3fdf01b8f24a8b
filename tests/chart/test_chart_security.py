"""What a pod may do, how it stops, who reaches it, and where secrets are."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.chart.chart_rendering import CHART, EXAMPLES, Rendered, environment_of, render

EXAMPLE = {path.stem: path for path in EXAMPLES}
SECRET = re.compile(r"pass|secret|auth|key|token|credential", re.IGNORECASE)


@pytest.fixture(params=[None, *EXAMPLES], ids=lambda path: path.stem if path else "defaults")
def shown(request: pytest.FixtureRequest) -> Rendered:
    """The chart with its defaults and with each example."""
    return render(*filter(None, [request.param]))


def containers(found: Rendered) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [(name, pod, one) for name, pod in found.pods() for one in pod["spec"]["containers"]]


def test_containers_may_do_little(shown: Rendered) -> None:
    assert len(containers(shown)) >= 3
    for name, pod, container in containers(shown):
        spec, context = pod["spec"], container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["privileged"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] >= 10000, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys(), name
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume], name
        assert not [port for port in container.get("ports", ()) if "hostPort" in port], name


def test_containers_have_bounds(shown: Rendered) -> None:
    for name, pod, container in containers(shown):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
        assert "memory" in container["resources"]["limits"], name
        assert re.search(r"(:[^:/]+|@sha256:[0-9a-f]{64})$", container["image"]), name
        assert not container["image"].endswith(":latest"), name
        for volume in pod["spec"]["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], name


def test_nothing_secret_is_on_a_command_line_or_in_a_config(shown: Rendered) -> None:
    made = [
        value
        for one in shown.of("Secret")
        for value in [*(one.get("data") or {}).values(), *(one.get("stringData") or {}).values()]
        if value != "mrcelery"  # the user's name
    ]
    for one in shown.objects:
        if one["kind"] != "Secret":
            assert not [value for value in made if value in str(one)], one["metadata"]["name"]
    for name, _, container in containers(shown):
        for variable, value in environment_of(container).items():
            if SECRET.search(variable) and variable != "MRCELERY_S3_KMS_KEY":
                assert "secretKeyRef" in value, f"{name}: {variable}"
    for config in shown.of("ConfigMap"):
        assert not [key for key in config["data"] if SECRET.search(key) and key != "MRCELERY_S3_KMS_KEY"]


def test_the_broker_comes_from_its_secret() -> None:
    for path in (None, EXAMPLE["elasticache"]):
        for name, pod, container in containers(render(*filter(None, [path]))):
            if container["name"] != "redis":
                broker = environment_of(container)["MRCELERY_BROKER"]["secretKeyRef"]
                assert broker["name"] == ("mrcelery-broker" if path else "mr-mrcelery-redis"), name
                account = "default" if container["name"] == "metrics" else "mr-mrcelery"
                assert pod["spec"]["serviceAccountName"] == account


def test_no_static_keys_of_aws_but_where_a_secret_is_named() -> None:
    for path in EXAMPLES:
        found = [environment_of(one) for _, _, one in containers(render(path)) if one["name"] != "redis"]
        assert all(("AWS_SECRET_ACCESS_KEY" in one) == (path.stem == "on-premises") for one in found), path


def test_workers_give_their_tasks_back_before_they_are_killed(shown: Rendered) -> None:
    for one in shown.of("Deployment"):
        if one["metadata"]["labels"]["app.kubernetes.io/component"] != "worker":
            continue
        spec = one["spec"]["template"]["spec"]
        soft = float(environment_of(spec["containers"][0])["MRCELERY_SOFT_SHUTDOWN_TIMEOUT"])
        assert spec["terminationGracePeriodSeconds"] >= soft + 10


def test_workers_probes_ask_no_broker(shown: Rendered) -> None:
    for name, _, container in containers(shown):
        if container["name"] != "worker":
            continue
        assert environment_of(container)["MRCELERY_LIVENESS_FILE"].startswith("/scratch/"), name
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"][:3] == ["python", "-m", "mrcelery.worker.alive"], name


def test_every_group_has_a_budget_that_lets_nodes_be_drained(shown: Rendered) -> None:
    groups = {one["metadata"]["name"] for one in shown.of("Deployment") if "-worker-" in one["metadata"]["name"]}
    budgets = {one["metadata"]["name"]: one["spec"] for one in shown.of("PodDisruptionBudget")}
    assert budgets.keys() == groups
    for spec in budgets.values():
        assert spec["maxUnavailable"] not in (0, "0%")
        assert "minAvailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_selectors_find_their_own_pods_and_no_others(shown: Rendered) -> None:
    pods = {name: pod["metadata"]["labels"] for name, pod in shown.pods()}
    for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        for one in shown.of(kind):
            wanted = one["spec"]["selector"]["matchLabels"]
            found = [name for name, labels in pods.items() if selects(wanted, labels)]
            assert len(found) == 1, one["metadata"]["name"]
            assert found[0].endswith(f" {one['metadata']['name']}")
    for service in shown.of("Service"):
        (pod,) = [pod for _, pod in shown.pods() if selects(service["spec"]["selector"], pod["metadata"]["labels"])]
        ports = {port["name"] for one in pod["spec"]["containers"] for port in one.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    if shown.of("ServiceMonitor"):
        wanted = shown.of("ServiceMonitor")[0]["spec"]["selector"]["matchLabels"]
        (service,) = [one for one in shown.of("Service") if selects(wanted, one["metadata"]["labels"])]
        assert service["metadata"]["name"].endswith("-metrics")


def allowed(found: Rendered, labels: dict[str, str]) -> list[Any]:
    """The ingress rules that hold for a pod: of none, nobody reaches it."""
    policies = [one["spec"] for one in found.of("NetworkPolicy")]
    chosen = [one for one in policies if selects(one["podSelector"]["matchLabels"], labels)]
    assert chosen, "open to everybody"
    return [rule for one in chosen for rule in one.get("ingress", ())]


def test_only_the_served_pods_are_reached() -> None:
    found = render()
    for name, pod in found.pods():
        rules = allowed(found, pod["metadata"]["labels"])
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        if component in ("flower", "metrics", "redis"):
            assert len(rules) == 1, name
            assert ("from" in rules[0]) == (component == "redis")
        else:
            assert rules == [], name


def test_redis_is_reached_by_our_pods_and_those_with_the_label() -> None:
    found = render()
    (rule,) = allowed(found, found.find("StatefulSet", "-redis")["spec"]["template"]["metadata"]["labels"])
    own, client = (one["podSelector"]["matchLabels"] for one in rule["from"])
    assert client == {"mrcelery-client": "true"}
    assert all(selects(own, pod["metadata"]["labels"]) for _, pod in found.pods())


def test_pods_with_egress_closed_do_not_reach_the_nodes_credentials() -> None:
    (policy,) = [one for one in render(EXAMPLE["elasticache"]).of("NetworkPolicy") if "egress" in one["spec"]]
    blocks = [to["ipBlock"] for rule in policy["spec"]["egress"] for to in rule.get("to", ()) if "ipBlock" in to]
    (outside,) = [block for block in blocks if block["cidr"] == "0.0.0.0/0"]
    assert outside["except"] == ["169.254.169.254/32"]


def test_work_that_runs_counts_as_much_as_work_that_waits() -> None:
    """Of the triggers, KEDA takes the largest; only one, or a formula, adds up."""
    for name in ("keda", "keda-prometheus", "spot-gpu"):
        for one in render(EXAMPLE[name]).of("ScaledObject"):
            (trigger,) = one["spec"]["triggers"]
            assert "mrcelery_work{" in str(trigger["metadata"])
    (one,) = render(EXAMPLE["keda-redis"]).of("ScaledObject")
    assert {trigger["name"]: trigger["metadata"]["listName"] for trigger in one["spec"]["triggers"]} == {
        "queued": "celery",
        "running": "unacked",
    }
    assert one["spec"]["advanced"]["scalingModifiers"]["formula"] == "queued + running"


def test_scaled_groups_leave_their_number_to_the_scaler() -> None:
    for path in EXAMPLES:
        found = render(path)
        scalers = found.of("ScaledObject") + found.of("HorizontalPodAutoscaler")
        scaled = {one["spec"]["scaleTargetRef"]["name"] for one in scalers}
        for one in found.of("Deployment"):
            assert ("replicas" not in one["spec"]) == (one["metadata"]["name"] in scaled)


def test_each_group_scales_by_its_own_queue() -> None:
    found = render(EXAMPLE["spot-gpu"])
    for group, queue, tasks in (("spot", "bulk", "4"), ("gpu", "gpu", "1")):
        told = found.find("ScaledObject", f"-worker-{group}")["spec"]["triggers"][0]["metadata"]
        assert (told["valueLocation"], told["targetValue"]) == (f'mrcelery_work{{queue="{queue}"}}', tasks)
        assert told["url"] == "http://mr-mrcelery-metrics.batch.svc:9540/metrics"


def test_artifact_hub_is_told_the_images_that_are_used() -> None:
    told = (CHART / "Chart.yaml").read_text()
    for _, _, container in containers(render()):
        assert container["image"] in told


def test_the_test_pod_runs_hello_as_a_client_would() -> None:
    (pod,) = render(EXAMPLE["spot-gpu"]).of("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["args"][0] == "hello"
    assert environment_of(container)["MRCELERY_QUEUE"] == "celery"
