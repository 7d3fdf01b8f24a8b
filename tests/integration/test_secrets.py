"""Passwords and signatures in the addresses of inputs show up nowhere but in what workers need to read them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import mrcelery
from tests.support.services import Fleet, command, environment, eventually, files_under

JobFile = Callable[..., str]

SECRETS = ("cafebabe", "AKIASECRET", "sess/ion", "hunter2")
QUERY = "X-Amz-Credential=AKIASECRET%2Fs3&X-Amz-Security-Token=sess/ion&X-Amz-Signature=cafebabe"

LEAKING = """
    import os
    from mrcelery import MRJob

    class Leaking(MRJob):
        def mapper(self, _, line):
            address = os.environ["mapreduce_map_input_file"]
            assert address.endswith("cafebabe"), "the job itself has the whole address"
            print("reading", address)
            self.set_status(f"reads {address}")
            yield line, 1
            if line != "fine":
                raise ValueError(f"cannot parse {address}")
"""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if query != QUERY or path == "/gone":
            self.send_error(403 if query != QUERY else 500)
            return
        body = b"fine\nbad\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def check(where: str, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    found = [secret for secret in SECRETS if secret.encode() in data]
    assert not found, f"{where} has {found}: {data[:2000]!r}"


def shown_of(job: str, fleet: Fleet, tmp_path: Path) -> None:
    """Check all that can be asked of a job, and all that is kept of it but what its workers read it by."""
    for args in (
        ("list", "--json"), ("list",), ("status", job), ("status", job, "--json"), ("wait", job),
        ("wait", job, "--json"), ("logs", job), ("logs", job, "--raw"), ("logs", job, "--json"),
        ("report", job, "-o", str(tmp_path / "page.html")), ("report", job, "--json"),
        ("counters", job, "--json"),
    ):  # fmt: skip
        ran = command(*args, env=fleet.env)
        check(" ".join(args), ran.stdout + ran.stderr)
    check("the page", (tmp_path / "page.html").read_bytes())
    for path in files_under(fleet.folder / "storage" / "jobs" / job):
        if path.name != "spec.json" and not path.name.startswith("plan-"):
            with contextlib.suppress(FileNotFoundError):  # the workers tidy up
                check(str(path), path.read_bytes())
    for worker in fleet.workers:
        check("a worker's log", worker.log.read_bytes())


@pytest.mark.parametrize("skip", [0, 1])
def test_a_presigned_input_that_user_code_speaks_of(
    fleet: Fleet, site: str, job_file: JobFile, tmp_path: Path, skip: int
) -> None:
    address = f"{site}/data.txt?{QUERY}"
    settings = {**fleet.settings, "max_attempts": 1, "max_bad_records": skip}
    with mrcelery.submit(job_file(LEAKING), address, output=str(tmp_path / "out"), **settings) as handle:
        if skip:
            handle.wait(60)
            for path in (tmp_path / "out").rglob("*"):
                check(str(path), path.read_bytes() if path.is_file() else b"")
            assert handle.overview().stages[0].sums.bad_records == 1
        else:
            with pytest.raises(mrcelery.JobFailedError) as raised:
                handle.wait(60)
            check("the error", str(raised.value))
            assert "X-Amz-Signature=****" in str(raised.value)
        check("the overview", mrcelery_json(handle.overview()))
        storage = fleet.folder / "storage" / "jobs" / handle.id
        eventually(lambda: (storage / "report.html").exists(), "its report is there")
        assert "reading http" in command("logs", handle.id, env=fleet.env).stdout
        shown_of(handle.id, fleet, tmp_path)


def mrcelery_json(value: object) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def test_a_server_that_refuses(fleet: Fleet, site: str, word_count: str, tmp_path: Path) -> None:
    """urllib3 asks again, and would log the address each time."""
    with mrcelery.submit(word_count, f"{site}/gone?{QUERY}", storage_patience=2, **fleet.settings) as handle:
        with pytest.raises(mrcelery.JobFailedError, match="the server cannot serve it now") as raised:
            handle.wait(120)
        check("the error", str(raised.value))
        storage = fleet.folder / "storage" / "jobs" / handle.id
        eventually(lambda: (storage / "report.html").exists(), "its report is there")
        shown_of(handle.id, fleet, tmp_path)


@pytest.mark.parametrize(
    "args",
    [
        ("submit", "JOB", "http:/user:hunter2@host/x"),
        ("submit", "JOB", "http:user:hunter2@host/x"),
        ("submit", "JOB", "https//user:hunter2@host/x"),
        ("submit", "JOB", "s3://AKIA:hunter2@bucket/x"),
        ("submit", "JOB", "TEXT", "-o", "s3:AKIA:hunter2@bucket/x"),
        ("submit", "JOB", "gs://user:hunter2@bucket/x"),
        ("submit", "JOB", "http://user:hunter2@127.0.0.1:1/x", "--runner", "inline"),
        ("list", "--broker", "redis://:hunter2@ss:w/rd#1@"),
        ("list", "--broker", "redis://:hunter2 and more@127.0.0.1:1"),
        ("list", "--broker", "redis://:hunter2@127.0.0.1:1/0"),
        ("list", "--broker", "http://:hunter2@127.0.0.1:1/0"),
        ("doctor", "--broker", "redis://:hunter2/x@127.0.0.1:1/0"),
        ("doctor", "--json", "--broker", "redis://:hunter2#x@127.0.0.1:1/0"),
        ("worker", "--broker", "redis://:hunter2/x@127.0.0.1:1/0"),
        ("worker", "--broker", "rediss://:hunter2/x@127.0.0.1:1/0"),
        ("worker", "--broker", "sentinel://:hunter2/x@127.0.0.1:1/0"),
        ("list", "--broker", "redis://:hunter2@[::1"),
        ("config", "show", "--broker", "redis://:hunter2/x@h"),
        ("list", "http://user:hunter2@host/"),
    ],
)
def test_no_command_says_a_password(args: tuple[str, ...], word_count: str, text: Path) -> None:
    given = [{"JOB": word_count, "TEXT": str(text)}.get(arg, arg) for arg in args]
    ran = command(*given, env=environment())
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    check(" ".join(args), ran.stdout + ran.stderr)
    assert "more@" not in ran.stderr


def test_a_configuration_is_shown_without_passwords(tmp_path: Path) -> None:
    ran = command("config", "show", "--json", env=environment(MRCELERY_BROKER="redis://:p@ss:hunter2/rd#1@h:1/0"))
    check("config show", ran.stdout)
    assert "redis://:****@h:1/0" in json.dumps(json.loads(ran.stdout))
