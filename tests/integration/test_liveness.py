"""A worker's liveness file is touched while the worker is well or waits for its broker, but not if it hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.services import await_workers, eventually, redis_server, workers

HANG = """
import os, time
from celery.signals import worker_ready
from kombu.asynchronous import get_event_loop

def hang():
    while os.path.exists("hang"):
        time.sleep(0.02)

@worker_ready.connect
def begin(**_):
    get_event_loop().call_repeatedly(0.1, hang)
"""
"""A module that blocks a worker's event loop as long as a file named ``hang`` exists."""


def said(file: Path, max_age: float) -> str:
    """Return the output of the probe, which is empty if all is well."""
    probe = [sys.executable, "-m", "mrcelery.worker.alive", str(file), "--max-age", str(max_age)]
    run = subprocess.run(probe, capture_output=True, text=True, check=False)
    assert (run.returncode == 0) == (run.stdout == ""), run
    return run.stdout


def touched_after(file: Path, moment: float) -> bool:
    return file.exists() and file.stat().st_mtime > moment


def test_a_worker_whose_broker_is_gone_is_alive(tmp_path: Path) -> None:
    file = tmp_path / "liveness"
    file.touch()
    os.utime(file, (0, 0))  # as left by an earlier worker
    with (
        redis_server() as server,
        workers(tmp_path / "w", server.tcp_url, MRCELERY_LIVENESS_FILE=str(file)) as (worker,),
    ):
        eventually(lambda: not said(file, 30), "the worker is ready")
        server.stop()
        eventually(lambda: "Connection to broker lost" in worker.log.read_text(), "it has noticed")
        gone = time.time()
        eventually(lambda: touched_after(file, gone + 2), "it is alive in spite of that")
        server.start()
        await_workers(server.tcp_url, [worker], ["celery-0@here"])
        back = time.time()
        eventually(lambda: touched_after(file, back + 2), "it is alive")


def test_a_worker_that_hangs_is_not_alive(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w/hanging.py").write_text(HANG)
    file, hang = tmp_path / "liveness", tmp_path / "w/hang"
    extra = ["--include", "hanging"]
    with (
        redis_server() as server,
        workers(tmp_path / "w", server.tcp_url, extra=extra, MRCELERY_LIVENESS_FILE=str(file)),
    ):
        eventually(lambda: not said(file, 30), "the worker is ready")
        hang.touch()
        eventually(lambda: "last touched" in said(file, 5), "it hangs")
        hang.unlink()
        eventually(lambda: not said(file, 5), "it goes on")
