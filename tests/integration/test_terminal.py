"""submit, wait, status and logs as a user sees them: on a pseudo-terminal, with a real fleet."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mrcelery.jobstore import journal
from mrcelery.reporting.overview import glance
from mrcelery.schema.task_id import TaskId
from tests.support.services import GATED, PATIENCE, Fleet, Gate, Quiet, command, eventually

JobFile = Callable[..., str]

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MOVES = re.compile(r"[\r\n]+|\x1b\[[0-9;]*[A-HJK]")

FAILS = """
    from mrcelery import MRJob

    class Fails(MRJob):
        def mapper(self, _, line):
            print("saw", line)
            if "boom" in line:
                raise ValueError("no bombs")
            yield line, 1
"""

TALKS = """
    import os, time
    from mrcelery import MRJob

    class Talks(MRJob):
        def reducer(self, key, values):
            yield key, sum(values)

        def mapper(self, _, line):
            print("first words of", os.path.basename(line))
            while not os.path.exists(line):
                yield "waiting", 1
                time.sleep(0.01)
            print("last words")
            yield line, 1
"""


class Terminal:
    """A command on a pseudo-terminal with ``columns`` columns."""

    def __init__(self, env: dict[str, str], *args: str, columns: int = 80) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mrcelery", *args],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**env, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._ours = ours
        self.raw = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 65536)
            except OSError as e:
                if e.errno == errno.EIO:  # the command has closed its end
                    return
                raise
            self.raw += data.decode()

    @property
    def text(self) -> str:
        """All text that was ever shown, without colors and cursor movements."""
        return _ESCAPES.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")

    def drawn(self, before: str) -> list[str]:
        """Lines written before a text, without colors; cursor movements and erasures also end a line."""
        return [_ESCAPES.sub("", line) for line in _MOVES.split(self.raw[: self.raw.rindex(before)])]

    def shows(self, text: str) -> None:
        eventually(lambda: text in self.text, f"the terminal shows {text!r}")

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def ends(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(env: dict[str, str], *args: str, columns: int = 80) -> Iterator[Terminal]:
    started = Terminal(env, *args, columns=columns)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def colours(fleet: Fleet) -> dict[str, str]:
    return {name: value for name, value in fleet.env.items() if name != "NO_COLOR"}


def test_a_job_that_runs_and_succeeds(fleet: Fleet, colours: dict[str, str], job_file: JobFile, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "in.txt").write_text(f"{gate}\n" * 3)
    options = ["--split-size", str(len(f"{gate}\n")), "-R", "1", "-o", str(tmp_path / "out")]
    with terminal(colours, "submit", job_file(TALKS), str(tmp_path / "in.txt"), *options) as shown:
        shown.shows("▶ running")
        shown.shows("0/3  3 running")
        shown.shows("◌ reduce  queued")
        shown.shows("slowest  map ")
        gate.touch()
        assert shown.ends() == 0
    assert re.search(r"\x1b\[1;36m▶ running", shown.raw)
    last = shown.text[shown.text.rindex("✔ succeeded") :].splitlines()
    assert last[1].strip().startswith("input    3 records, ")
    assert last[2].strip().startswith("output   2 records, ")
    assert last[2].endswith(f"in 1 part file at {tmp_path}/out")
    assert last[3] == "  tasks    4, 4 attempts"
    assert last[4] == f"  next     mrcelery cat {tmp_path}/out"
    assert shown.raw.rindex(SHOW) > shown.raw.rindex(HIDE)


def test_a_job_without_workers_and_ctrl_c(quiet: Quiet, fleet: Fleet, word_count: str, text: Path) -> None:
    with terminal(fleet.env, "submit", word_count, str(text), "--queue", quiet.name, columns=60) as shown:
        shown.shows(f"◌ queued, no worker listens on queue {quiet.name}")
        shown.press(b"\x03")
        assert shown.ends() == 130
    # With NO_COLOR, text may be bold and the like, but not colored.
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", shown.raw)
    detached = shown.text.rindex("Detached: job ")
    job = shown.text[detached:].split()[2]
    assert "Traceback" not in shown.text
    assert shown.raw.rindex(SHOW) > shown.raw.rindex(HIDE)
    picture = [line for line in shown.drawn("Detached: job ") if "queued" in line]
    assert picture
    assert max(map(len, picture)) <= 60
    stands = command("status", job, env=fleet.env)
    assert stands.stdout.startswith(f"◌ queued, no worker listens on queue {quiet.name}")
    assert f"next     mrcelery worker --queue {quiet.name}" in stands.stdout
    assert command("cancel", job, env=fleet.env).returncode == 0
    assert command("status", job, env=fleet.env).stdout.startswith("■ cancelled")


def test_a_job_that_fails(fleet: Fleet, colours: dict[str, str], job_file: JobFile, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("fine\nboom\n")
    with terminal(colours, "submit", job_file(FAILS), str(tmp_path / "in.txt")) as shown:
        assert shown.ends() == 1
    text = shown.text
    assert text.index("ValueError: no bombs") < text.index("record 'boom'") < text.index("✘ failed in user code")
    retry = re.search(r"mrcelery retry (\S+)", text)
    assert retry is not None
    stands = command("status", retry[1], env=fleet.env).stdout
    assert stands.startswith("✘ failed in user code")
    assert "why      ValueError: no bombs" in stands
    assert 'raise ValueError("no bombs")' in stands
    seen = json.loads(command("status", retry[1], "--json", env=fleet.env).stdout)
    assert [one[2] for one in seen["overview"]["stages"][0]["attempts"]] == ["failed"]
    logs = command("logs", retry[1], "--failed", env=fleet.env)
    assert logs.stderr.startswith("Traceback (most recent call last):\n")
    assert 'raise ValueError("no bombs")' in logs.stderr
    last = logs.stderr.splitlines()[-1]
    assert last.startswith(f"mrcelery: failed in user code: job {retry[1]}, step 0, map task 0, attempt 1-")
    head, *said = logs.stdout.splitlines()
    assert re.fullmatch(r"==> step 0 map 0 attempt 1-\w+ failed <==", head)
    assert said == ["saw fine", "saw boom", "[failed: ValueError: no bombs]"]


def test_lines_and_events(fleet: Fleet, job_file: JobFile, tmp_path: Path) -> None:
    gate = Gate(tmp_path, 2)
    submit = [sys.executable, "-m", "mrcelery", "submit", job_file(GATED), str(gate.text)]
    told: list[subprocess.Popen[str]] = [
        subprocess.Popen(
            [*submit, "-o", str(tmp_path / f"out-{n}"), *more],
            env=fleet.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for n, more in enumerate([[], ["-q"], ["--json"]])
    ]  # fmt: skip
    for client in told[:1]:
        assert client.stderr is not None
        assert client.stderr.readline().startswith("mrcelery: job gated-")
        assert client.stderr.readline() == "mrcelery: step 0 map: 1 task\n"
    gate.open()
    (_, lines), (out, err), (events, nothing) = [client.communicate(timeout=PATIENCE) for client in told]
    assert [client.returncode for client in told] == [0, 0, 0]
    assert re.search(r"^mrcelery: job gated-\S+: succeeded after [\d.]+ s; next: mrcelery cat ", lines, re.MULTILINE)
    assert (out, err, nothing) == ("", "", "")
    seen = [json.loads(line) for line in events.splitlines()]
    kinds = [one["event"] for one in seen if one["event"] != "progress"]
    assert kinds == ["submitted", *["stage_started", "stage_succeeded"] * 2, "succeeded"]
    assert (seen[-1]["state"], seen[-1]["totals"]["records_in"], len(seen[-1]["parts"])) == ("succeeded", 2, 1)


def test_a_glance_takes_two_round_trips(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"steps": '[["",true]]', "total.0.map": "9", "entered.0.map": "1.0"}
    quiet.store.create(quiet.name, stages, b"")
    quiet.store.move(quiet.name, "running")
    for task in range(9):
        journal.begin(quiet.store, TaskId(quiet.name, 0, "map", task), f"a{task}", "w 1")
    sent: list[int] = []
    call = quiet.store.connection.call

    def counted(*commands: Any) -> list[Any]:
        sent.append(len(commands))
        return call(*commands)

    monkeypatch.setattr(quiet.store.connection, "call", counted)
    found = glance(quiet.store, quiet.name)
    assert found is not None
    assert [(stage.state, stage.sums.running) for stage in found.stages] == [("running", 9), ("queued", 0)]
    assert sent == [2, 4]


@pytest.mark.parametrize("where", ["folder", "s3"])
def test_logs_are_followed(fleet: Fleet, job_file: JobFile, tmp_path: Path, bucket: str, where: str) -> None:
    env = fleet.env if where == "folder" else {**fleet.env, "MRCELERY_STORAGE": f"s3://{bucket}/{os.urandom(4).hex()}"}
    gates = [tmp_path / "gate-a", tmp_path / "gate-b"]
    (tmp_path / "in.txt").write_text("".join(f"{gate}\n" for gate in gates))
    size = ["--split-size", str(len(f"{gates[0]}\n"))]
    done = command("submit", job_file(TALKS), tmp_path / "in.txt", "--detach", *size, env=env)
    job = done.stdout.strip()
    follow = [sys.executable, "-m", "mrcelery", "logs", job, "-f"]
    said = tmp_path / "said"
    with said.open("w") as out:
        client = subprocess.Popen(follow, env=env, stdout=out, stderr=subprocess.DEVNULL)
    eventually(lambda: said.read_text().count("first words") == 2, "both attempts are heard while they run")
    assert "last words" not in said.read_text()
    for gate in gates:
        gate.touch()
    assert client.wait(PATIENCE) == 0
    for task, gate in enumerate(gates):
        lines = [line for line in said.read_text().splitlines() if line.startswith(f"step 0 map {task} | ")]
        assert [line.partition(" | ")[2] for line in lines] == [f"first words of {gate.name}", "last words"]
    alone = command("logs", job, "-f", "--kind", "map", "--task", "1", env=env)
    assert alone.stdout == "first words of gate-b\nlast words\n"
