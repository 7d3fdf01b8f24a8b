"""``hello``: a tiny job through everything, and what it says when nobody listens."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import Fleet, command, environment

PRINTED = "hello\t3\nmap\t1\nreduce\t1\nshuffle\t1\n"


@pytest.mark.parametrize("runner", ["inline", "local", "celery"])
def test_it_tells_stages_and_workers(fleet: Fleet, runner: str) -> None:
    ran = command("hello", "--runner", runner, env=fleet.env if runner == "celery" else environment())
    assert (ran.returncode, ran.stdout) == (0, PRINTED), ran.stderr
    stages = [line.split() for line in ran.stderr.splitlines()]
    assert [line[0] for line in stages] == ["wait,", "map", "reduce", "mrcelery"]
    assert f"on the {runner} runner" in ran.stderr
    assert all(line[3] == "on" for line in stages[1:3])
    if runner == "celery":
        assert {line[4] for line in stages[1:3]} <= {"fleet-0@here", "fleet-1@here"}


def test_as_json(fleet: Fleet) -> None:
    told = json.loads(command("hello", "--json", env=fleet.env).stdout)
    assert (told["works"], told["runner"]) == (True, "celery")
    assert [stage["stage"] for stage in told["stages"]] == ["wait, plan", "map", "reduce"]
    assert sum(stage["seconds"] for stage in told["stages"]) <= told["seconds"]
    spec = Path(fleet.env["MRCELERY_STORAGE"], "jobs", told["job"], "spec.json").read_text()
    assert f"{fleet.env['MRCELERY_STORAGE']}/inputs/" in spec, "other machines do not see files of this one"


def test_nobody_listens(fleet: Fleet) -> None:
    queue = f"nobody-{os.urandom(4).hex()}"
    ran = command("hello", "--queue", queue, "--timeout", "0.5s", env=fleet.env)
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.count("\n") == 1
    assert f"no worker listens on queue {queue} at {fleet.server.tcp_url}: start one" in ran.stderr
    store = RedisJobStore(fleet.server.tcp_url)
    assert store.state(store.jobs(1)[0]) == "cancelled"
    store.close()
