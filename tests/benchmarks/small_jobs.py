"""How long a small job takes, from the start of its process to its end: mrcelery's runners and their peers.

::

    python -m tests.benchmarks.small_jobs
    python -m tests.benchmarks.small_jobs --rounds 15 --peer-python other-venv/bin/python --json

Each contestant is a process that counts the words of the same small text, and its counts are checked. Contestants
take turns, so that a busy machine slows all of them; a time is the median over the rounds. ``--peer-python`` is an
interpreter that has mrjob and dask[distributed]; the output lists the peers that it lacks. The fleet is warm: its
Redis and its worker are started before the first round, and not timed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.fleet import fleet

MRJOB = """
from mrjob.job import MRJob

class WordCount(MRJob):
    def mapper(self, _, line):
        for word in line.split():
            yield word, 1

    def combiner(self, word, counts):
        yield word, sum(counts)

    def reducer(self, word, counts):
        yield word, sum(counts)

if __name__ == "__main__":
    WordCount.run()
"""
DASK = """
import sys
import dask.bag
from dask.distributed import Client, LocalCluster

if __name__ == "__main__":
    cluster = LocalCluster(n_workers=int(sys.argv[2]), threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster):
        words = dask.bag.read_text(sys.argv[1]).map(str.split).flatten()
        for word, count in words.frequencies().compute():
            print(repr(word), count, sep="\\t")
"""

Check = Callable[[str], dict[str, int]]


def json_pairs(out: str) -> dict[str, int]:
    """Parse ``word TAB count``, both in JSON."""
    return {json.loads(k): json.loads(v) for k, v in (line.split("\t") for line in out.splitlines())}


def repr_pairs(out: str) -> dict[str, int]:
    """Parse ``word TAB count``, with the word as a Python literal."""
    return {ast.literal_eval(k): int(v) for k, v in (line.split("\t") for line in out.splitlines())}


def has(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def measure(
    contestants: dict[str, tuple[list[str], dict[str, str], Check]], rounds: int, folder: str, expected: Counter[str]
) -> dict[str, list[float]]:
    """Run each contestant in turn, ``rounds`` times; return their seconds. A wrong answer ends the benchmark."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, (command, environment, check) in contestants.items():
            began = time.perf_counter()
            ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            took = time.perf_counter() - began
            if ran.returncode or check(ran.stdout) != expected:
                sys.exit(f"{name} gave a wrong answer (status {ran.returncode}):\n{ran.stderr[-2000:]}")
            if number:  # the first round fills caches
                seconds[name].append(took)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="runs of each contestant")
    parser.add_argument("--workers", type=int, default=2, help="worker processes, also of the peers")
    parser.add_argument("--lines", type=int, default=200, help="lines of the text, 10 words each")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a Markdown table")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder, fleet(options.workers) as warm:
        text = Path(folder, "text.txt")
        lines = (" ".join(f"w{i * j % 97}" for j in range(1, 11)) for i in range(options.lines))
        text.write_text("\n".join(lines) + "\n")
        Path(folder, "wc.py").write_text(MRJOB.replace("mrjob.job", "mrcelery"))
        Path(folder, "wc_mrjob.py").write_text(MRJOB)
        Path(folder, "wc_dask.py").write_text(DASK)
        expected = Counter(text.read_text().split())
        submit = [sys.executable, "-m", "mrcelery", "submit", "wc.py", "text.txt", "--runner"]
        bare = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_"))}
        contestants: dict[str, tuple[list[str], dict[str, str], Check]] = {
            "mrcelery, inline": ([*submit, "inline"], bare, json_pairs),
            "mrcelery, local": ([*submit, "local", "--workers", str(options.workers)], bare, json_pairs),
            "mrcelery, warm fleet": ([*submit, "celery"], warm.environment, json_pairs),
        }
        missing = []
        dask = ["wc_dask.py", "text.txt", str(options.workers)]
        peers: list[tuple[str, str, list[str], Check]] = [
            ("mrjob, inline", "mrjob", ["wc_mrjob.py", "--no-conf", "text.txt"], json_pairs),
            ("Dask LocalCluster", "dask.bag, distributed", dask, repr_pairs),
        ]
        for name, module, command, check in peers:
            if has(options.peer_python, module):
                contestants[name] = ([options.peer_python, *command], bare, check)
            else:
                missing.append(name)

        seconds = measure(contestants, options.rounds, folder, expected)

    median = {name: statistics.median(times) for name, times in seconds.items()}
    if options.json:
        print(json.dumps({"seconds": seconds, "median": median, "left_out": missing}))
        return
    base = median["mrcelery, inline"]
    print(
        f"Word count of {options.lines} lines, whole process, median of {options.rounds}, "
        f"{os.cpu_count()} CPUs, Python {platform.python_version()}\n"
    )
    print("| | seconds | least | most | of inline's |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {median[name]:.2f} | {min(times):.2f} | {max(times):.2f} | {median[name] / base:.1f} x |")
    if missing:
        print(f"\nLeft out, not installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
