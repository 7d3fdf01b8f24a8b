"""A job's S3 requests are counted exactly and stay within the plan, and no object is read twice."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcelery.client.submission import Submission
from mrcelery.examples.word_count import WordCount
from mrcelery.formats.source import SLACK
from mrcelery.storage import check, open_storage
from tests.support.s3_proxy import Log, proxy
from tests.support.services import command, environment

R = 3
SPLIT = 256 << 10


@pytest.fixture
def log(bucket: str) -> Iterator[Log]:
    with proxy() as log:
        yield log


@pytest.fixture
def inputs(log: Log, bucket: str) -> tuple[str, Counter[str]]:
    """Write three files of about 400 KB under ``in/``; return the root, and how often each word occurs."""
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    chance = random.Random(1)
    words: Counter[str] = Counter()
    for number in range(3):
        lines = [" ".join(f"word-{chance.randrange(900)}" for _ in range(8)) for _ in range(6000)]
        words.update(word for line in lines for word in line.split())
        open_storage(root).write(f"in/{number}.txt", "\n".join(lines).encode())
    check(open_storage(f"{root}/storage"))  # a new storage is probed once
    log.requests.clear()
    return root, words


@pytest.mark.parametrize("runner", ["inline", "local"])
@pytest.mark.parametrize("to_output", [True, False])
def test_requests_are_as_reported_and_as_planned(
    inputs: tuple[str, Counter[str]], log: Log, runner: str, to_output: bool
) -> None:
    root, words = inputs
    submission = Submission.prepare(
        WordCount,
        f"{root}/in",
        f"{root}/out" if to_output else None,
        runner=runner,
        storage=f"{root}/storage",
        reducers=R,
        split_size=SPLIT,
        workers=2,
    )
    plan = submission.plan()
    tasks = plan.inputs.splits
    assert tasks > R
    planning = len(log.requests)
    log.requests.clear()
    with submission.submit() as handle:
        handle.wait()
        reported = handle.requests()
        assert dict(handle.results()) == words
    asked = log.requests

    # The report counts all requests before its own.
    until = next(i for i, one in enumerate(asked) if one.method == "PUT" and one.key.endswith("/report.html"))
    assert reported == Counter(one.billed for one in asked[:until])
    after = Counter(one.billed for one in asked[until:])

    # The plan is an upper bound that includes requests after the report; 2 processes read spec, code and plan.
    for kind, estimated in plan.cost.requests.items():
        room = 3 * 2 if kind == "GET" and runner == "local" else 2
        assert reported.get(kind, 0) <= estimated <= reported.get(kind, 0) + max(after[kind], R) + room, kind

    # The inputs are listed twice, since both this test and the submission plan.
    assert planning == 2

    # No object is read twice, except those that each process needs, and lines that straddle two splits.
    reads = Counter(one.key for one in asked[:until] if (one.method, one.billed) == ("GET", "GET"))
    shared = ("spec.json", "code.zip", "plan-00000.json")
    once = {key: n for key, n in reads.items() if "/in/" not in key and not key.endswith(shared)}
    assert set(once.values()) == {1}
    assert sum("/map-" in key for key in once) == tasks * R
    ranges = [one.range.removeprefix("bytes=").split("-") for one in asked if "/in/" in one.key and one.range]
    size = sum(info.size for info in open_storage(root).list("in/"))
    assert len(ranges) == tasks
    assert size <= sum(int(last) + 1 - int(first) for first, last in ranges) <= size + tasks * (SLACK + 1)


def test_partitions_are_written_in_parallel_before_the_commit(inputs: tuple[str, Counter[str]], log: Log) -> None:
    root, words = inputs
    submission = Submission.prepare(
        WordCount, f"{root}/in/0.txt", runner="inline", storage=f"{root}/storage", reducers=16
    )
    with submission.submit() as handle:
        assert sum(dict(handle.results()).values()) == sum(words.values()) // 3
    (commit,) = (i for i, one in enumerate(log.requests) if one.key.endswith("map-00000/commit.json"))
    parts = [i for i, one in enumerate(log.requests) if one.method == "PUT" and "/map-00000/part-" in one.key]
    assert len(parts) == 16
    assert max(log.requests[i].beside for i in parts) > 0
    assert max(parts) < commit
    assert log.requests[commit].beside == 0


def test_commands_tell_of_requests(inputs: tuple[str, Counter[str]], tmp_path: Path) -> None:
    root, _ = inputs
    storage = f"{root}/storage"
    done = command(
        "submit", "mrcelery.examples.word_count:WordCount", f"{root}/in", "-o", f"{root}/out", "--runner", "local",
        "--storage", storage, "--json", "--workers", "1", "-R", "2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    requests = report["totals"]["requests"]
    assert set(requests) <= {"GET", "PUT", "LIST", "DELETE"}
    assert requests["PUT"] > 2
    env = environment(MRCELERY_STORAGE=storage)
    status = json.loads(command("status", report["job"], "--json", env=env).stdout)
    assert status["requests"] == requests
    counters = json.loads(command("counters", report["job"], "--json", env=env).stdout)
    assert counters["S3 requests"] == requests
    assert f"S3 requests\n\tGET={requests['GET']}\n" in command("counters", report["job"], env=env).stdout
