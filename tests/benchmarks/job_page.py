"""The cost of showing a large job: its page in Flower, and the memory of Redis while all events are on.

::

    python -m tests.benchmarks.job_page
    python -m tests.benchmarks.job_page --tasks 10000 --json

Runs a job of many map tasks that do nothing on a fleet on this machine, with a Flower that has asked the worker for
events. Requests the job's page, its JSON with and without attempts, and the list of jobs over HTTP, both while the
job runs and after its end. Reports their sizes and their times in milliseconds (the median of a few answers). Also
reports Redis's memory per task: at its peak, when all tasks are queued, and after the job has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import urllib3

from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.states import FINAL
from mrcelery.schema.task_id import StageId
from tests.benchmarks.fleet import Fleet, fleet
from tests.benchmarks.many_tasks import JOB, WIDTH

PORT = 5599
LOOKS = 5


def start_flower(warm: Fleet, log: Path) -> subprocess.Popen[bytes]:
    """Start a Flower, and wait until it answers."""
    command = [sys.executable, "-m", "mrcelery", "flower", "--", f"--port={PORT}", "--address=127.0.0.1"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=warm.environment, cwd=log.parent, start_new_session=True
        )
    while True:
        try:
            if urllib3.request("GET", f"http://127.0.0.1:{PORT}/healthcheck", retries=False).status == 200:
                return process
        except urllib3.exceptions.HTTPError:
            if process.poll() is not None:
                sys.exit(f"flower did not start: {log.read_text()}")
            time.sleep(0.1)


def looks(job: str) -> dict[str, tuple[float, int]]:
    """Return the milliseconds and bytes of each page."""
    found = {}
    pool = urllib3.PoolManager()
    for name, path in (
        ("page", f"/jobs/{job}"),
        ("json", f"/jobs/{job}/data"),
        ("json, no attempts", f"/jobs/{job}/data?attempts=0"),
        ("list of jobs", "/jobs/data"),
    ):
        taken = []
        for _ in range(LOOKS):
            began = time.perf_counter()
            answer = pool.request("GET", f"http://127.0.0.1:{PORT}{path}")
            taken.append(time.perf_counter() - began)
            if answer.status != 200:
                sys.exit(f"{path} answered {answer.status}: {answer.data[:200]!r}")
        found[name] = (round(median(taken) * 1000, 1), len(answer.data))
    return found


def used(store: RedisJobStore) -> int:
    """Return the bytes that Redis has allocated."""
    (told,) = store.call(("INFO", "memory"))
    assert isinstance(told, bytes)
    return int(told.split(b"used_memory:")[1].split()[0])


def run(tasks: int, warm: Fleet) -> dict[str, object]:
    store = RedisJobStore(warm.broker)
    with tempfile.TemporaryDirectory() as folder:
        flower = start_flower(warm, Path(folder, "flower.log"))
        try:
            time.sleep(6)  # Flower asks the workers for events every 5 s
            before = most = used(store)
            Path(folder, "noop.py").write_text(JOB)
            Path(folder, "lines.txt").write_text("".join(f"{n:0{WIDTH - 1}}\n" for n in range(tasks)))
            command = [sys.executable, "-m", "mrcelery", "submit", "noop.py", "lines.txt", "--split-size", str(WIDTH)]
            command += ["--output-format", "none", "--detach"]
            told = subprocess.run(command, cwd=folder, env=warm.environment, check=True, capture_output=True, text=True)
            job = told.stdout.strip()
            running: dict[str, tuple[float, int]] = {}
            at = 0
            while store.state(job) not in FINAL:
                most = max(most, used(store))
                done = store.done(StageId(job, 0, "map"))
                if not running and done > tasks // 2:
                    at, running = done, looks(job)
                time.sleep(0.05)
            state, fields = store.state(job), store.fields(job)
            if state != "succeeded" or int(fields["total.0.map"]) != tasks:
                sys.exit(f"the job {state} with {fields.get('total.0.map')} tasks")
            ended, after = looks(job), used(store)
        finally:
            os.killpg(flower.pid, signal.SIGKILL)
            flower.wait()
            store.close()
    return {
        "tasks": tasks,
        "seconds": round(float(fields["finished"]) - float(fields["started"]), 2),
        "running_at": at,
        "running": running,
        "ended": ended,
        "redis_peak_bytes_per_task": round((most - before) / tasks),
        "redis_left_bytes_per_task": round((after - before) / tasks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=2000, help="number of map tasks")
    parser.add_argument("--workers", type=int, default=2, help="processes of the worker")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args()
    with fleet(options.workers) as warm:
        result = run(options.tasks, warm)
    if options.json:
        print(json.dumps(result))
        return
    peak, left = result["redis_peak_bytes_per_task"], result["redis_left_bytes_per_task"]
    print(
        f"{options.tasks:,} tasks in {result['seconds']} s; Redis had {peak:,} bytes a task at most, {left:,} when "
        "the job had ended\n"
    )
    print(f"| | ms, {result['running_at']:,} tasks succeeded | KiB | ms, job ended | KiB |\n|---|---|---|---|---|")
    for name, (ended, size) in result["ended"].items():  # type: ignore[attr-defined]
        running, early = result["running"].get(name, (0.0, 0))  # type: ignore[attr-defined]
        print(f"| {name} | {running} | {early / 1024:,.0f} | {ended} | {size / 1024:,.0f} |")


if __name__ == "__main__":
    main()
