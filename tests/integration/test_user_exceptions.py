"""Whatever user code raises, and wherever, the job fails at its first attempt, with the traceback of that code."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.errors import JobFailedError
from tests.support.services import Fleet, command, environment, eventually

JobFile = Callable[..., str]

BROKEN = r"""
    import asyncio
    import os
    import os
    import sys

    from mrcelery import MRJob
    from mrcelery.errors import JobStoppedError
    from mrcelery.protocols import JSONProtocol


    class Own(BaseException):
        pass


    class Mute(Exception):
        def __str__(self):
            raise LookupError("no text")


    class NoText(Exception):
        def __str__(self):
            return 3


    class Opaque:
        def __repr__(self):
            raise Own("repr")


    def forked(child):
        pid = os.fork()
        if pid == 0:
            return child()
        raise ValueError(f"child ended with {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


    def raised(error):
        raise error


    KINDS = {
        "cancelled": lambda: raised(asyncio.CancelledError("x")),
        "generator": lambda: raised(GeneratorExit("x")),
        "interrupt": lambda: raised(KeyboardInterrupt("x")),
        "own": lambda: raised(Own("x")),
        "stop": lambda: raised(StopIteration("x")),
        "ours": lambda: raised(JobStoppedError("x")),
        "mute": lambda: raised(Mute("x")),
        "no text": lambda: raised(NoText("x")),
        "huge": lambda: raised(ValueError("y" * 3_000_000)),
        "exit": lambda: sys.exit(3),
        "fork, exit": lambda: forked(lambda: sys.exit(7)),
        "fork, raise": lambda: forked(lambda: raised(ValueError("in the child"))),
        "fork, go on": lambda: forked(lambda: None),
        "no pair": lambda: Opaque(),
    }


    class Protocol(JSONProtocol):
        where = kind = ""

        def read(self, line):
            if self.where == "protocol.read":
                KINDS[self.kind]()
            return super().read(line)

        def write(self, key, value):
            if self.where == "protocol.write":
                KINDS[self.kind]()
            return super().write(key, value)


    class Broken(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--where", default="")
            self.add_passthru_arg("--kind", default="")

        def load_args(self, args):
            super().load_args(args)
            if self.is_task():
                self.at("load_args")

        def at(self, where):
            if self.options.where == where:
                return KINDS[self.options.kind]()

        def internal_protocol(self):
            if not self.options.where.startswith("protocol"):
                return None
            protocol = Protocol()
            if self.is_task():
                self.at("protocol")
                protocol.where, protocol.kind = self.options.where, self.options.kind
            return protocol

        def mapper_init(self):
            self.at("mapper_init")

        def mapper(self, _, line):
            bad = self.at("mapper")
            if bad is not None:
                yield bad
            yield line, 1

        def mapper_final(self):
            self.at("mapper_final")

        def combiner_init(self):
            self.at("combiner_init")

        def combiner(self, word, counts):
            self.at("combiner")
            yield word, sum(counts)

        def combiner_final(self):
            self.at("combiner_final")

        def partition(self, word, n):
            self.at("partition")
            return 0

        def reducer_init(self):
            self.at("reducer_init")

        def reducer(self, word, counts):
            self.at("reducer")
            yield word, sum(counts)

        def reducer_final(self):
            self.at("reducer_final")
"""

SAYS = {
    "cancelled": "CancelledError: x",
    "generator": "GeneratorExit: x",
    "interrupt": "KeyboardInterrupt: x",
    "own": "Own: x",
    "stop": "RuntimeError: generator raised StopIteration",
    "ours": "JobStoppedError: x",
    "mute": "Mute (its __str__ raises LookupError)",
    "no text": "NoText (its __str__ raises TypeError)",
    "huge": "ValueError: yyyy",
    "exit": "SystemExit: 3",
    "fork, exit": "ValueError: child ended with 7",
    "fork, raise": "ValueError: child ended with 1",
    "fork, go on": "ValueError: child ended with 1",
    "no pair": "the mapper yielded <Opaque: its __repr__ raises Own>",
}
HOOKS = (
    "load_args",
    "protocol",
    "protocol.read",
    "protocol.write",
    "mapper_init",
    "mapper_final",
    "combiner_init",
    "combiner",
    "combiner_final",
    "partition",
    "reducer_init",
    "reducer",
    "reducer_final",
)
WITH_RECORD = dict.fromkeys(("mapper", "combiner", "partition", "reducer", "protocol.write"), "'a rose'") | {
    "protocol.read": """b'"a rose"'"""
}
CASES = [("mapper", kind) for kind in SAYS] + [(hook, "own") for hook in HOOKS]


def run(job: str, lines: Path, where: str, kind: str, **settings: Any) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        mrcelery.run(job, [str(lines)], args=["--where", where, "--kind", kind], reducers=2, **settings)
    return caught.value


def check(error: JobFailedError, where: str, kind: str) -> None:
    failure = error.failure
    told = f"{where}, {kind}: {failure}"[:3000]
    assert failure.error == "UserCodeError", told
    assert SAYS[kind] in failure.message, told
    assert len(failure.message) < 3000, told
    assert failure.attempt.startswith("1-") or where == "load_args", told
    if kind != "no pair":
        assert failure.traceback.startswith("Traceback"), told
        assert "broken.py" in failure.traceback, told
    assert "mrcelery/task" not in failure.traceback, told
    assert "/celery/" not in failure.traceback, told
    assert "/billiard/" not in failure.traceback, told
    assert failure.record == WITH_RECORD.get(where, ""), told


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("a rose\n")
    return path


@pytest.mark.parametrize(("where", "kind"), CASES)
def test_inline(job_file: JobFile, lines: Path, where: str, kind: str) -> None:
    check(run(job_file(BROKEN, "broken.py"), lines, where, kind, runner="inline"), where, kind)


@pytest.mark.parametrize("kind", [kind for kind in SAYS if kind not in ("no text", "no pair")])
def test_on_a_fleet(fleet: Fleet, job_file: JobFile, lines: Path, kind: str) -> None:
    check(run(job_file(BROKEN, "broken.py"), lines, "mapper", kind, **fleet.settings), "mapper", kind)


@pytest.mark.parametrize("where", ["load_args", "protocol.write", "partition", "reducer_final"])
@pytest.mark.parametrize("kind", ["exit"])
def test_sys_exit_in_a_hook_on_a_fleet(fleet: Fleet, job_file: JobFile, lines: Path, where: str, kind: str) -> None:
    check(run(job_file(BROKEN, "broken.py"), lines, where, kind, **fleet.settings), where, kind)


def test_on_the_local_runner(job_file: JobFile, lines: Path, tmp_path: Path) -> None:
    job, storage = job_file(BROKEN, "broken.py"), str(tmp_path / "storage")
    check(run(job, lines, "mapper", "cancelled", runner="local", storage=storage), "mapper", "cancelled")


def test_an_exit_that_ends_the_process_is_told_apart(fleet: Fleet, job_file: JobFile, lines: Path) -> None:
    job = job_file(
        """
        import os

        from mrcelery import MRJob

        class Gone(MRJob):
            def mapper(self, _, line):
                os._exit(9)
        """
    )
    with pytest.raises(JobFailedError, match="process ended with exit status 9"):
        mrcelery.run(job, [str(lines)], max_attempts=2, **fleet.settings)


SKIPPING = """
    from mrcelery import MRJob

    class Own(BaseException):
        pass

    class Mute(Exception):
        def __str__(self):
            raise LookupError("no text")

    class Skipping(MRJob):
        def mapper(self, _, line):
            if line == "bad":
                raise Mute()
            if line == "worse":
                raise Own("x")
            yield line, 1
"""


@pytest.mark.parametrize(("text", "kept"), [("bad\ngood\n", ["good"]), ("worse\ngood\n", None)])
def test_only_an_exception_is_a_bad_record(
    job_file: JobFile, tmp_path: Path, text: str, kept: list[str] | None
) -> None:
    path = tmp_path / "in.txt"
    path.write_text(text)
    done = command(
        "submit", job_file(SKIPPING), path, "--runner", "inline", "--max-bad-records", "5", "--output-format", "text"
    )
    if kept is None:
        assert done.returncode == 1
        assert "Own: x" in done.stderr
        assert "record 'worse'" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[0] in kept


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import sys\nsys.exit(4)\n", "does not import: SystemExit: 4"),
        ("class Own(BaseException): pass\nraise Own('x')\n", "does not import: Own: x"),
        (
            "from mrcelery import MRJob\nclass J(MRJob):\n  def configure_args(self):\n    raise GeneratorExit('x')\n",
            "J cannot take its arguments: GeneratorExit: x",
        ),
        (
            "from mrcelery import MRJob\nclass J(MRJob):\n  def steps(self):\n    raise GeneratorExit('x')\n",
            "J.steps() raised GeneratorExit: x",
        ),
        (
            "from mrcelery import MRJob\nclass J(MRJob):\n  mapper = print\n  def jobconf(self): 1 / 0\n",
            "J cannot be set up: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_job_that_does_not_load(job_file: JobFile, lines: Path, source: str, says: str) -> None:
    done = command("submit", job_file(source, "loaded.py"), lines, "--runner", "inline")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("Traceback")
    assert "mrcelery/" not in done.stderr.partition("\nmrcelery: ")[0]


def test_ctrl_c_interrupts_the_inline_runner(job_file: JobFile, lines: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    job = job_file(
        f"""
        import time

        from mrcelery import MRJob

        class Slow(MRJob):
            def mapper(self, _, line):
                open({str(here)!r}, "w").close()
                time.sleep(600)
        """
    )
    command_line = [sys.executable, "-m", "mrcelery", "submit", job, str(lines), "--runner", "inline"]
    process = subprocess.Popen(command_line, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        eventually(here.exists, "the mapper runs")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "Traceback" not in said
