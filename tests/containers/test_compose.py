"""A whole cluster from compose.yaml gives the right results, even if containers and networks go away mid-job."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

import mrcelery
from mrcelery import JobHandle
from tests.containers.engine import IMAGE, Cluster, docker
from tests.support.services import PATIENCE, eventually

BUCKET = "mrcelery"
MAPS, LINES = 24, 8
CUT_SECONDS = 30.0

JOB = """
    import os, time
    import boto3
    from botocore.config import Config
    from mrcelery import MRJob

    class SlowWordCount(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--run-name")
            self.add_passthru_arg("--seconds", type=float)
            self.add_passthru_arg("--held", type=int)

        def mapper_init(self):
            self.told = False

        def mapper(self, _, line):
            if not self.told:
                task = line.split()[0]
                self.tell(task)
                while int(task.removeprefix("task")) < self.options.held and not self.released():
                    time.sleep(0.2)
                self.told = True
            time.sleep(self.options.seconds)
            self.increment_counter("text", "lines")
            for word in line.split():
                yield word, 1

        def tell(self, task):
            key = f"starts/{self.options.run_name}/{task}/{time.time_ns()}"
            try:  # the network may be gone, which is not this job's business
                self.s3().put_object(Bucket="mrcelery", Key=key)
            except Exception:
                pass

        def released(self):
            try:
                self.s3().head_object(Bucket="mrcelery", Key=f"release/{self.options.run_name}")
            except Exception:
                return False
            return True

        def s3(self):
            config = Config(connect_timeout=1, read_timeout=1, retries={"total_max_attempts": 1})
            return boto3.client("s3", config=config)

        def combiner(self, word, counts):
            yield word, sum(counts)

        def reducer(self, word, counts):
            self.increment_counter("text", "words")
            yield word, sum(counts)
"""
"""Each file is one map task, named by the file's first word; an object in S3 records that it has started.

The first ``--held`` of them wait for an object that releases them, so that the job cannot end earlier.
"""


@dataclass
class Outcome:
    """What a job leaves: its part files, byte for byte, and its user counters."""

    parts: dict[str, bytes]
    counters: dict[str, dict[str, int]]


class Bench:
    """Runs the same job on a cluster, undisturbed or not."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.s3: Any = boto3.client("s3")
        eventually(self._has_bucket, "S3 has its bucket")
        self._job = folder / "slow.py"
        self._job.write_text(dedent(JOB))
        self.words: Counter[str] = Counter()
        for number in range(MAPS):
            text = "".join(f"task{number:02} line{line} a rose is a rose\n" for line in range(LINES))
            self.words.update(text.split())
            self.s3.put_object(Bucket=BUCKET, Key=f"in/{number:02}.txt", Body=text.encode())
        self._split_size = len(text)

    def _has_bucket(self) -> bool:
        try:
            self.s3.head_bucket(Bucket=BUCKET)
        except (ClientError, BotoCoreError):
            return False
        return True

    @contextmanager
    def job(self, name: str, seconds: float = 0.1, held: int = 0) -> Iterator[JobHandle]:
        """Submit a job whose maps take ``LINES`` times ``seconds``; ``held`` of them wait for a release."""
        with mrcelery.submit(
            str(self._job),
            f"s3://{BUCKET}/in/",
            f"s3://{BUCKET}/out/{name}",
            runner="celery",
            broker=self.cluster.broker,
            storage=f"s3://{BUCKET}/data",
            reducers=3,
            split_size=self._split_size,
            keep=True,
            speculative=False,
            args=["--run-name", name, "--seconds", str(seconds), "--held", str(held)],
        ) as handle:
            yield handle

    def release(self, name: str) -> None:
        """Let the held maps of a job continue."""
        self.s3.put_object(Bucket=BUCKET, Key=f"release/{name}")

    def keys(self, prefix: str) -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", [])]

    def committed(self, handle: JobHandle) -> set[int]:
        """Return the map tasks that have committed."""
        found = (re.search(r"/step-0/map-(\d+)/commit\.json$", key) for key in self.keys(f"data/jobs/{handle.id}/"))
        return {int(match[1]) for match in found if match}

    def await_committed(self, handle: JobHandle, maps: int) -> set[int]:
        """Wait until so many maps have committed, and return them: the job is in the middle of its maps."""
        eventually(lambda: len(self.committed(handle)) >= maps, f"{maps} maps have committed")
        done = self.committed(handle)
        assert len(done) < MAPS, "the job was too quick for this test"
        return done

    def starts(self, name: str) -> dict[int, list[float]]:
        """Return when the attempts of each map task started, in epoch seconds."""
        found: dict[int, list[float]] = {}
        for key in self.keys(f"starts/{name}/"):
            _, _, task, nanoseconds = key.split("/")
            found.setdefault(int(task.removeprefix("task")), []).append(int(nanoseconds) / 1e9)
        return found

    def outcome(self, handle: JobHandle, name: str) -> Outcome:
        """Wait for the job's end and return what it left."""
        handle.wait(timeout=2 * PATIENCE)
        keys = self.keys(f"out/{name}/")
        read = {key.rpartition("/")[2]: self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}
        success = json.loads(read.pop("_SUCCESS"))
        assert success["job"] == handle.id
        return Outcome(read, {"text": dict(handle.counters()["text"])})


@pytest.fixture(scope="module")
def bench(fleet: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(fleet, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> Outcome:
    with bench.job("undisturbed") as handle:
        return bench.outcome(handle, "undisturbed")


def test_a_word_count_over_s3_is_right(bench: Bench, undisturbed: Outcome) -> None:
    pairs = [line.split("\t") for part in undisturbed.parts.values() for line in part.decode().splitlines()]
    assert {json.loads(word): int(count) for word, count in pairs} == bench.words
    assert len(undisturbed.parts) == 3
    assert undisturbed.counters["text"] == {"lines": MAPS * LINES, "words": len(bench.words)}
    starts = bench.starts("undisturbed")
    assert {task: len(starts[task]) for task in starts} == dict.fromkeys(range(MAPS), 1)


def test_workers_and_flower_are_healthy(fleet: Cluster) -> None:
    fleet.await_healthy([*fleet.workers(), fleet.container("flower")])


def test_flower_has_our_pages(bench: Bench, undisturbed: Outcome) -> None:
    def shows_the_job() -> bool:
        with urlopen(f"{bench.cluster.flower}/jobs") as answer:
            return b"SlowWordCount" in answer.read()

    eventually(shows_the_job, "Flower lists the job")


def test_a_worker_that_is_killed(bench: Bench, undisturbed: Outcome) -> None:
    victim = bench.cluster.workers()[0]
    # Long enough for even a slow engine to kill it while it has tasks.
    with bench.job("killed", seconds=0.5) as handle:
        done = bench.await_committed(handle, 2)
        begun = time.time()
        # Tasks take 4 s. First, which takes a while, they create an S3 client to record that they started.
        eventually(lambda: time.time() > begun + 2, "those that came next have told that they started")
        told = time.time()
        docker("kill", "--signal", "KILL", victim)
        try:
            assert bench.outcome(handle, "killed") == undisturbed
            again = [task for task, moments in bench.starts("killed").items() if len(moments) > 1]
            assert again, "nothing of what it ran was run again"
            assert not any(max(bench.starts("killed")[task]) > told for task in done)
        finally:
            docker("start", victim)


def test_a_worker_whose_network_is_gone_for_a_while(bench: Bench, undisturbed: Outcome) -> None:
    victim, network = bench.cluster.workers()[0], bench.cluster.network
    first = address(victim)
    with bench.job("cut", seconds=0.5, held=1) as handle:
        done = bench.await_committed(handle, 2)
        told = time.time()
        docker("network", "disconnect", network, victim)
        with somebody_at(network):  # so that it returns with another address: no old connection survives
            eventually(lambda: time.time() > told + CUT_SECONDS, "the time is over")
            docker("network", "connect", network, victim)
        bench.release("cut")
        assert bench.outcome(handle, "cut") == undisturbed
        assert not any(max(bench.starts("cut")[task]) > told for task in done)
    assert address(victim) != first
    assert docker("inspect", "--format", "{{.State.Running}} {{.RestartCount}}", victim).split() == ["true", "0"]
    works_alone(bench, victim, "after-cut", undisturbed)


@contextmanager
def somebody_at(network: str) -> Iterator[None]:
    """Run an idle container, which takes the next address of a network."""
    made = docker("run", "--detach", "--network", network, "--entrypoint", "sleep", IMAGE, "600").strip()
    try:
        yield
    finally:
        docker("rm", "--force", made)


def address(worker: str) -> str:
    return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", worker).strip()


def works_alone(bench: Bench, worker: str, name: str, undisturbed: Outcome) -> None:
    """Check that a worker takes tasks: it does a whole job while the others are paused."""
    others = [other for other in bench.cluster.workers() if other != worker]
    docker("pause", *others)
    try:
        with bench.job(name, seconds=0) as handle:
            assert bench.outcome(handle, name) == undisturbed
    finally:
        docker("unpause", *others)


@pytest.mark.parametrize("stop", [["restart"], ["kill", "--signal", "KILL"]], ids=["restarted", "killed"])
def test_redis_goes_and_comes_back(stop: list[str], bench: Bench, undisturbed: Outcome) -> None:
    redis, name = bench.cluster.container("redis"), f"redis-{stop[0]}"
    with bench.job(name) as handle:
        done = bench.await_committed(handle, 4)
        told = time.time()
        docker(*stop, redis)
        docker("start", redis)
        assert bench.outcome(handle, name) == undisturbed
        assert not any(max(bench.starts(name)[task]) > told for task in done)


def test_an_upgrade_in_mid_job(bench: Bench, undisturbed: Outcome) -> None:
    """Workers are restarted one by one, then all replaced at once."""
    cluster = bench.cluster
    again = ["up", "--detach", "--no-build", "--force-recreate", "--no-deps", "worker"]
    renewals = [partial(docker, "restart", worker) for worker in cluster.workers()] + [partial(cluster.compose, *again)]
    with bench.job("upgrade", seconds=0.2, held=1) as handle:
        before: list[Any] = []
        for renew in renewals:
            before.append((bench.await_committed(handle, 2 + 4 * len(before)), time.time()))
            renew()
        bench.release("upgrade")
        assert bench.outcome(handle, "upgrade") == undisturbed
        starts = bench.starts("upgrade")
        assert not any(max(starts[task]) > told for done, told in before for task in done)
