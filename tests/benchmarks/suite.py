"""Every workload next to its alternatives, in one run: ratios, CPU, memory.

::

    python -m tests.benchmarks.suite --peer-python peers/bin/python
    python -m tests.benchmarks.suite --workloads wordcount,sort:1GB --peers plain,gnu,duckdb --runs 5

Each contestant is a whole process, from start to end, that writes its results to files. Contestants take turns. Each
result is checked against the generator's right answer: a wrong result ends the suite. Peers come from the interpreter
given with ``--peer-python``; the report lists those that are not installed. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import contestants as field
from tests.benchmarks.contestants import PATTERN, WORKLOADS, Contestant, Run
from tests.benchmarks.generate_big import Data, generate, parse_size
from tests.benchmarks.measure import TIMED_OUT, Usage, measure
from tests.benchmarks.oracle import WrongResultError, check
from tests.benchmarks.report import Result, markdown, picture
from tests.benchmarks.s3_fleet import S3Fleet, s3_fleet


class Suite:
    """One run over some workloads; ``scratch`` holds each output until it is checked."""

    def __init__(self, options: argparse.Namespace, scratch: Path, fleet: S3Fleet | None) -> None:
        self.options = options
        self.scratch = scratch
        self.fleet = fleet
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_"))}
        self.environment = {
            **kept,
            "BENCH_PATTERN": PATTERN,
            "TMPDIR": str(scratch),
            "SPARK_LOCAL_DIRS": str(scratch),
            "POLARS_MAX_THREADS": str(options.workers),
        }

    def contest(self, name: str, size: int) -> Result:
        """Run all contestants of a workload, in turns."""
        data = generate(WORKLOADS[name].kind, size, self.options.cache)
        runs: dict[str, list[dict[str, float] | None]] = {}
        present, left_out = self.present(name)
        _warm(data.input)
        for number in range(self.options.runs):
            for one in present:
                earlier = runs.setdefault(one.name, [])
                # One run is enough for a very slow contestant; None keeps its place in the rounds.
                if number and (not earlier[0] or earlier[0]["seconds"] > self.options.patience):
                    earlier.append(None)
                    continue
                earlier.append(self.turn(name, one, data, number, left_out))
        runs = {who: them for who, them in runs.items() if any(them)}
        ceiling = self.options.workers * field.ceiling(Run("", "", self.options.workers, data.size))
        return {"size": data.size, "runs": runs, "left_out": left_out, "ceiling": ceiling}

    def present(self, name: str) -> tuple[list[Contestant], list[str]]:
        """Return the contestants that take part, and the reasons why others do not."""
        more = ["--split-size", self.options.split_size] if self.options.split_size else []
        present = field.mrcelery(name, more)
        if self.fleet:
            present.append(self.fleet.contestant(name, more))
        left_out = []
        if not self.fleet:
            why = "as asked" if self.options.no_s3 else "no S3 endpoint is installed (pip install 'moto[server]')"
            left_out.append(f"{field.FLEET}: {why}")
        wanted = self.options.peers.split(",")
        for peer in field.peers(name, self.options.peer_python):
            if "all" not in wanted and peer.peer not in wanted:
                continue
            if field.installed(peer, self.options.peer_python):
                present.append(peer)
            else:
                left_out.append(f"{peer.name}: {peer.needs} is not installed")
        return present, left_out

    def turn(self, name: str, one: Contestant, data: Data, number: int, left_out: list[str]) -> dict[str, float] | None:
        """Run a contestant once, and check its output; return None if a peer failed."""
        output = self.scratch / f"{name}-{number}"
        run = Run(str(data.input), str(output), self.options.workers, data.size)
        endpoint = 0.0
        if one.name == field.FLEET and self.fleet:
            used, endpoint = self.fleet.run(one, run, self.scratch, self.options.timeout)
        else:
            environment = {**self.environment, **one.environment}
            used = measure(one.command(run), cwd=self.scratch, env=environment, timeout=self.options.timeout)
        print(f"{name:10} {one.name:36} {used.seconds:7.2f} s", file=sys.stderr, flush=True)
        if used.status:
            why = f"longer than {self.options.timeout:.0f} s" if used.status == TIMED_OUT else _reason(used)
            if not one.peer:
                sys.exit(f"{one.name} failed in {name} ({why}):\n{used.tail}")
            left_out.append(f"{one.name}: {why}")
        else:
            try:
                check(WORKLOADS[name].form, output, data)
            except (WrongResultError, OSError, ValueError) as e:
                sys.exit(f"{one.name} gave a wrong result in {name}: {e!r}")
        _remove(self.scratch)
        if used.status:
            return None
        found = {"seconds": used.seconds, "cpu": used.cpu, "peak": float(used.peak)}
        return {**found, "endpoint_cpu": endpoint} if one.name == field.FLEET else found


def _reason(used: Usage) -> str:
    last = used.tail.strip().splitlines()[-1:] or ["no message"]
    return f"status {used.status}, {last[0][:200]}"


def _warm(path: Path) -> None:
    """Read the file, so that the first contestant finds it in the page cache as the others do."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _about(options: argparse.Namespace) -> str:
    described = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
    model = next((text.strip() for name, _, text in described if name.startswith("model name")), platform.machine())
    load = os.getloadavg()[0]
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs ({model}), Python {platform.python_version()}, "
        f"{options.workers} workers, median of up to {options.runs} runs, whole processes; load before: {load:.1f}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=parse_size("256MB"), help="size of each input (256MB)")
    parser.add_argument(
        "--workloads",
        default=",".join(WORKLOADS),
        help=f"some of {','.join(WORKLOADS)}, each with an optional size, as in sort:1GB",
    )
    parser.add_argument(
        "--peers",
        default="all",
        help="all, none, or some of plain,gnu,duckdb,polars,pyarrow,dask,distributed,spark-rdd,spark-df,mrjob",
    )
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--runs", type=int, default=3, help="number of rounds (3)")
    parser.add_argument("--workers", type=int, default=2, help="processes or threads of each contestant (2)")
    parser.add_argument("--split-size", help="split size for mrcelery (the default of submit)")
    parser.add_argument("--no-s3", action="store_true", help="leave out the fleet with an S3 endpoint")
    parser.add_argument(
        "--endpoint-pid",
        type=int,
        default=0,
        help="process id of the endpoint in AWS_ENDPOINT_URL_S3, if it runs here: its CPU is counted separately",
    )
    parser.add_argument("--patience", type=float, default=60, help="contestants that take more seconds run once (60)")
    parser.add_argument("--timeout", type=float, default=900, help="longest time of one run, in seconds (900)")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir(), "mrcelery-bench"), help="folder for the inputs"
    )
    parser.add_argument("--json", type=Path, help="file for the raw numbers")
    parser.add_argument("--markdown", type=Path, help="file for the tables (stdout)")
    parser.add_argument("--svg", type=Path, help="file for the picture of the ratios")
    options = parser.parse_args()
    options.contests = []
    for text in options.workloads.split(","):
        name, _, size = text.partition(":")
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}: use some of {', '.join(WORKLOADS)}")
        options.contests.append((name, parse_size(size) if size else options.size))
    return options


def main() -> None:
    # Unwind, so that the fleet is stopped and the scratch folder removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _arguments()
    # Keep the interpreter's path: resolving its link would leave its virtual environment.
    if found := shutil.which(options.peer_python):
        options.peer_python = os.path.abspath(found)
    about, results = _about(options), dict[str, Result]()
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="mrcelery-suite-"))
        fleet = (
            None
            if options.no_s3 or not field.has_moto()
            else stack.enter_context(s3_fleet(options.workers, options.endpoint_pid))
        )
        suite = Suite(options, Path(scratch), fleet)
        for name, size in options.contests:
            results[name] = suite.contest(name, size)
            # Write after each workload, so that a stopped suite leaves its results.
            if options.json:
                options.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")
            if options.markdown:
                options.markdown.write_text(markdown(results, about))
            if options.svg:
                options.svg.write_text(picture(results))
    if not options.markdown:
        print(markdown(results, about))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as e:
        sys.exit(f"{e}\n{(e.stderr or b'').decode(errors='replace')[-2000:]}")
