"""What ran in a process before does not affect what runs in it later, and no attempt's processes outlive it.

The worker has one process, so each sequence of jobs in these tests runs in it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.job_process import IDLE_SECONDS
from tests.support.process_tree import below, is_zombie, parent, resident, runs
from tests.support.services import GATED, Gate, RedisServer, Worker, eventually, workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes of jobs need Linux")

JobFile = Callable[..., str]
Run = Callable[..., list[Any]]

QUEUE = "before"


@pytest.fixture(scope="module")
def worker(broker: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with workers(tmp_path_factory.mktemp("before"), broker.tcp_url, 1, queue=QUEUE, concurrency=1) as started:
        yield started[0]


@pytest.fixture
def settings(worker: Worker, broker: RedisServer, tmp_path: Path) -> dict[str, Any]:
    return {"runner": "celery", "broker": broker.tcp_url, "storage": str(tmp_path / "storage"), "queue": QUEUE}


@pytest.fixture
def run(settings: dict[str, Any], tmp_path: Path) -> Run:
    """Run a job over lines, one map task each, and return its results in order."""

    def call(job: str, *lines: str, **options: Any) -> list[Any]:
        text = tmp_path / "lines.txt"
        text.write_text("".join(f"{line}\n" for line in lines))
        size = max(map(len, lines)) + 1
        with mrcelery.submit(job, str(text), split_size=size, **{**settings, **options}) as handle:
            handle.wait(60)
            return sorted(handle.results())

    return call


SEEN = """
    from mrcelery import MRJob

    SEEN = set()

    class Seen(MRJob):
        def mapper(self, _, line):
            for word in line.split():
                if word not in SEEN:
                    SEEN.add(word)
                    yield word, 1

        def reducer(self, word, counts):
            yield word, sum(counts)
"""


def test_a_set_at_the_top_of_a_file_is_empty_for_each_attempt(run: Run, job_file: JobFile) -> None:
    job = job_file(SEEN)
    for _ in range(3):
        assert run(job, "a b", "b c", "a a") == [("a", 2), ("b", 2), ("c", 1)]


def test_an_attempt_after_a_broken_connection_maps_all_records(run: Run, job_file: JobFile, tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    job = job_file(
        SEEN.replace("SEEN = set()", "import os\n\n    SEEN = set()").replace(
            "            for word in line.split():\n",
            "            for word in line.split():\n"
            f"                if word == 'c' and not os.path.exists({str(tried)!r}):\n"
            f"                    open({str(tried)!r}, 'w').close()\n"
            "                    raise ConnectionError('broken')\n",
        )
    )
    assert run(job, "a b c") == [("a", 1), ("b", 1), ("c", 1)]
    assert tried.exists()


def test_a_class_and_a_module_of_its_own_are_fresh_too(run: Run, job_file: JobFile) -> None:
    job_file("CALLS = []\n", "helper.py")
    job = job_file("""
        import helper
        from mrcelery import MRJob

        class Calls(MRJob):
            calls = 0

            def mapper(self, _, line):
                helper.CALLS.append(line)
                type(self).calls += 1
                yield line, (len(helper.CALLS), self.calls)
    """)
    for _ in range(2):
        assert run(job, "a", "b", "c") == [("a", [1, 1]), ("b", [1, 1]), ("c", [1, 1])]


POLLUTION = {
    "decimal": "import decimal; decimal.getcontext().prec = 4; decimal.DefaultContext.prec = 5",
    "time zone": "import os, time; os.environ['TZ'] = 'Asia/Kolkata'; time.tzset()",
    "umask": "import os; os.umask(0o077)",
    "socket time-out": "import socket; socket.setdefaulttimeout(0.5)",
    "logging": "import logging; logging.disable(logging.CRITICAL)",
    "signal handlers": "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN)",
    "nice": "import os; os.nice(1)",
    "monkeypatch": "import json; json.dumps = lambda *a, **k: 'patched'",
    "recursion limit": "import sys; sys.setrecursionlimit(400)",
    "warnings": "import warnings; warnings.simplefilter('error')",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')",
    "threads": "import threading, time; threading.Thread(target=time.sleep, args=(999,), daemon=True).start()",
    "switch interval": "import sys; sys.setswitchinterval(0.5)",
    "open files": "import os; [os.open('/dev/null', os.O_RDONLY) for _ in range(50)]",
    "builtins": "import builtins; builtins.left_by_a_job = 1",
    "limit of files": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))",
}

PROBE = """
    import builtins, decimal, json, locale, logging, os, resource, signal, socket, sys, threading, time, warnings
    from mrcelery import MRJob

    def probe():
        mask = os.umask(0o022)
        os.umask(mask)
        yield "decimal", (decimal.getcontext().prec, decimal.Context().prec)
        yield "time zone", time.tzname[0]
        yield "umask", mask
        yield "time-out", repr(socket.getdefaulttimeout())
        yield "logging", logging.root.manager.disable
        yield "handler", str(signal.getsignal(signal.SIGUSR2))
        yield "terminate", str(signal.getsignal(signal.SIGTERM))
        yield "nice", os.nice(0)
        yield "json", json.dumps({})
        yield "recursion", sys.getrecursionlimit()
        yield "warnings", sum(f[0] == "error" and f[2] is Warning for f in warnings.filters)
        yield "locale", locale.setlocale(locale.LC_ALL)
        yield "threads", threading.active_count()
        yield "switch", sys.getswitchinterval()
        yield "files", len(os.listdir("/proc/self/fd")) < 50
        yield "builtins", "left_by_a_job" in vars(builtins)
        yield "limit", resource.getrlimit(resource.RLIMIT_NOFILE)

    class Probe(MRJob):
        def mapper(self, _, line):
            yield from probe()
