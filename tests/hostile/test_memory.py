"""The memory ceiling on real workers: what merely maps memory passes, what holds it is stopped, and says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

import mrcelery
from tests.support.services import PATIENCE, Worker, environment, redis_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="there is a ceiling on Linux only"),
]

JOB = """
    import mmap, time
    from mrcelery import MRJob

    def pieces(mebibytes):
        for _ in range(mebibytes):
            yield bytearray(1 << 20)

    class Job(MRJob):
        def mapper(self, _, line):
            {}
            yield line, 1
"""
MAPS = "kept = [mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2)]"
FREES = "any(len(list(pieces(300))) != 300 for _ in range(4))"
HOLDS = "kept = list(pieces(4096))"
JUMPS = "kept = bytearray(20 << 30)"
SWALLOWS = """
kept = []
for _ in range(1024):
    try:
        kept.extend(pieces(4))
    except MemoryError:
        pass
"""
IN_CODE = "holds more memory than a task may: raise --memory from 16 MiB"
IN_C = "MemoryError: the task needs more memory than its ceiling allows: raise --memory from 16 MiB"


def submit(tmp_path: Path, code: str, *before: str) -> subprocess.CompletedProcess[str]:
    """Run a job on a local cluster of one process, under a small ceiling."""
    job, text = tmp_path / "job.py", tmp_path / "text"
    job.write_text(dedent(JOB).format(indent(code, 8 * " ").strip()))
    text.write_text("a\n")
    options = ["--runner", "local", "--workers", "1", "--memory", "16MiB", "-R", "1"]
    submitted = [*before, sys.executable, "-m", "mrcelery", "submit", str(job), str(text), *options]
    return subprocess.run(submitted, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [MAPS, FREES], ids=["maps", "frees"])
def test_what_a_task_does_not_hold_does_not_count(code: str, tmp_path: Path) -> None:
    ran = submit(tmp_path, code)
    assert (ran.returncode, ran.stdout) == (0, '"a"\t1\n'), ran.stderr


@pytest.mark.parametrize(
    ("code", "message"), [(HOLDS, IN_CODE), (JUMPS, IN_CODE), (SWALLOWS, IN_C)], ids=["holds", "jumps", "swallows"]
)
def test_what_holds_too_much_fails_and_says_so(code: str, message: str, tmp_path: Path) -> None:
    ran = submit(tmp_path, code)
    assert ran.returncode == 1
    assert message in ran.stderr
    assert "killed" not in ran.stderr


def test_a_record_whose_process_had_to_be_ended_is_skipped(tmp_path: Path) -> None:
    job, text = tmp_path / "job.py", tmp_path / "text"
    code = f"if line == 'large':\n{indent(SWALLOWS.strip(), 4 * ' ')}"
    job.write_text(dedent(JOB).format(indent(code, 8 * " ").strip()))
    text.write_text("small\nlarge\n")
    options: dict[str, Any] = {"runner": "local", "workers": 1, "reducers": 1, "memory": 16 << 20, "max_bad_records": 1}
    with mrcelery.submit(str(job), str(text), **options) as handle:
        handle.wait()
        assert list(handle.results()) == [("small", 1)]


def test_where_proc_cannot_be_read_tasks_run_without_a_ceiling_and_the_worker_warns_once(tmp_path: Path) -> None:
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*hidden, "true"], check=False, capture_output=True).returncode:
        pytest.skip("/proc may not be hidden here")
    ran = submit(tmp_path, "pass", *hidden)
    assert (ran.returncode, ran.stdout) == (0, '"a"\t1\n'), ran.stderr
    text, storage = tmp_path / "many", str(tmp_path / "storage")
    text.write_text("a\nb\nc\nd\n")
    start = [*hidden, sys.executable, "-m", "mrcelery", "worker", "--concurrency", "2"]
    with redis_server() as server:
        settings = environment(MRCELERY_BROKER=server.tcp_url, MRCELERY_STORAGE=storage, TMPDIR=str(tmp_path))
        worker = Worker(start, tmp_path / "log", env=settings)
        try:
            options: dict[str, Any] = {
                "runner": "celery",
                "broker": server.tcp_url,
                "storage": storage,
                "split_size": 2,
            }
            with mrcelery.submit(str(tmp_path / "job.py"), str(text), **options) as handle:
                handle.wait(PATIENCE)
        finally:
            worker.stop()
    assert worker.log.read_text().count("without a memory ceiling") == 1
