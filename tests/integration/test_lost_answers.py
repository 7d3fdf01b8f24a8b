"""A submit, cancel or retry whose answers from Redis are lost says that it may have happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.states import State
from tests.support.redis_relay import relay
from tests.support.services import WORD_COUNT, RedisServer, command, workers

JobFile = Callable[..., str]
QUEUE = "lost-answers"


def silent_from(first: int) -> Callable[[int], str]:
    return lambda number: "silence" if number >= first else "pass"


@pytest.mark.parametrize(("asked", "what"), [(1, "the job"), (2, "the message that starts it")])
def test_no_answer_to_a_submit(asked: int, what: str, server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a b\na\n")
    fleet = ("--storage", str(tmp_path / "storage"))
    with relay(server.port) as line:
        # Requests: the code, the job, the message; what the connection sends again gets no answer, either.
        line.decide = silent_from(asked)
        out = ("-o", str(tmp_path / "out"), "--queue", QUEUE, "--detach")
        run = command("submit", job_file(WORD_COUNT), tmp_path / "in.txt", *out, "--broker", line.url, *fleet)
    assert run.returncode == 3, run.stderr
    found = re.search(r"job (\S+) may have been submitted all the same", run.stderr)
    assert found, run.stderr
    job = found[1]
    assert f"mrcelery wait {job}" in run.stderr
    assert f"mrcelery status {job}" in run.stderr
    with closing(RedisJobStore(server.tcp_url)) as store:
        assert store.state(job) == "queued"
    with workers(tmp_path / "workers", server.tcp_url, queue=QUEUE, MRCELERY_VISIBILITY_TIMEOUT="5"):
        back = command("wait", job, "--broker", server.tcp_url, *fleet)
    assert back.returncode == 0, back.stderr
    assert (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize(("name", "done", "before", "after"), [
    ("cancel", "cancelled", "queued", "cancelled"),
    ("retry", "retried", "failed", "queued"),
])  # fmt: skip
def test_no_answer_to_a_change(
    name: str, done: str, before: State, after: str, server: RedisServer, job_file: JobFile, tmp_path: Path
) -> None:
    """From whichever request on the answers are lost: where the job was changed, this is said."""
    (tmp_path / "in.txt").write_text("a b\na\n")
    fleet = ("--storage", str(tmp_path / "storage"))
    out = ("-o", str(tmp_path / "out"), "--queue", QUEUE, "--detach")
    changed = False
    with relay(server.port) as line, closing(RedisJobStore(server.tcp_url)) as store:
        for asked in range(12):
            line.decide = lambda number: "pass"
            sent = command(
                "submit", job_file(WORD_COUNT), tmp_path / "in.txt", *out, "--broker", server.tcp_url, *fleet
            )
            job = sent.stdout.strip()
            if before != "queued":
                assert store.move(job, before)
            line.decide = silent_from(line.asked + asked)
            run = command(name, job, *([] if name == "cancel" else ["--detach"]), "--broker", line.url, *fleet)
            if run.returncode == 0:
                break
            assert run.returncode == 3, run.stderr
            if store.state(job) == after:
                changed = True
                assert f"job {job} may have been {done} all the same: look with `mrcelery status {job}`" in run.stderr
            else:
                assert store.state(job) == before
    assert changed
