"""The paper's sections 5.4 and 5.5: the savings of backup tasks, and the cost of killed workers.

::

    python -m tests.benchmarks.faults
    python -m tests.benchmarks.faults --size 1GB --workers 9 --rounds 3 --json faults.json

Runs the distributed sort of the paper (:mod:`mrcelery.examples.sort`, a Python call per record) on workers of one
process each, and checks each output. These variants take turns: undisturbed; one worker ten times slower than the
others, with and without backup tasks; and 11 % of the workers killed with SIGKILL in mid-job, and not replaced.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.fleet import fleet
from tests.benchmarks.generate_big import Data, generate, parse_size
from tests.benchmarks.oracle import check

JOB = "mrcelery.examples.sort:Sort"
SLOWER = 10
"""The paper's slow disks were 20 to 30 times slower; this benchmark uses ten."""
TICK = 0.02


class Variant(NamedTuple):
    """A variant of the run; ``slow`` and ``kill`` are numbers of workers."""

    name: str
    slow: int = 0
    kill: int = 0
    speculative: bool = True


def variants(workers: int) -> list[Variant]:
    killed = max(1, round(workers * 0.11))
    return [
        Variant("undisturbed"),
        Variant(f"one worker {SLOWER} times slower, backup tasks", slow=1),
        Variant(f"one worker {SLOWER} times slower, no backup tasks", slow=1, speculative=False),
        Variant(f"{killed} of {workers} workers killed in mid-job", kill=killed),
    ]


def busy_seconds(session: int) -> float:
    """Return the CPU seconds of all live processes of a session."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if os.getsid(int(folder.name)) == session:
                    total += int((folder / "schedstat").read_text().split()[0])
    return total / 1e9


def kill(session: int, number: signal.Signals) -> None:
    """Send a signal to all processes of a session, because a pool's processes may be in other process groups."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if os.getsid(int(folder.name)) == session:
                    os.kill(int(folder.name), number)


@contextmanager
def slowed(worker: int, workers: int) -> Iterator[None]:
    """Stop a worker again and again, so that it gets a tenth of its share of CPU time.

    Its share is one of ``workers`` equal parts of this machine's CPUs, even while the other workers are idle, because
    the worker represents a separate machine.
    """
    over = threading.Event()
    rate = min(1.0, len(os.sched_getaffinity(0)) / workers) / SLOWER

    def hold_back() -> None:
        used, since, debt = busy_seconds(worker), time.monotonic(), 0.0
        stopped = False
        while not over.wait(TICK):
            now, spent = time.monotonic(), busy_seconds(worker)
            # Idle time earns no credit.
            debt = max(0.0, debt + spent - used - (now - since) * rate)
            used, since = spent, now
            if (debt > 0) != stopped:
                stopped = not stopped
                kill(worker, signal.SIGSTOP if stopped else signal.SIGCONT)

    thread = threading.Thread(target=hold_back)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        kill(worker, signal.SIGCONT)


def run(data: Data, variant: Variant, workers: int, tasks: int, reducers: int, kill_after: float) -> dict[str, float]:
    """Run the job; return its seconds from submission to the end that the client sees, and its attempts."""
    folder = Path(tempfile.mkdtemp(prefix="mrcelery-faults-"))
    try:
        with fleet(1, workers) as machines:
            command = [
                sys.executable, "-m", "mrcelery", "submit", JOB, str(data.input), "-o", str(folder / "out"),
                "-R", str(reducers), "--split-size", str(-(-data.size // tasks)), "--quiet",
                "--speculative" if variant.speculative else "--no-speculative",
            ]  # fmt: skip
            began = time.monotonic()
            client = subprocess.Popen(command, env=machines.environment, stdout=subprocess.DEVNULL)
            try:
                if variant.slow:
                    with slowed(machines.workers[0], workers):
                        client.wait(1200)
                else:
                    if variant.kill:
                        with suppress(subprocess.TimeoutExpired):
                            client.wait(kill_after)
                        for victim in machines.workers[: variant.kill]:
                            kill(victim, signal.SIGKILL)
                    client.wait(1200)
                took = time.monotonic() - began
            finally:
                client.kill()
                client.wait()
            if client.returncode:
                sys.exit(f"the job failed with exit code {client.returncode}")
            check("sorted", folder / "out", data)
            (report,) = Path(machines.environment["MRCELERY_STORAGE"]).glob("jobs/sort-*/report.json")
            return {"seconds": took, **attempts_of(report)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def attempts_of(report: Path) -> dict[str, float]:
    """Return the number of attempts, and the share of their time that did not count."""
    stages = json.loads(report.read_bytes())["overview"]["stages"]
    spent = [(one[2], one[5]) for stage in stages for one in stage["attempts"]]
    wasted = sum(seconds for outcome, seconds in spent if outcome != "succeeded")
    return {"attempts": len(spent), "wasted": wasted / max(0.001, sum(seconds for _, seconds in spent))}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwind, to end all started processes
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("1GB"), help="size of the input (1GB)")
    parser.add_argument("--workers", type=int, default=9, help="workers of one process each (9)")
    parser.add_argument("--tasks", type=int, default=90, help="number of map tasks (90)")
    parser.add_argument("--reducers", type=int, default=18, help="number of reduce tasks (18)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, whose median is reported (3)")
    parser.add_argument("--only", help="only variants whose name contains this, and the undisturbed one")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "mrcelery-bench"))
    parser.add_argument("--json", type=Path, help="file for the raw numbers")
    options = parser.parse_args()
    data = generate("records", options.size, options.cache)
    chosen = [v for v in variants(options.workers) if not (v.slow or v.kill) or (options.only or "") in v.name]
    found: dict[str, list[dict[str, float]]] = {variant.name: [] for variant in chosen}
    for _ in range(options.rounds):
        for variant in chosen:
            first = found["undisturbed"]
            half = statistics.median(one["seconds"] for one in first) / 2 if first else 0.0
            one = run(data, variant, options.workers, options.tasks, options.reducers, half)
            found[variant.name].append(one)
            print(f"{variant.name}: {one['seconds']:.1f} s", file=sys.stderr, flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")
    base = statistics.median(one["seconds"] for one in found["undisturbed"])
    what = f"sort of {options.size / 1e6:,.0f} MB, {options.tasks} maps, R = {options.reducers}"
    heads = (what, "seconds", "least to most", "of the undisturbed", "attempts", "time in uncounted ones")
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, runs in found.items():
        seconds = sorted(one["seconds"] for one in runs)
        middle = statistics.median(seconds)
        print(
            f"| {name} | {middle:.1f} | {seconds[0]:.1f} to {seconds[-1]:.1f} | {middle / base:.2f} x | "
            f"{statistics.median(one['attempts'] for one in runs):.0f} | "
            f"{100 * statistics.median(one['wasted'] for one in runs):.0f} % |"
        )


if __name__ == "__main__":
    main()
