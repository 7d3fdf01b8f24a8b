"""If a client is killed at any operation of a command that changes something, running the command again repairs it.

A client acts only through operations on Redis and storage, one after the other. To die after one is therefore to die
before the next, so the tests kill the client before the first operation and after each.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from mrcelery.cli.main import main
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema import object_keys
from mrcelery.schema.states import FINAL
from mrcelery.storage import open_storage
from tests.hostile.dying_client import arm
from tests.support.services import RedisServer, eventually, workers

QUEUE = "dying-client"

JOB = """
    import os, time
    from mrcelery import MRJob

    class Flagged(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--flags")

        def mapper(self, _, line):
            while os.path.exists(os.path.join(self.options.flags, "wait")):
                time.sleep(0.02)
                yield "waited", 0
            if os.path.exists(os.path.join(self.options.flags, "fail")):
                raise ValueError("as it is told to")
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


class Client:
    """Runs commands in separate processes, which may die at an operation."""

    def __init__(self, server: RedisServer, folder: Path, root: str) -> None:
        self.folder, self.root = folder, root
        self.storage = open_storage(f"{root}/storage")
        self.fleet = ["--broker", server.tcp_url, "--storage", self.storage.uri]
        self.store = RedisJobStore(server.tcp_url)
        self.text = folder / "text.txt"
        self.text.write_text("a\nb\na\n")
        self.job = folder / "flagged.py"
        self.job.write_text(dedent(JOB))
        self.said = folder / "said.txt"

    def run(self, *args: str, number: int = 0, when: str = "before") -> int:
        """Run a command and return its exit code, negative if it died at operation ``number``; 0 is for none."""
        pid = os.fork()
        if not pid:
            code = 1
            try:
                out = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - pytest would capture the output
                sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as above
                if number:
                    arm(number, when)
                sys.argv = ["mrcelery", *args, *([] if "--" in args else self.fleet)]
                main()
                code = 0
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else int(e.code is not None)
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code > 0:
            print(f"exit code {code} of {' '.join(args)}:", self.said.read_text(), sep="\n")
        return code

    def submission(self, name: str, *flags: str) -> list[str]:
        """Return the command that submits the job with this name and these flags."""
        told = self.folder / name
        told.mkdir(exist_ok=True)
        for flag in flags:
            (told / flag).touch()
        out = ["-o", self.output(name), "--queue", QUEUE, "--detach", "--client-token", name]
        return ["submit", str(self.job), str(self.text), *out, *self.fleet, "--", "--flags", str(told)]

    def submit(self, name: str, *flags: str) -> str:
        assert self.run(*self.submission(name, *flags)) == 0, self.said.read_text()
        return self.said.read_text().split()[0]

    def output(self, name: str) -> str:
        return f"{self.root}/{name}.out"

    def keys(self, job: str) -> list[str]:
        return [info.key for info in self.storage.list(object_keys.job_root(job))]

    def ends(self, job: str, state: str, name: str) -> None:
        eventually(lambda: self.store.state(job) in FINAL, f"{job} ends")
        assert self.store.state(job) == state
        out = open_storage(self.output(name))
        files = {info.key: out.read(info.key) for info in out.list()}
        assert ("_SUCCESS" in files) == (state == "succeeded")
        if state == "succeeded":
            lines = [line for key, data in files.items() if "part-" in key for line in data.splitlines()]
            assert sorted(lines) == [b'"a"\t2', b'"b"\t1']
            assert {key.partition("-")[0] for key in files} == {"part", "_SUCCESS"}


@pytest.fixture(params=["folder", "s3"])
def client(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Iterator[Client]:
    root = str(tmp_path) if request.param == "folder" else f"s3://{request.getfixturevalue('bucket')}/{tmp_path.name}"
    with workers(tmp_path / "workers", server.tcp_url, queue=QUEUE, MRCELERY_VISIBILITY_TIMEOUT="5"):
        made = Client(server, tmp_path, root)
        yield made
        made.store.close()


def deaths(die: Callable[[int, str], int]) -> int:
    """Make a command die at each of its operations, and return their number."""
    number = 0
    while True:
        code = die(max(1, number), "after" if number else "before")
        if code != -signal.SIGKILL:
            assert code == 0
            return number - 1
        number += 1


def test_submit(client: Client) -> None:
    def die(number: int, when: str) -> int:
        name = f"submit-{number}-{when}"
        code = client.run(*client.submission(name), number=number, when=when)
        client.ends(client.submit(name), "succeeded", name)
        return code

    assert deaths(die) > 4


def test_cancel(client: Client) -> None:
    def die(number: int, when: str) -> int:
        name = f"cancel-{number}-{when}"
        job = client.submit(name, "wait")
        eventually(lambda: client.store.state(job) == "running", "it runs")
        code = client.run("cancel", job, number=number, when=when)
        assert client.run("cancel", job) == 0, client.said.read_text()
        client.ends(job, "cancelled", name)
        eventually(lambda: "cleaned" in client.store.fields(job), "its data is removed")
        return code

    assert deaths(die) > 4


def test_retry(client: Client) -> None:
    def die(number: int, when: str) -> int:
        name = f"retry-{number}-{when}"
        job = client.submit(name, "fail")
        client.ends(job, "failed", name)
        (client.folder / name / "fail").unlink()
        code = client.run("retry", job, "--detach", number=number, when=when)
        again = client.run("retry", job, "--detach")
        said = client.said.read_text()
        assert again == 0 or re.search("is (running|succeeded): only a job that failed or was cancelled", said), said
        client.ends(job, "succeeded", name)
        assert client.store.fields(job)["revived"] == "1", "retried once"
        return code

    assert deaths(die) > 7


def test_clean(client: Client) -> None:
    def die(number: int, when: str) -> int:
        name = f"clean-{number}-{when}"
        job = client.submit(name)
        client.ends(job, "succeeded", name)
        eventually(lambda: not any("commit.json" in key for key in client.keys(job)), "it is tidied up")
        code = client.run("clean", job, number=number, when=when)
        assert client.run("clean", job) == 0, client.said.read_text()
        assert client.keys(job) == []
        assert job not in client.storage.folders(object_keys.JOBS)
        assert client.store.fields(job) == {}
        (left,) = client.store.call(("KEYS", f"mrcelery:*{job}*"))
        assert left == []
        return code

    assert deaths(die) > 10
