"""Metrics for Prometheus, read from the job store and the queues at each scrape.

No state is kept here: any number of exporters report the same, and a restarted one loses nothing. A scrape costs two
round trips for the jobs that have not ended and one script for each 500 leased messages, of which workers hold a few
each; queued and succeeded tasks are counted as they change state, never enumerated.

Needs ``prometheus_client`` (extras ``metrics`` and ``flower``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from mrcelery.config import Config
from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore.base import BUCKETS
from mrcelery.jobstore.presence import WorkerSeen, workers_seen
from mrcelery.jobstore.queue_scan import leased_by_queue
from mrcelery.jobstore.redis import RedisJobStore, _done, _job, _sums
from mrcelery.schema.states import ENDED, FINAL, State
from mrcelery.schema.structs import Kind
from mrcelery.schema.task_id import KINDS, StageId

MOST_JOBS = 500
"""Unfinished jobs whose tasks are counted; if there are more, the newest."""

TASK_STATES: tuple[State, ...] = ("queued", "running", "succeeded")
"""States of the tasks of a running stage."""

ATTEMPTS = ("started", *ENDED)
"""The counters of attempts."""


class FleetCollector(Collector):
    """Reads the fleet at a broker address; ``queues`` are reported even while no job or worker uses them."""

    def __init__(self, broker: str, *queues: str) -> None:
        self._store = RedisJobStore(broker)
        self._queues = set(queues)

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: a collector must be registered without a server."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families; if the broker does not answer, only the one that says so."""
        started = time.perf_counter()
        try:
            found = list(self._found())
        except BrokerUnreachableError:
            yield _gauge("up", "Whether the broker answers.", 0)
            return
        yield _gauge("up", "Whether the broker answers.", 1)
        yield from found
        yield _gauge("scrape_seconds", "Time that reading all this took.", time.perf_counter() - started)

    def _found(self) -> Iterator[Metric]:
        live = self._live()
        yield from _jobs(live)
        yield self._tasks(live[-MOST_JOBS:])
        workers = workers_seen(self._store)
        self._queues.update(job["queue"] for job in live)
        self._queues.update(queue for worker in workers for queue in worker.queues)
        yield from self._work()
        yield from self._leases(workers)
        yield from _worker_metrics(workers, self._queues)
        yield from _totals(self._store.totals())

    def _live(self) -> list[dict[str, str]]:
        """Read some fields of the unfinished jobs, the oldest first."""
        jobs = self._store.live()
        names = ("state", "created", "queue", "step", "stage")
        rows: Any = self._store.call(*(("HMGET", _job(job), *names) for job in jobs)) if jobs else []
        found = []
        for job, row in zip(jobs, rows, strict=True):
            fields = {name: (value or b"").decode() for name, value in zip(names, row, strict=True)}
            if fields["state"] and fields["state"] not in FINAL:  # it has not ended meanwhile
                found.append({**fields, "job": job, "queue": fields["queue"] or "celery"})
        return found

    def _tasks(self, live: list[dict[str, str]]) -> Metric:
        """Count the tasks of the stages that jobs are in."""
        inside = [job for job in live if job["stage"] in KINDS]
        commands: list[tuple[str, ...]] = []
        for job in inside:
            name, stage = job["job"], StageId(job["job"], int(job["step"]), cast("Kind", job["stage"]))
            commands += [
                ("HGET", _job(name), f"total.{stage.name}"),
                ("HLEN", _done(stage)),
                ("HMGET", _sums(name), *(f"{stage.name}.{outcome}" for outcome in ATTEMPTS)),
            ]
        answers: Any = self._store.call(*commands) if commands else []
        counts: Counter[tuple[str, str]] = Counter({(k, s): 0 for k in KINDS for s in TASK_STATES})
        for number, job in enumerate(inside):
            total, succeeded, sums = answers[3 * number : 3 * number + 3]
            begun, *ended = (int(amount or 0) for amount in sums)
            left = max(0, int(total or 0) - succeeded)
            # Two attempts at one task count as one running task.
            running = min(left, max(0, begun - sum(ended)))
            for state, tasks in zip(TASK_STATES, (left - running, running, succeeded), strict=True):
                counts[job["stage"], state] += tasks
        family = GaugeMetricFamily("mrcelery_tasks", "Tasks of the stages that jobs are in.", labels=("stage", "state"))
        for labels, tasks in counts.items():
            family.add_metric(labels, tasks)
        return family

    def _work(self) -> Iterator[Metric]:
        leased = leased_by_queue(self._store)
        queues = sorted(self._queues)
        lengths: Any = self._store.call(*(("LLEN", queue) for queue in queues)) if queues else []
        queued = dict(zip(queues, lengths, strict=True))
        yield _by("queue_messages", "Messages that wait in a queue.", "queue", queued)
        running = {queue: leased[queue] for queue in queues}
        yield _by("leased_messages", "Messages of a queue that workers hold: they run, or are next.", "queue", running)
        work = {queue: queued[queue] + running[queue] for queue in queues}
        yield _by("work", "Messages of a queue that wait or are held: the demand for workers.", "queue", work)

    def _leases(self, workers: list[WorkerSeen]) -> Iterator[Metric]:
        longest = max((worker.visibility for worker in workers), default=0.0) or Config().visibility_timeout
        now = time.time()
        answers: Any = self._store.call(
            ("ZRANGE", "unacked_index", 0, 0, "WITHSCORES"),
            ("ZCOUNT", "unacked_index", "-inf", now - longest),
        )
        oldest, expired = answers
        age = max(0.0, now - float(oldest[1])) if oldest else 0.0
        yield _gauge("oldest_lease_seconds", "Time since the oldest lease was renewed.", age)
        yield _gauge("expired_leases", "Leases past the visibility timeout, to be taken over.", expired)


