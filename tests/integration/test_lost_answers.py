"""A submit whose answers from Redis are lost says that the job may run, and how to come back to it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mrcelery.jobstore.redis import RedisJobStore
from tests.support.redis_relay import relay
from tests.support.services import WORD_COUNT, RedisServer, command, workers

JobFile = Callable[..., str]
QUEUE = "lost-answers"


@pytest.mark.parametrize(("asked", "what"), [(1, "the job"), (2, "the message that starts it")])
def test_no_answer_to_a_submit(asked: int, what: str, server: RedisServer, job_file: JobFile, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a b\na\n")
    fleet = ("--storage", str(tmp_path / "storage"))
    with relay(server.port) as line:
        # Requests: the code, the job, the message; what the connection sends again gets no answer, either.
        line.decide = lambda number: "silence" if number >= asked else "pass"
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