"""

POLLUTER = """
    from mrcelery import MRJob

    def pollute():
{how}

    class Polluter(MRJob):
        def mapper(self, _, line):
            pollute()
            yield line, 1
"""


@pytest.mark.parametrize("what", POLLUTION)
def test_what_one_job_changes_another_does_not_see(run: Run, job_file: JobFile, what: str) -> None:
    probe = job_file(PROBE, "probe.py")
    before = run(probe, "x")
    polluter = POLLUTER.format(how=indent(POLLUTION[what], " " * 8))
    assert run(job_file(polluter, "polluter.py"), "a") == [("a", 1)]
    assert run(probe, "x") == before


def test_nor_does_its_own_next_attempt(run: Run, job_file: JobFile) -> None:
    probing = PROBE.replace("yield from probe()", "yield from probe(); pollute()")
    how = "\n".join(POLLUTION[what] for what in POLLUTION if what not in ("warnings", "recursion limit"))
    polluter = POLLUTER.format(how=indent(how, " " * 8)).partition("    class")[0].partition("MRJob\n")[2]
    found = run(job_file(probing.replace("    class", f"{polluter}\n    class")), "a", "b", "c")
    assert len(found) == 3 * len(set(map(repr, found)))


def test_what_its_file_sets_each_attempt_of_a_job_sees(run: Run, job_file: JobFile) -> None:
    job = job_file("""
        import decimal, random
        from mrcelery import MRJob

        decimal.getcontext().prec = 4
        random.seed(7)

        class Sets(MRJob):
            def mapper(self, _, line):
                yield line, (decimal.getcontext().prec, random.random(), random.random())
                decimal.getcontext().prec = 9
    """)
    import random

    own = random.Random(7)
    drawn = [4, own.random(), own.random()]
    assert run(job, "a", "b", "c") == [("a", drawn), ("b", drawn), ("c", drawn)]


@pytest.mark.parametrize("setup", ["import random", "import random as r; random = r.Random()"])
def test_attempts_draw_random_numbers_of_their_own(run: Run, job_file: JobFile, setup: str) -> None:
    job = job_file(f"""
        {setup}
        from mrcelery import MRJob

        class Draws(MRJob):
            def mapper(self, _, line):
                yield line, random.random()
    """)
    assert len({value for _, value in run(job, "a", "b", "c")}) == 3


LEAK = """
    import json, sys
    from mrcelery import MRJob

    class Leak(MRJob):
        def mapper(self, _, line):
            held = json.__dict__.setdefault("held_by_a_job", [])
            held.append(bytes(100 << 20).replace(b"\\0", b"x"))
            yield "held", len(held)

        def reducer(self, key, values):
            yield key, list(values)
