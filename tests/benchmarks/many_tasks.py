"""The cost of tasks alone: a job of many map tasks that do nothing, on a fleet on this machine.

::

    python -m tests.benchmarks.many_tasks
    python -m tests.benchmarks.many_tasks --tasks 5000 --reducers 1 --json

Reports the seconds until the last map task is published and until the job has ended. Also reports the memory of the
client, of the whole worker (its parent and its processes), and of Redis over time. Memory is read from /proc: Linux
only. All tasks count as published when the waiting, running, and finished ones add up to their total. The precision
is one sample.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.states import FINAL
from mrcelery.schema.task_id import StageId
from tests.benchmarks.fleet import Fleet, fleet
from tests.support.process_tree import below, resident

SAMPLE_SECONDS = 0.25
WIDTH = 16
"""Bytes of a line, and of a split: one task per line."""

JOB = """
from mrcelery import MRJob, MRStep

class NoOp(MRJob):
    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--reduce", action="store_true")

    def nothing(self, _, line):
        return ()

    def keep(self, key, values):
        yield key, sum(values)

    def steps(self):
        return [MRStep(mapper=self.nothing, reducer=self.keep if self.options.reduce else None)]
"""


def run(tasks: int, reducers: int, warm: Fleet) -> dict[str, object]:
    """Run one job; return its seconds and the samples (seconds, bytes of client, worker, and Redis)."""
    store = RedisJobStore(warm.broker)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "noop.py").write_text(JOB)
        Path(folder, "lines.txt").write_text("".join(f"{n:0{WIDTH - 1}}\n" for n in range(tasks)))
        command = [
            sys.executable,
            "-m",
            "mrcelery",
            "submit",
            "noop.py",
            "lines.txt",
            "--split-size",
            str(WIDTH),
            "--output-format",
            "none",
            "-q",
        ]
        if reducers:
            command += ["-R", str(reducers), "--", "--reduce"]
        known = set(store.jobs(1000))
        began = time.perf_counter()
        client = subprocess.Popen(command, cwd=folder, env=warm.environment, stdout=subprocess.DEVNULL)
        samples: list[tuple[float, int, int, int]] = []
        job, published, fields = "", None, dict[str, str]()
        while client.poll() is None:
            now = time.perf_counter() - began
            if not job:
                job = next((name for name in store.jobs(5) if name not in known), "")
            fields = store.fields(job) if job else {}
            if published is None and (total := int(fields.get("total.0.map", 0))):
                counts: list[Any] = store.call(("LLEN", "celery"), ("HLEN", "unacked"))
                queued = sum(counts)
                if fields["stage"] != "map" or queued + store.done(StageId(job, 0, "map")) >= total:
                    published = now
            workers = sum(map(resident, [warm.worker, *below(warm.worker)]))
            samples.append((round(now, 2), resident(client.pid), workers, resident(warm.server)))
            time.sleep(SAMPLE_SECONDS)
        finished = time.perf_counter() - began
        fields = store.fields(job)
        store.close()
        if client.returncode or fields.get("state") not in FINAL:
            sys.exit(f"the job ended with status {client.returncode}")
        if int(fields["total.0.map"]) != tasks:
            sys.exit(f"the job had {fields['total.0.map']} map tasks, not {tasks}")
    return {"tasks": tasks, "reducers": reducers, "published": published, "finished": finished, "samples": samples}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000, help="number of map tasks")
    parser.add_argument("--reducers", type=int, default=0, help="number of reduce tasks; 0 for a map-only job")
    parser.add_argument("--workers", type=int, default=2, help="processes of the worker")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args()
    with fleet(options.workers) as warm:
        result = run(options.tasks, options.reducers, warm)
    if options.json:
        print(json.dumps(result))
        return
    published = f"{result['published']:.1f} s" if result["published"] is not None else "not seen"
    print(
        f"{options.tasks:,} map tasks, R = {options.reducers}, {options.workers} processes: "
        f"published after {published}, finished after {result['finished']:.1f} s\n"
    )
    print("| seconds | client | worker and its processes | Redis |\n|---|---|---|---|")
    samples: list[tuple[float, int, int, int]] = result["samples"]  # type: ignore[assignment]
    for at in range(0, len(samples), max(1, len(samples) // 8)):
        seconds, *sizes = samples[at]
        print(f"| {seconds:.1f} | " + " | ".join(f"{size / 2**20:.0f} MiB" for size in sizes) + " |")


if __name__ == "__main__":
    main()
