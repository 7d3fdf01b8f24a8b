"""The cost of watching a job: a client waits quietly, with a terminal's progress display, and with JSON events.

::

    python -m tests.benchmarks.watching
    python -m tests.benchmarks.watching --tasks 200 --pause 0.05 --rounds 3

Reports the seconds of the job, and the CPU seconds of the waiting client (the whole process) and of Redis. Also
reports the extra cost of each way above the quiet one, as a share of the job's time on all its processes.
"""

from __future__ import annotations

import argparse
import os
import pty
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from mrcelery.jobstore.redis import RedisJobStore
from tests.benchmarks.fleet import Fleet, fleet

PROCESSES = 2
WAYS = {"quiet": ["-q"], "terminal": [], "json": ["--json"]}

JOB = """
import time
from mrcelery import MRJob

class Pause(MRJob):
    def mapper(self, _, line):
        time.sleep(float(line))
        yield line, 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100, help="map tasks [100]")
    parser.add_argument("--lines", type=int, default=5, help="records of each map task [5]")
    parser.add_argument("--pause", type=float, default=0.04, help="seconds that a record takes [0.04]")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, fleet(PROCESSES) as started:
        job, text = Path(folder, "pause.py"), Path(folder, "in.txt")
        job.write_text(JOB)
        line = f"{args.pause}\n"
        text.write_text(line * args.tasks * args.lines)
        submit = [sys.executable, "-m", "mrcelery", "submit", str(job), str(text), "--no-output"]
        submit += ["--split-size", str(len(line) * args.lines)]
        figures: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way, options in WAYS.items():
                figures[way].append(_run([*submit, *options], started))
    print(f"{'':<10}{'job, s':>8}{'client, s':>11}{'Redis, s':>10}{'above quiet':>13}")
    before = 0.0
    for way, runs in figures.items():
        seconds, client, redis = (median(column) for column in zip(*runs, strict=True))
        before = before or client + redis
        above = (client + redis - before) / (seconds * PROCESSES)
        print(f"{way:<10}{seconds:>8.2f}{client:>11.2f}{redis:>10.2f}{above:>12.1%}")


def _run(command: list[str], started: Fleet) -> tuple[float, float, float]:
    """Run a job; return its seconds, and the CPU seconds of its client and of Redis."""
    store = RedisJobStore(started.broker)
    ours, theirs = pty.openpty()
    shown = threading.Thread(target=_drain, args=(ours,), daemon=True)
    shown.start()
    redis, client, began = _redis_seconds(store), _children_seconds(), time.perf_counter()
    subprocess.run(
        command, env={**started.environment, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs, check=True
    )
    seconds = time.perf_counter() - began
    found = seconds, _children_seconds() - client, _redis_seconds(store) - redis
    os.close(theirs)
    store.close()
    return found


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        os.close(terminal)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _redis_seconds(store: RedisJobStore) -> float:
    (answer,) = store.call(("INFO", "cpu"))
    assert isinstance(answer, bytes)
    told = dict(line.split(":") for line in answer.decode().split("\r\n") if ":" in line)
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


if __name__ == "__main__":
    main()
