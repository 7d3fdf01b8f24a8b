"""The contestants of each workload, and the commands that start them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
JOBS = HERE / "jobs"
PEERS = HERE / "peers"

PLAIN, SUM, BATCH = "mrcelery", "mrcelery, ops.Sum()", "mrcelery, mapper_batch + ops.Sum()"
MAPPED, CEILING = "mrcelery, a custom mapper", "mrcelery, low --memory"
FLEET = "mrcelery, 2 Celery workers and S3"
BY_HAND, GNU = "multiprocessing, by hand", "GNU tools"
DASK_BAG, DISTRIBUTED = "Dask bag, processes", "Dask distributed"
RDD, DATAFRAME, MRJOB = "PySpark RDD", "PySpark DataFrame", "mrjob local"
DUCKDB, POLARS, PYARROW = "DuckDB", "Polars", "pyarrow"


class Run(NamedTuple):
    """A contestant's run: one input file, and the path of its output, which does not exist yet."""

    input: str
    output: str
    workers: int
    size: int


Command = Callable[[Run], list[str]]


class Contestant(NamedTuple):
    """A contestant. ``peer`` is its name for ``--peers``, ``""`` for mrcelery; ``needs`` is a module or a program."""

    name: str
    peer: str
    needs: str
    command: Command
    environment: Mapping[str, str] = {}


class Workload(NamedTuple):
    """A workload: ``kind`` of input, ``form`` of output for the check, and mrcelery's ``job`` with its options."""

    kind: str
    form: str
    job: list[str]
    variants: Mapping[str, list[str]]


PATTERN = "needle[0-9]+"
WORKLOADS = {
    "wordcount": Workload(
        "text",
        "counts",
        ["mrcelery.examples.word_count:WordCount"],
        {SUM: [str(JOBS / "word_count_sum.py")], BATCH: [str(JOBS / "word_count_batch.py")]},
    ),
    "sort": Workload(
        "records",
        "sorted",
        [str(JOBS / "sort_records.py"), "-R", "4"],
        {MAPPED: ["mrcelery.examples.sort:Sort", "-R", "4"]},
    ),
    "grep": Workload("log", "lines", ["mrcelery.examples.grep:Grep"], {}),
    "urls": Workload("log", "counts", [str(JOBS / "url_count.py")], {}),
    "index": Workload("documents", "postings", ["mrcelery.examples.inverted_index:InvertedIndex"], {}),
}


def submit(job: list[str], run: Run, *more: str, runner: str = "local") -> list[str]:
    """Return a command line of ``mrcelery submit``."""
    line = [sys.executable, "-m", "mrcelery", "submit", job[0], run.input, "-o", run.output, "-q", "--runner", runner]
    if runner == "local":
        line += ["--workers", str(run.workers)]
    line += [*job[1:], *more]
    # Arguments after -- belong to the job, so they come last.
    return [*line, "--", "--pattern", PATTERN] if "grep" in job[0] else line


def mrcelery(name: str, more: list[str]) -> list[Contestant]:
    """Return mrcelery's contestants in a workload, on the local runner."""
    workload = WORKLOADS[name]

    def local(job: list[str], size: Callable[[Run], list[str]] = lambda run: []) -> Command:
        return lambda run: submit(job, run, *more, *size(run))

    found = [Contestant(PLAIN, "", "", local(workload.job))]
    found += [Contestant(variant, "", "", local(job)) for variant, job in workload.variants.items()]
    if name == "sort":
        found.append(Contestant(CEILING, "", "", local(workload.job, lambda run: ["--memory", str(ceiling(run))])))
    return found


def ceiling(run: Run) -> int:
    """Return the ``--memory`` in bytes at which the data is ten times the memory of all workers, or the minimum."""
    return max(16 << 20, run.size // 10 // run.workers)


def peers(name: str, python: str) -> list[Contestant]:
    """Return the peers in a workload; ``python`` is the interpreter that has them."""

    def script(file: str, *first: str) -> Command:
        return lambda run: [python, str(PEERS / file), *first, name, run.input, run.output, str(run.workers)]

    shell: Command = lambda run: [  # noqa: E731
        "/bin/sh",
        str(PEERS / "shell.sh"),
        name,
        run.input,
        run.output,
        str(run.workers),
    ]
    all_of_them = [
        (Contestant(BY_HAND, "plain", "", script("plain.py")), "wordcount grep urls index"),
        (Contestant(GNU, "gnu", "sort", shell), "wordcount sort grep urls"),
        (Contestant(DUCKDB, "duckdb", "duckdb", script("columns.py", "duckdb")), "wordcount sort grep urls index"),
        (Contestant(POLARS, "polars", "polars", script("columns.py", "polars")), "wordcount sort grep urls index"),
        (Contestant(PYARROW, "pyarrow", "pyarrow", script("columns.py", "pyarrow")), "wordcount sort grep urls"),
        (Contestant(DASK_BAG, "dask", "dask.bag", script("dask_bag.py", "processes")), "wordcount grep urls index"),
        (
            Contestant(DISTRIBUTED, "distributed", "distributed", script("dask_bag.py", "distributed")),
            "wordcount grep urls index",
        ),
        (Contestant(RDD, "spark-rdd", "pyspark", script("spark.py", "rdd")), "wordcount sort grep urls index"),
        (
            Contestant(DATAFRAME, "spark-df", "pyspark", script("spark.py", "dataframe")),
            "wordcount sort grep urls index",
        ),
        (Contestant(MRJOB, "mrjob", "mrjob", script("mrjob_jobs.py"), {"BENCH_WORKLOAD": name}), "wordcount grep urls"),
    ]
    return [contestant for contestant, workloads in all_of_them if name in workloads.split()]


def installed(contestant: Contestant, python: str) -> bool:
    """Check whether the module or program that a contestant needs is installed."""
    if not contestant.needs:
        return True
    if contestant.peer == "gnu":
        return shutil.which(contestant.needs) is not None
    if contestant.needs == "pyspark" and shutil.which("java") is None:
        return False
    return subprocess.run([python, "-c", f"import {contestant.needs}"], capture_output=True).returncode == 0


def has_moto() -> bool:
    """Check whether an S3 endpoint can be started here."""
    return importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask") is not None
