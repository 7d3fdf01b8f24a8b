"""Sorts that fit under the memory ceiling, run many times on a busy machine: none may fail.

::

    python -m tests.hostile.ceilings --runs 5
    python -m tests.hostile.ceilings --runs 200 --load 8 --seconds 7200

Each run is a separate job on a local fleet of two processes, at the default ``--memory``. The columnar sort of the
benchmarks, which uses Arrow's own memory, alternates with a sort that makes a Python call per record. ``--load``
processes spin next to the sorts, at the same priority. Prints a line for each run with the most anonymous memory that
any process held, sampled every 50 ms. No run begins after ``--seconds``. Exits with 1 if a run failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.contestants import JOBS
from tests.benchmarks.generate_big import Data, generate, parse_size
from tests.benchmarks.measure import Tree
from tests.benchmarks.oracle import check
from tests.support.services import environment

KINDS = {"columns": str(JOBS / "sort_records.py"), "records": "mrcelery.examples.sort:Sort"}
LOOK_SECONDS = 0.05


@contextmanager
def load(count: int) -> Iterator[None]:
    """Keep ``count`` processes busy while the block runs."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def anonymous(pid: int) -> int:
    """Return the anonymous bytes of a process; 0 if it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in status if line.startswith(("RssAnon:", "VmSwap:")))


def run(job: str, data: Data, options: list[str]) -> tuple[int, int, str]:
    """Run a sort; return its exit code, the most bytes that one of its processes held, and its output."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "said", "w+") as said:
        output = Path(folder) / "output"
        options = ["--runner", "local", "--workers", "2", "-R", "4", "-q", *options]
        command = [sys.executable, "-m", "mrcelery", "submit", job, str(data.input), "-o", str(output), *options]
        process = subprocess.Popen(command, stderr=said, stdout=said, env=environment())
        tree, most = Tree([process.pid]), 0
        try:
            while process.poll() is None:
                most = max([most, *map(anonymous, tree.sample())])
                time.sleep(LOOK_SECONDS)
        finally:
            process.terminate()
            process.wait()
        said.seek(0)
        if process.returncode == 0:
            check("sorted", output, data)
        return process.returncode, most, said.read().strip()


def main() -> int:
    """Run the sorts, and print how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], epilog=__doc__.partition("::")[2],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="number of sorts [%(default)s]")
    parser.add_argument("--seconds", type=float, default=600.0, metavar="S", help="no new run after S [%(default)s]")
    parser.add_argument("--load", type=int, default=0, metavar="N", help="processes that spin too [%(default)s]")
    parser.add_argument("--size", type=parse_size, default=10**9, help="size of the input [1GB]")
    parser.add_argument("--kind", choices=KINDS, help="run only sorts of this kind")
    parser.add_argument("--memory", metavar="SIZE", help="memory ceiling [the default of submit]")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mrcelery-bench", help="the cache")
    args = parser.parse_args()
    data = generate("records", args.size, args.folder)
    options = ["--memory", args.memory] if args.memory else []
    kinds, failed, began = [args.kind] if args.kind else list(KINDS), 0, time.monotonic()
    with load(args.load):
        for number in range(args.runs):
            if time.monotonic() - began > args.seconds:
                print(f"{args.runs - number} runs were not begun: {args.seconds:.0f} s are over")
                break
            kind, start = kinds[number % len(kinds)], time.monotonic()
            code, most, said = run(KINDS[kind], data, options)
            failed += code != 0
            problem = f"\n    {said}" if code else ""
            seconds = time.monotonic() - start
            print(f"{number:4} {kind}: exit {code}, {seconds:.1f} s, {most >> 20} MiB at most{problem}", flush=True)
    print(f"{failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