def register(broker: str, *queues: str, registry: CollectorRegistry = REGISTRY) -> FleetCollector:
    """Register the fleet's metrics, by default in the process's registry, which Flower serves at ``/metrics``."""
    collector = FleetCollector(broker, *queues)
    registry.register(collector)
    return collector


def _jobs(live: list[dict[str, str]]) -> Iterator[Metric]:
    counts = Counter({"queued": 0, "running": 0})
    counts.update(job["state"] for job in live)
    yield _by("jobs", "Jobs that have not ended; those queued wait for a worker.", "state", counts)
    queued = [float(job["created"] or 0) for job in live if job["state"] == "queued"]
    age = max(0.0, time.time() - min(queued)) if queued else 0.0
    yield _gauge("oldest_queued_job_seconds", "Time since the oldest queued job was submitted.", age)


def _worker_metrics(workers: list[WorkerSeen], queues: set[str]) -> Iterator[Metric]:
    alive = [worker for worker in workers if not worker.silent]
    counts, slots, sick = (dict.fromkeys(sorted(queues), 0) for _ in range(3))
    for worker in alive:
        for queue in worker.queues:
            sick[queue] += bool(worker.sick)
            counts[queue] += not worker.sick
            slots[queue] += 0 if worker.sick else worker.processes
    yield _by("workers", "Workers that listen on a queue and take tasks.", "queue", counts)
    yield _by("sick_workers", "Workers of a queue that take no tasks, since their machine fails them.", "queue", sick)
    yield _by("worker_slots", "Processes of the workers that listen on a queue.", "queue", slots)
    silent = len(workers) - len(alive)
    yield _gauge("silent_workers", "Workers that fell silent within the hour without having been stopped.", silent)
    info = InfoMetricFamily("mrcelery_worker", "The workers that listen.", labels=("worker",))
    for worker in alive:
        about = {name: worker.versions.get(name, "") for name in ("python", "mrcelery", "celery")}
        info.add_metric((worker.name,), {"host": worker.host, **about})
    yield info


def _totals(totals: Mapping[str, int]) -> Iterator[Metric]:
    def counter(name: str, help: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], str]]) -> Metric:
        family = CounterMetricFamily(f"mrcelery_{name}", help, labels=labels)
        for of, summed in values:
            family.add_metric(of, totals.get(summed, 0))
        return family

    def moved(what: str) -> list[tuple[tuple[str, ...], str]]:
        return [((kind, way), f"{kind}.{what}_{way}") for kind in KINDS for way in ("in", "out")]

    yield counter("jobs_submitted", "Jobs submitted.", (), [((), "jobs.submitted")])
    ends = [((state,), f"jobs.{state}") for state in sorted(FINAL)]
    yield counter("jobs_ended", "Jobs by how they ended.", ("state",), ends)
    attempts = [((kind, outcome), f"{kind}.{outcome}") for kind in KINDS for outcome in ATTEMPTS]
    yield counter("attempts", "Attempts at tasks: started, and by how they ended.", ("stage", "outcome"), attempts)
    directions = ("stage", "direction")
    yield counter("records", "Records that committed tasks have read and written.", directions, moved("records"))
    yield counter("bytes", "Bytes that committed tasks have read and written.", directions, moved("bytes"))
    bad = [((kind,), f"{kind}.bad_records") for kind in KINDS]
    yield counter("bad_records", "Records that committed tasks have skipped.", ("stage",), bad)
    yield _durations(totals.get)


def _durations(total: Callable[[str, int], int]) -> Metric:
    family = HistogramMetricFamily("mrcelery_task_seconds", "Times that committed attempts took.", labels=("stage",))
    for kind in KINDS:
        so_far, buckets = 0, []
        for bound in (*map(str, BUCKETS), "more"):
            so_far += total(f"{kind}.within.{bound}", 0)
            buckets.append(("+Inf" if bound == "more" else f"{int(bound) / 1000:g}", so_far))
        family.add_metric((kind,), buckets, total(f"{kind}.milliseconds", 0) / 1000)
    return family


def _gauge(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mrcelery_{name}", help, value=value)


def _by(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"mrcelery_{name}", help, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), value)
    return family