"""


def test_memory_that_an_attempt_leaks_is_given_back(run: Run, job_file: JobFile, worker: Worker) -> None:
    assert run(job_file(LEAK), "a", "b", "c", memory="2GiB") == [("held", [1, 1, 1])]
    most = max(map(resident, below(worker.process.pid)))
    assert most < 200 << 20


def test_a_job_may_keep_its_modules(run: Run, job_file: JobFile) -> None:
    job = job_file("""
        import os
        from mrcelery import MRJob

        MODELS = []

        class Keeps(MRJob):
            KEEP_MODULES = True

            def mapper_init(self):
                if not MODELS:
                    MODELS.append(os.getpid())

            def mapper(self, _, line):
                yield MODELS[0], 1

            def reducer(self, pid, counts):
                yield pid, sum(counts)
    """)
    first, second = run(job, "a", "b", "c"), run(job, "a", "b", "c")
    assert [count for _, count in first + second] == [3, 3]
    assert first[0][0] != second[0][0]


def test_what_modules_print_is_in_the_log_of_each_attempt(
    run: Run, settings: dict[str, Any], job_file: JobFile, tmp_path: Path
) -> None:
    job = job_file(SEEN + "\n    print('imported')\n")
    run(job, "a", "b", output=str(tmp_path / "out"))
    logs = [path.read_text() for path in (tmp_path / "storage").rglob("log.*")]
    assert len(logs) >= 2
    assert set(logs) == {"imported\n"}


def test_jobs_in_turn_keep_their_own_modules(settings: dict[str, Any], job_file: JobFile, tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("a\nb\nc\nd\n")
    job = job_file(SEEN)
    handles = [mrcelery.submit(job, str(text), split_size=2, **settings) for _ in range(4)]
    for handle in handles:
        with handle:
            handle.wait(60)
            assert sorted(handle.results()) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]


def test_user_code_may_use_multiprocessing(run: Run, job_file: JobFile) -> None:
    job = job_file("""
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from mrcelery import MRJob

        def square(number):
            return number * number

        class Squares(MRJob):
            def mapper(self, _, line):
                with multiprocessing.get_context("fork").Pool(2) as pool:
                    yield line, sum(pool.map(square, range(5)))
                with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
                    yield line, sum(pool.map(square, range(5)))
    """)
    assert run(job, "a", "b") == [("a", 30), ("a", 30), ("b", 30), ("b", 30)]


def test_what_user_code_forks_can_be_terminated_at_once(run: Run, job_file: JobFile) -> None:
    """SIGTERM ends a fork at once, as when a ``multiprocessing`` pool ends before all its processes have begun."""
    job = job_file("""
        import os, signal, time
        from mrcelery import MRJob

        class Terminates(MRJob):
            def mapper(self, _, line):
                for number in range(100):
                    pid = os.fork()
                    if not pid:
                        time.sleep(5)
                        os._exit(0)
                    os.kill(pid, signal.SIGTERM)
                    yield os.waitpid(pid, 0)[1], 1

            def reducer(self, status, ones):
                yield status, sum(ones)
    """)
    assert run(job, "a") == [(signal.SIGTERM, 100)]


STARTS = """
    import os, subprocess, time
    from mrcelery import MRJob

    class Starts(MRJob):
        def mapper(self, _, line):
            own = subprocess.Popen(["sleep", "999"])
            other = subprocess.Popen(["sleep", "999"], start_new_session=True)
            orphan = os.fork()
            if not orphan:
                if not os.fork():
                    open(line, "a").write(f"{os.getpid()} ")
                    time.sleep(999)
                os._exit(0)
            os.waitpid(orphan, 0)
            while not (os.path.exists(line) and os.path.getsize(line)):
                time.sleep(0.01)
            open(line, "a").write(f"{own.pid} {other.pid} ")
            END
            yield "started", 3
