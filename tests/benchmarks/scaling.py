"""How time grows with data, workers, and tasks: seconds per MB and per task should stay flat.

::

    python -m tests.benchmarks.scaling
    python -m tests.benchmarks.scaling --sizes 64MB,1GB,4GB --workers 1,2 --tasks 1,100,10000

Runs word count with a declared reducer on the local runner, and checks each output: first over growing inputs, then
over one input that is cut into more and more map tasks. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.contestants import SUM, WORKLOADS, Run, submit
from tests.benchmarks.generate_big import Data, generate, parse_size
from tests.benchmarks.measure import measure
from tests.benchmarks.oracle import check


def run(data: Data, workers: int, tasks: int | None, timeout: float) -> dict[str, Any]:
    """Run one job over the input, with ``tasks`` map tasks or the default number."""
    with tempfile.TemporaryDirectory(prefix="mrcelery-scaling-") as folder:
        output = Path(folder, "output")
        more = ["--split-size", str(-(-data.size // tasks))] if tasks else []
        job = WORKLOADS["wordcount"].variants[SUM]
        command = submit(job, Run(str(data.input), str(output), workers, data.size), *more)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_"))}
        used = measure(command, cwd=folder, env={**kept, "TMPDIR": folder}, timeout=timeout)
        if used.status:
            sys.exit(f"the job failed or took too long (status {used.status}):\n{used.tail}")
        check("counts", output, data)
    took = {"seconds": used.seconds, "cpu": used.cpu, "peak": used.peak}
    return {"size": data.size, "workers": workers, "tasks": tasks, **took}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwind, to end all started processes
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64MB,256MB,1GB,4GB", help="sizes of inputs, separated by commas")
    parser.add_argument("--workers", default="1,2", help="numbers of worker processes")
    parser.add_argument("--tasks", default="1,10,100,1000,10000", help="numbers of map tasks, with --task-size")
    parser.add_argument("--task-size", type=parse_size, default=parse_size("64MB"), help="size of that input (64MB)")
    parser.add_argument("--timeout", type=float, default=1800, help="longest time of one run, in seconds")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir(), "mrcelery-bench"))
    parser.add_argument("--json", type=Path, help="file for the raw numbers")
    options = parser.parse_args()
    found = []
    print("| MB | workers | map tasks | seconds | ms per MB | ms per task | CPU s | peak MB |\n" + "|---" * 8 + "|")
    runs: list[tuple[int, int | None]] = [(parse_size(size), None) for size in options.sizes.split(",")]
    runs += [(options.task_size, int(tasks)) for tasks in options.tasks.split(",") if tasks]
    for size, tasks in runs:
        data = generate("text", size, options.cache)
        for workers in map(int, options.workers.split(",")):
            one = run(data, workers, tasks, options.timeout)
            found.append(one)
            megabytes = one["size"] / 1e6
            each = f"{1000 * one['seconds'] / tasks:.2f}" if tasks else ""
            print(
                f"| {megabytes:,.0f} | {workers} | {tasks or 'default'} | {one['seconds']:.2f} | "
                f"{1000 * one['seconds'] / megabytes:.1f} | {each} | "
                f"{one['cpu']:.1f} | {one['peak'] / 1e6:,.0f} |",
                flush=True,
            )
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
