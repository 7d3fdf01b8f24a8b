"""A worker and Redis, next to an S3 endpoint on loopback whose CPU time is counted separately."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.contestants import FLEET, WORKLOADS, Contestant, Run, submit
from tests.benchmarks.fleet import fleet
from tests.benchmarks.measure import Usage, cpu_seconds, look, measure
from tests.support.s3_endpoint import s3_bucket, s3_endpoint


class S3Fleet(NamedTuple):
    environment: dict[str, str]
    bucket: str
    processes: list[int]
    """The worker and Redis."""
    endpoint: list[int]
    """Processes of the endpoint, if they are known."""
    boto: Any

    def contestant(self, name: str, more: list[str]) -> Contestant:
        return Contestant(
            FLEET, "", "", lambda run: submit(WORKLOADS[name].job, run, *more, runner="celery"), self.environment
        )

    def upload(self, path: Path) -> str:
        """Upload the file into the bucket, once; this is not measured."""
        key = f"inputs/{path.parent.name}/{path.name}"
        if not list(self.boto.objects.filter(Prefix=key)):
            self.boto.upload_file(str(path), key)
        return f"s3://{self.bucket}/{key}"

    def run(self, contestant: Contestant, run: Run, cwd: Path, timeout: float) -> tuple[Usage, float]:
        """Run a contestant, and download its output to ``run.output``; also return the endpoint's CPU seconds."""
        prefix = f"outputs/{Path(run.output).name}/"
        there = run._replace(input=self.upload(Path(run.input)), output=f"s3://{self.bucket}/{prefix}")
        before, endpoint = cpu_seconds(self.processes), cpu_seconds(self.endpoint)
        used = measure(contestant.command(there), cwd=cwd, env=self.environment, timeout=timeout, beside=self.processes)
        used = used._replace(cpu=used.cpu + cpu_seconds(self.processes) - before)
        endpoint = cpu_seconds(self.endpoint) - endpoint
        Path(run.output).mkdir()
        for found in self.boto.objects.filter(Prefix=prefix):
            self.boto.download_file(found.key, str(Path(run.output, found.key.removeprefix(prefix))))
        self.boto.objects.filter(Prefix=prefix).delete()
        return used, endpoint


@contextmanager
def s3_fleet(workers: int, endpoint_pid: int = 0) -> Iterator[S3Fleet]:
    """Start everything, and stop it at the end; ``endpoint_pid`` is the process of an endpoint that runs already."""
    import boto3

    own = _children()
    with s3_endpoint():
        endpoint = [endpoint_pid] if endpoint_pid else sorted(_children() - own)
        with s3_bucket() as bucket, fleet(workers) as warm:
            environment = {**warm.environment, "MRCELERY_STORAGE": f"s3://{bucket}/mrcelery"}
            boto = boto3.resource("s3").Bucket(bucket)
            yield S3Fleet(environment, bucket, [warm.worker, warm.server], endpoint, boto)


def _children() -> set[int]:
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return {pid for pid in pids if (process := look(pid)) and process.parent == os.getpid()}