"""


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)", "os._exit(0)", "time.sleep(999)"])
def test_what_an_attempt_starts_ends_with_it(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path, worker: Worker, end: str
) -> None:
    pids, text = tmp_path / "pids", tmp_path / "lines.txt"
    text.write_text(f"{pids}\n")
    with mrcelery.submit(job_file(STARTS.replace("END", end)), str(text), max_attempts=1, **settings) as handle:
        found = eventually(
            lambda: pids.exists() and len(ids := pids.read_text().split()) >= 3 and list(map(int, ids)),
            "it starts them",
        )
        if "sleep" in end:
            assert all(map(runs, found))
            handle.cancel()
        with suppress(mrcelery.JobFailedError, mrcelery.JobCancelledError):
            handle.wait(60)
        eventually(lambda: not any(map(runs, found)), "they have ended")
    eventually(lambda: not any(map(is_zombie, below(worker.process.pid))), "no zombie stays")


def chain(pid: int, worker: Worker) -> dict[str, int]:
    """Return the pids of an attempt's process, its job's process and the pool's process."""
    job = parent(pid)
    pool = parent(job)
    assert pool in below(worker.process.pid)
    return {"attempt": pid, "job": job, "pool": pool}


@pytest.mark.parametrize("which", ["attempt", "job", "pool"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV], ids=lambda s: s.name)
def test_nothing_is_lost_when_one_of_the_processes_is(
    settings: dict[str, Any], job_file: JobFile, tmp_path: Path, worker: Worker, which: str, how: signal.Signals
) -> None:
    gate = Gate(tmp_path, 2)
    with mrcelery.submit(
        job_file(GATED), str(gate.text), split_size=gate.split_size, max_attempts=2, **settings
    ) as handle:
        (pid,) = eventually(gate.pids, "a task has started")
        found = chain(pid, worker)
        os.kill(found[which], how)
        if how is signal.SIGSTOP:
            gate.open()
            time.sleep(0.5)
            os.kill(found[which], signal.SIGCONT)
        else:
            eventually(lambda: not any(map(runs, found.values())), "all three have ended")
            gate.open()
        handle.wait(60)
        assert sorted(handle.results()) == [("seen", 2)]
        if how is not signal.SIGSTOP:
            outcomes = sorted(attempt.outcome for attempt in handle.overview().stages[0].attempts)
            assert outcomes == ["killed", "succeeded", "succeeded"]
    eventually(lambda: not any(map(is_zombie, below(worker.process.pid))), "no zombie stays")


def test_processes_of_jobs_end_when_they_have_nothing_to_do(run: Run, job_file: JobFile, worker: Worker) -> None:
    run(job_file(SEEN), "a")
    eventually(lambda: len(below(worker.process.pid)) == 1, "only the pool's process is left", 60 + 2 * IDLE_SECONDS)


def test_nothing_outlives_a_worker_that_is_killed(
    broker: RedisServer, job_file: JobFile, tmp_path: Path, settings: dict[str, Any]
) -> None:
    gate, settings = Gate(tmp_path, 2), {**settings, "queue": "killed"}
    with (
        workers(tmp_path / "killed", broker.tcp_url, 1, queue="killed", concurrency=1) as (own,),
        mrcelery.submit(job_file(GATED), str(gate.text), split_size=gate.split_size, **settings) as handle,
    ):
        eventually(gate.pids, "a task has started")
        found = [own.process.pid, *below(own.process.pid)]
        assert len(found) == 4
        os.kill(own.process.pid, signal.SIGKILL)
        eventually(lambda: not any(map(runs, found)), "all of it has ended")
        handle.cancel()
