"""Leases: tasks longer than the visibility timeout run once; those of a lost worker soon run elsewhere."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import mrcelery
from mrcelery import JobFailedError, JobHandle
from mrcelery.jobstore.presence import workers_seen
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import (
    GATED,
    PATIENCE,
    YIELDING_GATED,
    Gate,
    RedisServer,
    Worker,
    environment,
    eventually,
    redis_server,
    workers,
)

JobFile = Callable[..., str]

SHORT = "2"
"""Visibility timeout in seconds of the tests whose tasks take longer than that."""

TIMED = """
    import os, time
    from mrcelery import MRJob

    class Timed(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--seen")
            self.add_passthru_arg("--seconds", type=float)

        def mapper(self, _, line):
            open(os.path.join(self.options.seen, f"{line}-{time.time_ns()}"), "w").close()
            time.sleep(self.options.seconds)
            yield line, 1
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


def submit(server: RedisServer, job: str, text: Path, folder: Path, **options: Any) -> JobHandle:
    storage = str(folder / "storage")
    return mrcelery.submit(
        job, str(text), runner="celery", broker=server.tcp_url, storage=storage, queue="q", **options
    )


def unacked(server: RedisServer, handle: JobHandle) -> int:
    (held,) = handle.runner.store.call(("HLEN", "unacked"))  # type: ignore[union-attr]
    return int(held)


@pytest.mark.parametrize(("pool", "tasks"), [("prefork", 16), ("threads", 8), ("solo", 6)])
def test_long_tasks_run_once(pool: str, tasks: int, server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """Tasks of one and a half times the visibility timeout, most of which wait as long before they start, run once."""
    seen = tmp_path / "seen"
    seen.mkdir()
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{number:02d}\n" for number in range(tasks)))
    extra = ["--pool", pool, "--prefetch-multiplier", "4"]
    with (
        workers(tmp_path, server.tcp_url, 2, queue="q", extra=extra, MRCELERY_VISIBILITY_TIMEOUT=SHORT),
        submit(
            server,
            job_file(TIMED),
            text,
            tmp_path,
            split_size=3,
            args=["--seen", str(seen), "--seconds", "3"],
            speculative=False,
        ) as handle,
    ):
        handle.wait(PATIENCE)
        starts = sorted(path.name.partition("-")[0] for path in seen.iterdir())
        assert starts == [f"{number:02d}" for number in range(tasks)]
        eventually(lambda: unacked(server, handle) == 0, "all is acknowledged")


@pytest.mark.parametrize("visibility", ["15", "4"])
def test_a_killed_workers_tasks_run_elsewhere(
    visibility: str, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """They run elsewhere within minutes, not after Celery's hour; ``tests.benchmarks.leases`` measures how soon."""
    gate = Gate(tmp_path, 2)
    quick = {"MRCELERY_VISIBILITY_TIMEOUT": visibility}
    with (
        workers(tmp_path / "a", server.tcp_url, queue="q", env=quick) as (first,),
        submit(server, job_file(GATED), gate.text, tmp_path, split_size=gate.split_size, reducers=1) as handle,
    ):
        eventually(lambda: gate.starts() == 2, "both maps run")
        with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", env=quick):
            os.killpg(first.process.pid, signal.SIGKILL)  # with its children, as if the machine were lost
            eventually(lambda: gate.starts() == 4, "both run elsewhere")
            gate.open()
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]


HANGING = """
    import os, time
    from mrcelery import MRJob

    class Hanging(MRJob):
        def mapper(self, _, line):
            before = len(os.listdir(line))
            open(os.path.join(line, f"{os.getpid()}-{time.time_ns()}"), "w").close()
            if before == 0:
                time.sleep(3600)
            yield "attempts", before + 1
"""

TALKING = """
    import os, time
    from mrcelery import MRJob

    class Talking(MRJob):
        def mapper(self, _, line):
            open(os.path.join(line, f"{os.getpid()}-{time.time_ns()}"), "w").close()
            for _ in range(40):
                self.set_status("alive")
                time.sleep(0.25)
            yield "attempts", len(os.listdir(line))
"""


@pytest.mark.parametrize(("source", "timeout", "attempts"), [(HANGING, "5", 2), (TALKING, "8", 1)])
def test_a_hung_task_is_killed(
    source: str, timeout: str, attempts: int, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """A second attempt does the work of a hung one; code that reports a status is not killed."""
    gate = Gate(tmp_path, 1)
    limits = {"MRCELERY_VISIBILITY_TIMEOUT": SHORT, "MRCELERY_TASK_TIMEOUT": timeout}
    with (
        workers(tmp_path, server.tcp_url, queue="q", env=limits) as (worker,),
        submit(server, job_file(source), gate.text, tmp_path) as handle,
    ):
        handle.wait(PATIENCE)
        assert list(handle) == [("attempts", attempts)]
        assert gate.starts() == attempts
        # TALKING's log is not checked: on a machine that stalls, an attempt may be killed before its mapper begins.
        assert attempts == 1 or "made no progress" in worker.log.read_text()
        assert worker.process.poll() is None


STUCK = """
    import time
    from mrcelery import MRJob

    class Stuck(MRJob):
        def mapper(self, _, line):
            time.sleep(3600)
            yield line, 1
"""


def test_a_task_that_hangs_each_time_ends_its_job_with_the_reason(
    server: RedisServer, job_file: JobFile, text: Path, tmp_path: Path
) -> None:
    limits = {"MRCELERY_VISIBILITY_TIMEOUT": SHORT, "MRCELERY_TASK_TIMEOUT": "1"}
    with (
        workers(tmp_path, server.tcp_url, queue="q", env=limits),
        submit(server, job_file(STUCK), text, tmp_path, max_attempts=2) as handle,
        pytest.raises(JobFailedError, match=r"it made no progress for \d+ s \(MRCELERY_TASK_TIMEOUT\).*set_status"),
    ):
        handle.wait(PATIENCE)


def test_an_attempt_that_still_runs_has_not_failed(server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    """If a worker's main process is stopped, its leases lapse, but the attempt in its child has not failed."""
    gate = Gate(tmp_path, 1)
    quick = {"MRCELERY_VISIBILITY_TIMEOUT": SHORT}
    with (
        workers(tmp_path / "a", server.tcp_url, queue="q", env=quick) as (first,),
        submit(server, job_file(YIELDING_GATED), gate.text, tmp_path, max_attempts=1, speculative=False) as handle,
    ):
        eventually(lambda: gate.starts() == 1, "the map runs")
        with workers(tmp_path / "b", server.tcp_url, range(1, 2), queue="q", env=quick):
            os.kill(first.process.pid, signal.SIGSTOP)
            eventually(lambda: gate.starts() == 2, "it runs elsewhere, too")
            gate.open()
            handle.wait(PATIENCE)
            # The second attempt may have found the gate open already.
            assert {"waits": 0, **dict(handle)} == {"seen": 1, "waits": 0}


FAST_CLOCK = """
import sys, time
from pathlib import Path
real, ahead = time.time, Path(sys.argv[1])
time.time = lambda: real() + float(ahead.read_text())
from mrcelery.cli.main import main
sys.argv[0:2] = ["mrcelery"]
main()
"""


def set_clock(ahead: float, folder: Path) -> None:
    (folder / "new").write_text(str(ahead))
    (folder / "new").replace(folder / "ahead")


def worker_with_clock(ahead: float, server: RedisServer, folder: Path, *options: str, **variables: str) -> Worker:
    """Start a worker whose clock is this many seconds ahead of everybody else's."""
    set_clock(ahead, folder)
    command = [sys.executable, "-c", FAST_CLOCK, str(folder / "ahead"), "worker", "--broker", server.tcp_url, "-c", "1"]
    env = environment(TMPDIR=str(folder), **variables)
    return Worker([*command, *options], folder / "worker.log", env=env, cwd=folder)


def test_a_clock_that_is_far_off_is_refused(server: RedisServer, tmp_path: Path) -> None:
    worker = worker_with_clock(60.0, server, tmp_path)
    try:
        eventually(lambda: worker.process.poll() is not None, "the worker ends")
        said = worker.log.read_text()
        assert re.search(r"clock is (59|60)\.\d s ahead of Redis's", said), said
        assert worker.process.returncode == 2
    finally:
        worker.stop()


def test_a_clock_that_is_a_little_off_is_told(server: RedisServer, tmp_path: Path) -> None:
    worker = worker_with_clock(-4.0, server, tmp_path)
    try:
        eventually(lambda: "4.0 s behind Redis's" in worker.log.read_text(), "it is told")
        assert worker.process.poll() is None
    finally:
        worker.stop()


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_clock_that_is_set_while_a_worker_runs(
    ahead: float, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """A worker whose clock jumps takes over no leases, keeps its own, and takes no tasks until its clock is right."""
    gate = Gate(tmp_path, 2)
    quick = {"MRCELERY_VISIBILITY_TIMEOUT": "4"}
    odd = worker_with_clock(0.0, server, tmp_path, "-Q", "q", "-n", "odd@here", **quick)
    try:
        with (
            workers(tmp_path / "even", server.tcp_url, queue="q", env=quick),
            submit(
                server, job_file(GATED), gate.text, tmp_path,
                split_size=gate.split_size, reducers=1, max_attempts=1, speculative=False,
            ) as handle,
        ):  # fmt: skip
            eventually(lambda: gate.starts() == 2, "both maps run")
            store = cast(RedisJobStore, handle.runner.store)  # type: ignore[union-attr]

            def sick() -> str:
                return "".join(one.sick for one in workers_seen(store) if one.name == "odd@here")

            _, first = eventually(lambda: store.workers().get("odd@here"), "the worker is there")
            eventually(lambda: store.workers()["odd@here"][1] != first, "it has started with a clock that is right")
            set_clock(ahead, tmp_path)
            assert "synchronize the clocks" in eventually(sick, "it says that its clock is wrong")
            # Leases would have lapsed by now.
            time.sleep(6)
            assert gate.starts() == 2
            gate.open()
            handle.wait(PATIENCE)
            assert list(handle) == [("seen", 2)]
            set_clock(0.0, tmp_path)
            eventually(lambda: not sick(), "it takes tasks again")
        assert "takes tasks again" in odd.log.read_text()
    finally:
        odd.stop()
