"""Metrics of a real fleet, scraped over HTTP as Prometheus does, and the dashboard that shows them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import mrcelery
from mrcelery.jobstore.presence import versions
from mrcelery.web.metrics import FleetCollector
from tests.support import guardian
from tests.support.services import (
    GATED,
    PATIENCE,
    Gate,
    Quiet,
    RedisServer,
    command,
    environment,
    eventually,
    free_port,
    missing,
    redis_server,
    results,
    workers,
)

JobFile = Callable[..., str]

DASHBOARD = Path(__file__).parents[2] / "helm" / "mrcelery" / "dashboards" / "mrcelery.json"
FAILING = """
    from mrcelery import MRJob

    class Failing(MRJob):
        def mapper(self, _, line):
            raise ValueError("no")
            yield
"""


class Scrape:
    """The samples of one scrape, by name and labels."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {f.name: f for f in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"mrcelery_{name}", tuple(sorted(labels.items()))]


@contextmanager
def exporter(broker: str, *args: str) -> Iterator[str]:
    """Run ``mrcelery metrics``, and yield its URL once it listens."""
    process = guardian.start(
        [sys.executable, "-m", "mrcelery", "metrics", "--port", "0", "--address", "127.0.0.1", *args],
        env=environment(MRCELERY_BROKER=broker),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith("metrics at http://127.0.0.1:"), said
        yield said.split()[-1]
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    finally:
        guardian.stop(process)
        process.communicate()


def scrape(url: str) -> Scrape:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return Scrape(answer.read().decode())


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server in which no other test has counted anything."""
    with redis_server() as server:
        yield server


@pytest.fixture
def settings(server: RedisServer, tmp_path: Path) -> dict[str, Any]:
    return {"runner": "celery", "broker": server.tcp_url, "storage": str(tmp_path / "storage")}


def test_a_fleet_at_work(
    server: RedisServer, settings: dict[str, Any], job_file: JobFile, tmp_path: Path, word_count: str, text: Path
) -> None:
    gate = Gate(tmp_path, 5)
    with exporter(server.tcp_url) as url:
        none = scrape(url)
        assert (none("up"), none("work", queue="celery"), none("workers", queue="celery")) == (1, 0, 0)
        assert none("jobs_ended_total", state="succeeded") == 0
        with mrcelery.submit(job_file(GATED), str(gate.text), split_size=gate.split_size, **settings) as job:
            waiting = scrape(url)
            assert (waiting("jobs", state="queued"), waiting("jobs", state="running")) == (1, 0)
            assert (waiting("queue_messages", queue="celery"), waiting("work", queue="celery")) == (1, 1)
            assert 0 < waiting("oldest_queued_job_seconds") < PATIENCE
            with workers(tmp_path / "w", server.tcp_url):
                eventually(lambda: gate.starts() >= 2, "two tasks run")
                eventually(lambda: scrape(url).samples.get(("mrcelery_workers", (("queue", "celery"),))), "it tells")
                # More than the two that run may be leased: a worker also prefetches for its processes.
                running = scrape(url)
                assert running("jobs", state="running") == 1
                assert [running("tasks", stage="map", state=s) for s in ("queued", "running", "succeeded")] == [3, 2, 0]
                assert [running("tasks", stage="reduce", state=s) for s in ("queued", "running")] == [0, 0]
                assert running("leased_messages", queue="celery") >= 2
                assert running("work", queue="celery") == 5
                assert running("worker_slots", queue="celery") == 2
                assert 0 <= running("oldest_lease_seconds") < PATIENCE
                assert running("expired_leases") == 0
                assert running("attempts_total", stage="map", outcome="started") == 2
                host = os.uname().nodename
                about = {name: versions()[name] for name in ("python", "mrcelery", "celery")}
                assert running("worker_info", worker="celery-0@here", host=host, **about) == 1
                gate.open()
                job.wait(PATIENCE)
                with mrcelery.submit(word_count, str(text), **settings) as other:
                    other.wait(PATIENCE)
                    assert results(other) == {"a": 3, "is": 2, "rose": 3}
                    totals = other.report().totals
                with pytest.raises(mrcelery.JobFailedError):
                    mrcelery.run(job_file(FAILING, "f.py"), str(text), **settings)
                eventually(lambda: scrape(url)("work", queue="celery") == 0, "all has been done")
                ended = scrape(url)
                assert ended("jobs_submitted_total") == 3
                assert [ended("jobs_ended_total", state=s) for s in ("succeeded", "failed", "cancelled")] == [2, 1, 0]
                assert (ended("jobs", state="queued"), ended("jobs", state="running")) == (0, 0)
                assert ended("attempts_total", stage="map", outcome="succeeded") == 6
                assert ended("attempts_total", stage="map", outcome="failed") == 1
                assert ended("attempts_total", stage="reduce", outcome="succeeded") == 2
                assert ended("records_total", stage="map", direction="in") == 5 + totals.records_in
                assert ended("records_total", stage="reduce", direction="out") == 1 + totals.records_out
                assert ended("bytes_total", stage="map", direction="in") == gate.text.stat().st_size + totals.bytes_in
                assert ended("task_seconds_count", stage="map") == 6
                assert ended("task_seconds_sum", stage="map") > 0
                buckets = [(of, v) for (name, of), v in ended.samples.items() if name.endswith("_bucket")]
                bounds = [value for of, value in buckets if ("stage", "map") in of]
                assert bounds == sorted(bounds)
                assert len(bounds) == 13
            eventually(lambda: scrape(url)("workers", queue="celery") == 0, "the workers are missed")


def test_workers_that_vanish(server: RedisServer, settings: dict[str, Any], job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 1)
    quick = {"MRCELERY_VISIBILITY_TIMEOUT": "1"}
    with exporter(server.tcp_url, "--queue", "short", "--queue", "other") as url:
        assert scrape(url)("work", queue="other") == 0
        with (
            workers(tmp_path / "w", server.tcp_url, queue="short", env=quick) as (worker,),
            mrcelery.submit(job_file(GATED), str(gate.text), queue="short", **settings),
        ):
            eventually(gate.starts, "the task runs")

            def seen() -> Scrape | None:
                told = scrape(url)
                return told if told("workers", queue="short") == 1 else None

            before = eventually(seen, "the worker is seen")("silent_workers")
            worker.stop()
            eventually(lambda: scrape(url)("silent_workers") == before + 1, "the worker is missed")
            eventually(lambda: scrape(url)("expired_leases") == 1, "its lease ends")
            assert scrape(url)("oldest_lease_seconds") > 1
            assert scrape(url)("workers", queue="short") == 0
            assert scrape(url)("work", queue="short") == 1  # so that a scaler starts a worker for it


def test_no_broker() -> None:
    ran = command("metrics", "--once", "--broker", f"redis://127.0.0.1:{free_port()}", env=environment())
    assert ran.returncode == 0
    found = Scrape(ran.stdout)
    assert found("up") == 0
    assert list(found.families) == ["mrcelery_up"]


def test_a_broker_that_comes_back() -> None:
    with redis_server() as server, exporter(server.tcp_url) as url:
        assert scrape(url)("up") == 1
        server.stop()
        assert scrape(url)("up") == 0
        server.start()
        assert scrape(url)("up") == 1


def test_what_it_cannot_do(server: RedisServer) -> None:
    ran = command("metrics", env=environment())
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "metrics needs a broker" in ran.stderr
    ran = command("metrics", "--port", str(server.port), "--broker", server.tcp_url, env=environment())
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "give another --port" in ran.stderr


@pytest.fixture
def lonely(server: RedisServer, tmp_path: Path) -> Iterator[Quiet]:
    """A queue on a server to which only the test sends commands."""
    quiet = Quiet(server, tmp_path)
    yield quiet
    quiet.close()


def test_a_scrape_costs_the_same_however_many_tasks(
    lonely: Quiet, job_file: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Redis's own count, a scrape sends the same commands for any number of tasks: it does not scan the queue."""
    monkeypatch.setenv("MRCELERY_SCRATCH", str(tmp_path / "scratch"))

    def commands(tasks: int) -> int:
        gate_folder = tmp_path / str(tasks)
        gate_folder.mkdir()
        gate = Gate(gate_folder, tasks)
        with mrcelery.submit(job_file(GATED), str(gate.text), split_size=gate.split_size, **lonely.settings) as job:
            lonely.take()
            lonely.run("mrcelery.start", job=job.id)
            assert len(lonely.raw()) == tasks
            collector = FleetCollector(lonely.server.tcp_url, lonely.name)
            list(collector.collect())  # connects

            def used() -> int:
                (text,) = lonely.store.call(("INFO", "commandstats"))
                assert isinstance(text, bytes)
                found = re.findall(rb"cmdstat_(?:llen|hlen|hmget|zcount|hscan|lrange):calls=(\d+)", text)
                return sum(map(int, found))

            lonely.store.call(("CONFIG", "RESETSTAT"))
            families = {family.name: family for family in collector.collect()}
            calls = used()
            collector.close()
            assert tasks in [s.value for s in families["mrcelery_queue_messages"].samples]
            assert tasks in [s.value for s in families["mrcelery_tasks"].samples]
            job.cancel()
            lonely.store.drop(job.id)
            lonely.take()
            return calls

    assert commands(2000) <= commands(20) + 20


def test_flower_serves_the_same(server: RedisServer, tmp_path: Path) -> None:
    if find_spec("flower") is None:
        missing("flower")
    port = free_port()
    log = tmp_path / "flower.log"
    with log.open("wb") as out:
        process = guardian.start(
            [sys.executable, "-m", "mrcelery", "flower", "--broker", server.tcp_url, "--", f"--port={port}",
             "--address=127.0.0.1"],
            env=environment(), stdout=out, stderr=out, cwd=tmp_path,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/metrics"

        def answers() -> Scrape | None:
            assert process.poll() is None, log.read_text()
            try:
                return scrape(url)
            except OSError:
                return None

        seen = eventually(answers, "Flower answers")
        assert seen("up") == 1
        assert seen("work", queue="celery") >= 0
        assert "flower_events_created" in log.read_text() or any(name.startswith("flower_") for name in seen.families)
    finally:
        guardian.stop(process)


def test_the_dashboard_draws_what_there_is(server: RedisServer, tmp_path: Path) -> None:
    """The exporter provides each metric and each label that an expression of the dashboard names."""
    board = json.loads(DASHBOARD.read_text())
    with workers(tmp_path, server.tcp_url), exporter(server.tcp_url) as url:
        eventually(lambda: scrape(url)("workers", queue="celery"), "the worker tells of itself")
        told = scrape(url)
    labels: dict[str, set[str]] = {}
    for family in told.families.values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Jobs", "Work and workers", "Tasks", "Data"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    expressions += [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    drawn: set[str] = set()
    for expression in expressions:
        names = set(re.findall(r"\bmrcelery_\w+", expression))
        assert names, expression
        assert names <= labels.keys(), expression
        drawn |= names
        known = set().union(*(labels[name] for name in names)) | {"job", "instance", "namespace"}
        used = {name for group in re.findall(r"by \(([^)]*)\)", expression) for name in group.split(", ")}
        used |= set(re.findall(r"[{,]\s*(\w+)=", expression))
        assert used <= known, (expression, used - known)
    never = {name for name in labels if not name.endswith(("_created", "_sum", "_count"))} - drawn
    assert never == {"mrcelery_scrape_seconds"}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert board["schemaVersion"] >= 30
    assert {v["type"] for v in board["templating"]["list"]} >= {"datasource"}
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    for panel in panels:
        box = panel["gridPos"]
        assert box["x"] >= 0
        assert box["x"] + box["w"] <= 24
    boxes = [p["gridPos"] for p in board["panels"]]
    cells = [(x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])]
    assert len(cells) == len(set(cells)), "panels lie on one another"


def test_the_age_of_the_oldest_queued_job(
    server: RedisServer, settings: dict[str, Any], word_count: str, text: Path
) -> None:
    began = time.time()
    with mrcelery.submit(word_count, str(text), queue="nobody", **settings) as job:
        told = Scrape(command("metrics", "--once", "--broker", server.tcp_url, env=environment()).stdout)
        assert 0 < told("oldest_queued_job_seconds") <= time.time() - began
        job.cancel()
