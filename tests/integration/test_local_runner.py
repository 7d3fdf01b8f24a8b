"""The local runner leaves nothing behind, however it ends, and reports it if its cluster dies."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mrcelery
from tests.support import guardian
from tests.support.services import command, environment, eventually, processes_at, redis_server, results

JobFile = Callable[..., str]

SLOW = """
    import os, time
    from mrcelery import MRJob

    class Slow(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--marks")

        def mapper(self, _, line):
            open(os.path.join(self.options.marks, f"pid-{os.getpid()}"), "w").close()
            while not os.path.exists(os.path.join(self.options.marks, "open")):
                time.sleep(0.01)
            yield line, 1
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for temporary files; processes of a cluster started in it are found, and killed, by its path."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("processes are found in /proc")
    with redis_server():
        pass  # skips if no Redis server is installed
    place = Path(tempfile.mkdtemp(prefix="mrl-"))
    (place / "tmp").mkdir()
    yield place / "tmp"
    for pid in processes_at(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(place, ignore_errors=True)


def env(place: Path) -> dict[str, str]:
    return environment(TMPDIR=str(place), MRCELERY_RUNNER="local")


FAILING = "from mrcelery import MRJob\nclass F(MRJob):\n    def mapper(self, _, line):\n        1 / 0\n"


def check_processes_end(place: Path) -> None:
    """Check that no process is left; on a busy machine, a killed one takes a moment to end."""
    eventually(lambda: not processes_at(place), "all processes are gone")


class Client:
    """A waiting ``mrcelery submit`` on the local runner, whose mappers wait for a file named ``open``."""

    def __init__(self, place: Path, job: str, marks: Path, *options: str) -> None:
        self.marks = marks
        self.place = place
        marks.mkdir()
        text = marks / "in.txt"
        text.write_text("x\ny\n")
        args = ["submit", job, str(text), "--workers", "2", "--split-size", "2", "-o", str(marks / "out"), *options]
        self.process = guardian.start(
            [sys.executable, "-m", "mrcelery", *args, "--", "--marks", str(marks)],
            env=env(place),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def running(self) -> list[int]:
        """Return the process ids of both tasks, once they run."""

        def pids() -> list[int]:
            assert self.process.poll() is None, self.process.communicate()
            found = [int(path.name[4:]) for path in self.marks.glob("pid-*")]
            return found if len(found) == 2 else []

        return eventually(pids, "both tasks run")

    def worker(self) -> int:
        """Return the pid of the worker's main process, which leads its process group."""
        (pid,) = {os.getpgid(pid) for pid in self.running()}
        return pid

    def end(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def check_nothing_left(self) -> None:
        check_processes_end(self.place)
        eventually(lambda: not list(self.place.iterdir()), "the temporary folder is empty")
        out = self.marks / "out"
        assert not out.exists() or list(out.iterdir()) == []


@pytest.fixture
def client(place: Path, job_file: JobFile, tmp_path: Path) -> Iterator[Client]:
    client = Client(place, job_file(SLOW, "slow.py"), tmp_path / "marks")
    yield client
    guardian.stop(client.process)
    client.process.communicate()


def test_a_job_that_succeeds_leaves_nothing(place: Path, word_count: str, text: Path) -> None:
    done = command("submit", word_count, text, "-R", "2", "--workers", "2", env=env(place))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[1:] == ["text", "\tlines=2", "\twords=3"]  # nothing but its counters
    pairs = {json.loads(k): json.loads(v) for k, v in (line.split("\t") for line in done.stdout.splitlines())}
    assert pairs == {"a": 3, "rose": 3, "is": 2}
    check_processes_end(place)
    assert list(place.iterdir()) == []


def test_a_job_that_fails_leaves_nothing(place: Path, job_file: JobFile, text: Path) -> None:
    job = job_file(FAILING)
    done = command("submit", job, text, "--workers", "2", env=env(place))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last):")
    assert "ZeroDivisionError: division by zero" in done.stderr
    check_processes_end(place)
    assert list(place.iterdir()) == []


def test_a_job_that_fails_has_its_report_whoever_writes_it(job_file: JobFile, text: Path, tmp_path: Path) -> None:
    """The worker writes the report once the client has seen the failure, before it ends with the client."""
    job = job_file(FAILING)
    storage = tmp_path / "storage"
    with mrcelery.submit(job, str(text), runner="local", workers=1, storage=str(storage), max_attempts=1) as handle:
        with pytest.raises(mrcelery.JobFailedError):
            handle.wait()
        report = storage / "jobs" / handle.id / "report.json"
        eventually(report.exists, "the worker has written it")
        report.unlink()
    assert json.loads(report.read_text())


def test_from_a_script(place: Path, monkeypatch: pytest.MonkeyPatch, word_count: str, text: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with mrcelery.submit(word_count, str(text), runner="local", workers=2) as handle:
        handle.wait()
        assert len(list(place.glob("mrcelery-local-*"))) == 1
        assert results(handle) == {"a": 3, "rose": 3, "is": 2}
    assert list(place.iterdir()) == []
    check_processes_end(place)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_client_that_is_asked_to_end(client: Client, number: signal.Signals, code: int) -> None:
    """Both SIGINT, which cancels the job, and SIGTERM end the client, which cleans up before it exits."""
    client.running()
    os.kill(client.process.pid, number)
    returned, said = client.end()
    assert returned == code
    assert "Traceback" not in said
    if number == signal.SIGINT:
        assert "cancelled" in said
    check_processes_end(client.place)
    assert list(client.place.iterdir()) == []
    client.check_nothing_left()


def test_ctrl_c_of_a_terminal_reaches_all(client: Client) -> None:
    """The whole foreground process group gets SIGINT, as from a keyboard; the client still cleans up."""
    client.running()
    os.killpg(client.process.pid, signal.SIGINT)
    returned, said = client.end()
    assert returned == 130
    assert "Traceback" not in said
    client.check_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_of_a_job_that_is_ended_stays_in_its_storage(
    number: signal.Signals, place: Path, job_file: JobFile, tmp_path: Path
) -> None:
    """Nobody could resume the job."""
    storage = tmp_path / "storage"
    client = Client(place, job_file(SLOW, "slow.py"), tmp_path / "marks", "--storage", str(storage))
    client.running()
    assert (storage / "jobs").is_dir()
    os.kill(client.process.pid, number)
    client.end()
    client.check_nothing_left()
    assert {path.name for path in storage.iterdir()} <= {"mrcelery.json", "jobs"}
    assert not list((storage / "jobs").glob("*"))


def test_a_client_that_is_killed(client: Client) -> None:
    client.running()
    os.kill(client.process.pid, signal.SIGKILL)
    client.end()
    client.check_nothing_left()


def test_a_client_that_is_killed_while_the_cluster_starts(client: Client) -> None:
    eventually(lambda: list(client.place.glob("mrcelery-local-*/*")), "the cluster starts")
    os.kill(client.process.pid, signal.SIGKILL)
    client.end()
    eventually(lambda: not processes_at(client.place), "all processes are gone")


KILLED = """
import os, signal, subprocess, sys
from mrcelery.runners.local import LocalRunner

class Popen(subprocess.Popen):
    left = int(sys.argv[1])

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Popen.left -= 1
        if not Popen.left:
            os.kill(os.getpid(), signal.SIGKILL)

subprocess.Popen = Popen
LocalRunner(1)._wait_for_server()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_client_that_is_killed_as_it_has_started_a_process(place: Path, processes: int) -> None:
    """Kill the client right after its first process or, if it starts no second one, once the server answers."""
    client = subprocess.run([sys.executable, "-c", KILLED, str(processes)], env=env(place), timeout=60)
    assert client.returncode == -signal.SIGKILL
    eventually(lambda: not processes_at(place), "all processes are gone")
    eventually(lambda: not list(place.iterdir()), "the temporary folder is empty")


@pytest.mark.parametrize("what", ["worker", "redis"])
def test_a_cluster_that_dies(client: Client, what: str) -> None:
    worker = client.worker()
    if what == "worker":
        os.kill(worker, signal.SIGKILL)
    else:
        (server,) = [pid for pid, line in processes_at(client.place).items() if "redis.sock" in line and pid != worker]
        os.kill(server, signal.SIGKILL)
    returned, said = client.end()
    assert returned not in (0, None)
    assert said.startswith("mrcelery: ")
    assert "Traceback" not in said
    assert f"the embedded {what} ended with status -9" in said or "no Redis answers" in said
    client.check_nothing_left()


def test_a_task_process_that_dies_is_run_again(client: Client) -> None:
    victim, _ = client.running()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: len(list(client.marks.glob("pid-*"))) >= 3, "another process runs the task")
    (client.marks / "open").touch()
    returned, said = client.end()
    assert returned == 0, said
    assert sorted(path.name for path in (client.marks / "out").glob("_*")) == ["_SUCCESS"]
    report = json.loads((client.marks / "out" / "_SUCCESS").read_bytes())
    assert report["totals"]["records_in"] == report["totals"]["records_out"] == 2


def test_folders_of_clusters_that_died_are_swept(place: Path, word_count: str, text: Path) -> None:
    """If client and worker are killed at once, the next local runner cleans up."""
    old = place / "mrcelery-local-old"
    old.mkdir()
    (old / "lock").touch()
    (old / "data").write_text("x")
    (place / "mrcelery-local-other").mkdir()  # has no lock, so it must stay
    done = command("submit", word_count, text, "--workers", "1", env=env(place))
    assert done.returncode == 0, done.stderr
    assert [path.name for path in place.iterdir()] == ["mrcelery-local-other"]
