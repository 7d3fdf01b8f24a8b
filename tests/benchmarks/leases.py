"""Whether each task runs once: a job of many tasks that take longer than the visibility timeout, on real workers.

::

    python -m tests.benchmarks.leases
    python -m tests.benchmarks.leases --tasks 120 --restart 5

Each task records its start, and sleeps one and a half times the visibility timeout in one call of its mapper. Without
leases, the broker would deliver each task again while it runs. With ``--restart``, the Redis server, which keeps an
append-only file, is killed in mid-job. It is started again after that many seconds, while a client waits.
Prints the number of duplicate executions, the seconds of the job, and the events that the client received.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mrcelery
from mrcelery.errors import MRCeleryError
from tests.support.services import RedisServer, redis_server, workers

JOB = """
import os, time
from mrcelery import MRJob

class Sleeps(MRJob):
    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--log")
        self.add_passthru_arg("--seconds", type=float)

    def mapper(self, _, line):
        log = os.open(self.options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(log, f"{line}\\n".encode())  # one write: whole, whoever else writes
        os.close(log)
        time.sleep(self.options.seconds)
        yield "tasks", 1

    def reducer(self, key, values):
        yield key, sum(values)
"""
WIDTH = 8
"""Bytes of a line, and of a split: one task per line."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--visibility", type=float, default=4.0, help="visibility timeout in seconds (4)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--processes", type=int, default=25, help="processes of each worker (25)")
    parser.add_argument("--restart", type=float, metavar="SECONDS", help="kill Redis; start it again after SECONDS")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrcelery-leases-") as name:
        found = measure(Path(name), args)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    print(
        f"{found['tasks']:,} tasks of {found['seconds_each']:g} s, visibility timeout {args.visibility:g} s, "
        f"{args.workers} workers of {args.processes} processes"
    )
    print(f"duplicate executions  {found['duplicates']}")
    print(f"job                   {found['seconds']:.1f} s, at least {found['least_seconds']:.1f} s")
    for line in found["told"]:
        print(f"told                  {line}")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    job, text, log = folder / "sleeps.py", folder / "in.txt", folder / "log"
    job.write_text(JOB)
    text.write_text("".join(f"{number:0{WIDTH - 1}d}\n" for number in range(args.tasks)))
    each = 1.5 * args.visibility
    told: list[str] = []
    with (
        redis_server(appendonly="yes", appendfsync="everysec") as server,
        workers(
            folder / "workers", server.tcp_url, args.workers, concurrency=args.processes,
            MRCELERY_VISIBILITY_TIMEOUT=str(args.visibility),
        ),
    ):  # fmt: skip
        began = time.monotonic()
        with mrcelery.submit(
            str(job), str(text), runner="celery", broker=server.tcp_url, storage=str(folder / "storage"),
            split_size=WIDTH, reducers=1, args=["--log", str(log), "--seconds", str(each)],
        ) as handle:  # fmt: skip
            if args.restart is not None:
                half = args.tasks // 2
                threading.Thread(target=restart, args=(server, log, half, args.restart), daemon=True).start()
            handle.wait(on_event=lambda event: told.append(str(event)))
            seconds = time.monotonic() - began
            assert list(handle) == [("tasks", args.tasks)]
    runs = Counter(log.read_text().split())
    assert len(runs) == args.tasks
    return {
        "tasks": args.tasks,
        "seconds_each": each,
        "duplicates": sum(runs.values()) - args.tasks,
        "seconds": seconds,
        "least_seconds": -(-args.tasks // (args.workers * args.processes)) * each,
        "told": told,
    }


def restart(server: RedisServer, log: Path, lines: int, seconds: float) -> None:
    """Kill the server when ``lines`` tasks have begun, and start it again after ``seconds``."""

    def began() -> int:
        with suppress(FileNotFoundError):
            return log.read_bytes().count(b"\n")
        return 0

    wait_for(lambda: began() >= lines)
    server.stop()
    time.sleep(seconds)
    server.start()


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        main()
    except MRCeleryError as e:
        sys.exit(f"{os.path.basename(__file__)}: {e}")
