"""The memory ceiling holds: jobs over ten times as much data as a task may hold, on real workers and under a limit."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.measure import Tree, proportional

MEMORY = 16 << 20
WORKERS = 2
DATA = 10 * MEMORY
BASE = 300_000_000
"""Bytes that the processes of a cluster have without any data: Python, Celery, Arrow, Redis."""

pytestmark = pytest.mark.timeout(1800)  # bytes are what is asserted: a machine may take as long for them as it likes

JOBS = '''
from pyarrow import compute as pc
from pyarrow import table

from mrcelery import MRJob, ops


class Unique(MRJob):
    """Every key once, as objects: spills and merges."""
    INPUT = "lines"

    def mapper(self, _, line):
        yield line[:10], line[10:]

    def reducer(self, key, values):
        for value in values:
            yield None, len(key) + len(value)


class Combined(MRJob):
    """Keys that a combiner cannot make fewer."""

    def mapper(self, _, line):
        yield line[:10], 1

    def combiner(self, key, values):
        yield key, sum(values)

    def reducer(self, key, values):
        yield None, 99 * sum(values)


class Declared(MRJob):
    def mapper(self, _, line):
        yield line[:10], 99

    reducer = ops.Max()


class OneKey(MRJob):
    """All values under one key."""

    def mapper(self, _, line):
        yield "all", line

    def reducer(self, key, values):
        for value in values:
            yield None, len(value)


class Nested(MRJob):
    """Values of values, which take several times the room of their bytes."""

    def mapper(self, _, line):
        yield line[:3], [line[3:50], {"rest": line[50:]}]

    def reducer(self, key, values):
        for some, more in values:
            yield None, 3 + len(some) + len(more["rest"])


class Columns(MRJob):
    """A sort that never leaves Arrow."""
    INPUT = "records:100,key=10"
    OUTPUT = "records"
    PARTITIONER = "range"

    reducer = ops.Identity()


class Tables(MRJob):
    """Distinct keys and sums in Arrow."""
    BATCH = "table"

    def mapper_batch(self, lines):
        return table({"key": pc.utf8_slice_codeunits(lines["line"], 0, 10), "value": pc.utf8_length(lines["line"])})

    reducer = ops.Max()
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of 100 bytes of which no two begin alike."""
    folder = tmp_path_factory.mktemp("memory")
    count = DATA // 100
    rows = np.random.default_rng(1).integers(97, 123, (count, 100), dtype=np.uint8)
    rows[:, 99] = 10
    path = folder / "data.txt"
    path.write_bytes(rows.tobytes())
    (folder / "jobs.py").write_text(JOBS)
    return path


def command(job: str, data: Path, output: Path, runner: str) -> list[str]:
    name = f"{data.parent / 'jobs.py'}:{job}"
    return [
        sys.executable, "-m", "mrcelery", "submit", name, str(data), "-o", str(output), "--runner", runner, "-R", "2",
        "--memory", str(MEMORY), "--workers", str(WORKERS), "-q",
    ]  # fmt: skip


def check(job: str, data: Path, output: Path) -> None:
    parts = sorted(output.glob("part-*"))
    if job == "Columns":  # whose keys are what lines begin with, so that sort(1) gives the same file
        with subprocess.Popen(
            ["sort", "-S", "64M", "-T", output.parent, data], stdout=subprocess.PIPE, env={"LC_ALL": "C"}
        ) as ran:
            assert ran.stdout is not None
            for part in parts:
                with part.open("rb") as file:
                    while block := file.read(1 << 20):
                        assert block == ran.stdout.read(len(block))
            assert ran.stdout.read(1) == b""
        assert ran.returncode == 0
        return
    total = 0
    for part in parts:
        with part.open("rb") as lines:
            total += sum(int(line.rpartition(b"\t")[2]) for line in lines)
    assert total == 99 * (DATA // 100)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("job", ["Unique", "Combined", "Declared", "OneKey", "Nested", "Columns", "Tables"])
def test_a_cluster_holds_no_more_than_its_ceilings(job: str, data: Path, tmp_path: Path) -> None:
    peak = 0
    with (tmp_path / "errors").open("w+") as errors:
        process = subprocess.Popen(command(job, data, tmp_path / "out", "local"), stderr=errors)
        tree = Tree([process.pid])
        try:
            while process.poll() is None:
                peak = max(peak, sum(map(proportional, tree.sample())))
                time.sleep(0.05)  # between two looks
        finally:
            process.terminate()  # of a test that is cut short; the cluster is stopped with it
            process.wait()
        errors.seek(0)
        assert process.returncode == 0, errors.read()
    check(job, data, tmp_path / "out")
    assert peak > 0
    assert peak <= WORKERS * MEMORY + BASE


LIMIT = 330_000_000
"""Bytes that a process may allocate: what Python with Arrow maps without any data, and the ceiling of a task."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit works otherwise elsewhere")
@pytest.mark.parametrize("job", ["Unique", "Declared", "Nested", "Columns"])
def test_a_task_does_with_what_the_kernel_gives_it(job: str, data: Path, tmp_path: Path) -> None:
    """The same by the kernel's account, which no sample misses: beyond the limit an allocation fails."""
    ran = subprocess.run(
        command(job, data, tmp_path / "out", "inline"),
        stderr=subprocess.PIPE,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MIMALLOC_PURGE_DELAY": "0"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT)),
    )
    assert ran.returncode == 0, ran.stderr.decode()
    check(job, data, tmp_path / "out")
