"""The chart's containers, started for real: Redis, a worker, the exporter, Flower, and the test that Helm runs."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import mrcelery
from tests.chart.chart_pods import ChartRedis, Container, secrets_of
from tests.chart.chart_rendering import CHART, Rendered, render
from tests.support.services import eventually, free_port


class Chart:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics_port = free_port()
        self.found: Rendered = render(
            sets=[
                f'storage="{folder}/storage"',
                "signing.enabled=true",
                f"metrics.port={self.metrics_port}",
                "workers.softShutdownSeconds=1",
                'workerGroups.idle={"queue":"idle","keda":{"enabled":true}}',
                'workers.keda={"enabled":true}',
            ]
        )
        (folder / "redis").mkdir()
        self.redis = ChartRedis(self.found, folder / "redis")

    def container(self, kind: str, name: str) -> Container:
        one = self.found.find(kind, name)
        spec = one["spec"] if kind == "Pod" else one["spec"]["template"]["spec"]
        scratch = self.folder / f"scratch{name}"
        scratch.mkdir(exist_ok=True)
        return Container(self.found, spec["containers"][0], self.redis, scratch)

    @contextmanager
    def run(self, name: str, *more: str) -> Iterator[tuple[Container, subprocess.Popen[bytes]]]:
        container = self.container("Deployment", name)
        process = container.start(self.folder / f"log{name}", *more)
        try:
            yield container, process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chart]:
    started = Chart(tmp_path_factory.mktemp("chart"))
    try:
        yield started
    finally:
        started.redis.stop()


def get(url: str, *, login: str = "") -> str:
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def served(url: str, **more: Any) -> str:
    """Return what an address serves, as soon as it answers."""

    def ask() -> str:
        try:
            return get(url, **more)
        except urllib.error.HTTPError:
            raise
        except OSError:
            return ""

    return eventually(ask, f"{url} answers")


def work(chart: Chart) -> dict[str, float]:
    """Return what the scalers' triggers read from the exporter, by queue, at the location that each trigger gives."""
    text = served(f"http://127.0.0.1:{chart.metrics_port}/metrics")
    samples = {
        f"{one.name}{{{','.join(f'{k}={chr(34)}{v}{chr(34)}' for k, v in one.labels.items())}}}": one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    triggers = [one["spec"]["triggers"][0]["metadata"] for one in chart.found.of("ScaledObject")]
    for one in triggers:
        assert one["url"].endswith(f":{chart.metrics_port}/metrics")
    return {one["valueLocation"].split('"')[1]: samples[one["valueLocation"]] for one in triggers}


def test_a_release_does_what_its_pods_are_for(chart: Chart) -> None:
    test = chart.container("Pod", "-test-hello")
    with chart.run("-metrics"):
        assert work(chart) == {"celery": 0, "idle": 0}
        # With no worker yet, the submitted job counts as work, which wakes one.
        waiting = subprocess.Popen(
            [sys.executable, "-m", "mrcelery", *test.spec["args"]],
            env=test.env, cwd=test.scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        eventually(lambda: work(chart) == {"celery": 1, "idle": 0}, "the job is seen as work")
        with chart.run("-worker-default") as (worker, process):
            said, _ = waiting.communicate(timeout=100)
            assert waiting.returncode == 0, said
            assert "hello\t3" in said
            assert worker.probe("startupProbe")
            assert worker.probe("livenessProbe")
            eventually(lambda: work(chart) == {"celery": 0, "idle": 0}, "no work is left")
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            assert "Traceback" not in (chart.folder / "log-worker-default").read_text()
    assert chart.redis.refused() <= {"config|get"}


def test_alerts_and_queries_are_of_metrics_that_there_are(chart: Chart) -> None:
    rules = render(CHART.parent / "examples" / "elasticache.yaml").of("PrometheusRule")
    queries = render(CHART.parent / "examples" / "keda-prometheus.yaml").of("ScaledObject")
    named = set(re.findall(r"\bmrcelery_\w+", str(rules) + str([one["spec"]["triggers"] for one in queries])))
    with chart.run("-metrics"):
        text = served(f"http://127.0.0.1:{chart.metrics_port}/metrics")
    told = {family.name for family in text_string_to_metric_families(text)}
    assert len(named) >= 4
    assert named <= told


def test_jobs_that_are_not_signed_are_refused(chart: Chart, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a b\n")
    with chart.run("-worker-default") as (_, process), mrcelery.submit(
        "mrcelery.examples.word_count", str(tmp_path / "text"), runner="celery", broker=chart.redis.url,
        storage=f"{chart.folder}/storage", signing_key="of somebody else",
    ) as handle:  # fmt: skip
        eventually(lambda: handle.status().state == "failed", "the job is refused")
        process.send_signal(signal.SIGTERM)  # so that it acknowledges the message and leaves no work to others
        process.wait(30)


def test_flower_wants_the_login_of_its_secret(chart: Chart) -> None:
    (login,) = [one["basic-auth"] for name, one in secrets_of(chart.found).items() if name.endswith("-flower")]
    container = chart.container("Deployment", "-flower")
    port = free_port()
    args = container.spec["args"]
    assert "--port=5555" in args
    container.spec = {**container.spec, "args": [one.replace("5555", str(port)) for one in args]}
    log = chart.folder / "log-flower"
    process = container.start(log)
    try:
        base = f"http://127.0.0.1:{port}"
        assert served(f"{base}{container.spec['livenessProbe']['httpGet']['path']}") == "OK"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(f"{base}/workers")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(f"{base}/jobs", login="mrcelery:guess")
        assert "mrcelery" in get(f"{base}/jobs", login=login)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert login.partition(":")[2] not in log.read_text()
    assert chart.redis.refused() <= {"config|get"}
