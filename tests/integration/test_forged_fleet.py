"""With a secret, a worker acts upon nothing that somebody has altered in Redis or storage since it was written.

The first part of each job runs in this process, with the worker's own tasks. Then its object is altered, and a real
worker, which listens on the job's queue from then on, meets it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.jobstore.messages import start_message
from mrcelery.runners.enter import job_fields
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import unseal
from mrcelery.schema.structs import End, Losses, Request
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage
from tests.support.services import Quiet, RedisServer, workers
from tests.support.stepped_jobs import TWO_STEPS

KEY = "correct horse battery staple"
WORKER = "forged-0@here"
WORDS = "abcdefgh"


@pytest.fixture(scope="module")
def worker(broker: RedisServer, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("forged")
    with workers(folder, broker.tcp_url, queue="forged", concurrency=2, MRCELERY_SIGNING_KEY=KEY):
        yield


class Paused:
    """A job of two steps that has been brought to some point, with nobody who would take it further."""

    def __init__(self, quiet: Quiet, root: str, job: str, text: Path) -> None:
        self.quiet = quiet
        self.root = root
        self.output = f"{root}-out"
        text.write_text("".join(f"{word}\n" for word in WORDS))
        settings: dict[str, Any] = {**quiet.settings, "storage": root, "output": self.output}
        self.handle = mrcelery.submit(job, str(text), split_size=8, reducers=2, max_bad_records=5, **settings)
        self.id = self.handle.id
        self.storage: Storage = open_storage(root)
        quiet.take()
        quiet.run("mrcelery.start", job=self.id)

    def to(self, step: int, kind: str) -> None:
        """Run the tasks of all stages before this one, so that its own are on the queue."""
        for number, before in ((0, "map"), (0, "reduce"), (1, "map")):
            if (number, before) == (step, kind):
                return
            for task in range(2):
                self.quiet.run(f"mrcelery.{before}", job=self.id, step=number, task=task, attempt=0)
            self.quiet.take()
            then = "barrier" if before == "map" else "finish"
            self.quiet.run(f"mrcelery.{then}", job=self.id, step=number)

    def run(self, kind: str, task: int) -> None:
        self.quiet.run(f"mrcelery.{kind}", job=self.id, step=0, task=task, attempt=0)

    def go_on(self) -> None:
        """Have the worker take what is on the queue."""
        self.quiet.app.control.add_consumer(self.quiet.name, destination=[WORKER], reply=True, timeout=10)

    def close(self) -> None:
        self.quiet.app.control.cancel_consumer(self.quiet.name, destination=[WORKER], reply=True, timeout=10)
        self.handle.close()


@pytest.fixture(params=["folder", "s3"])
def paused(
    request: pytest.FixtureRequest,
    worker: None,
    quiet: Quiet,
    bucket: str,
    job_file: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Paused]:
    monkeypatch.setenv("MRCELERY_SIGNING_KEY", KEY)
    quiet.forget()
    root = f"{tmp_path}/storage" if request.param == "folder" else f"s3://{bucket}/{quiet.name}"
    job = Paused(quiet, root, job_file(TWO_STEPS), tmp_path / "in.txt")
    yield job
    job.close()
    quiet.forget()


def altered(data: bytes, root: str) -> bytes:
    """Change something in a record's body; on S3 its signature is taken off, too."""
    body, signature, _ = data.rpartition(b',"sig":"')
    assert signature
    found = re.sub(rb'(step-\d/\w+-)00000|(?<="bad_keys":\[)', rb"\g<1>00001" if b"step-" in body else b'"x"', body)
    assert found != body
    return found + (b"}" if root.startswith("s3:") else data[len(body) :])


def rewrite(job: Paused, key: str) -> str:
    job.storage.write(key, altered(job.storage.read(key), job.root))
    return key


def commit_in_redis(job: Paused) -> str:
    job.run("map", 0)
    where = f"mrcelery:job:{job.id}:done:0.map"
    (data,) = job.quiet.store.call(("HGET", where, 0))
    assert isinstance(data, bytes)
    forged = altered(zlib.decompress(data), job.root)
    job.quiet.store.call(("HSET", where, 0, zlib.compress(forged)))
    return object_keys.commit(TaskId(job.id, 0, "map", 0))


def commit_in_storage(job: Paused) -> str:
    """Its message is delivered again."""
    job.run("map", 0)
    return rewrite(job, object_keys.commit(TaskId(job.id, 0, "map", 0)))


def last_commit(job: Paused) -> str:
    job.to(0, "reduce")
    job.run("reduce", 0)
    job.quiet.store.call(("HSET", f"mrcelery:job:{job.id}:done:0.reduce", 0, b""))  # to be read from storage
    return rewrite(job, object_keys.commit(TaskId(job.id, 0, "reduce", 0)))


def shuffle_input(job: Paused) -> str:
    job.to(0, "reduce")
    return rewrite(job, object_keys.shuffle_input(job.id, 0, 1))


def plan_page(job: Paused) -> str:
    job.to(1, "map")
    return rewrite(job, object_keys.plan_page(job.id, 1, 0))


def number_of_tasks(job: Paused) -> str:
    job.to(1, "map")
    job.quiet.store.update(job.id, {"total.1.map": "1"})
    return f"step 1 of job {job.id} has 1 map tasks"


def summary(job: Paused) -> str:
    job.to(1, "map")
    stage = StageId(job.id, 0, "map")
    data = job.quiet.store.fields(job.id)[f"summary.{stage.name}"].encode()
    job.quiet.store.update(job.id, {f"summary.{stage.name}": altered(data, job.root).decode()})
    return object_keys.stage_summary(stage)


def end(job: Paused) -> str:
    key = object_keys.end(job.id, 0)
    job.storage.write(key, encode(End(job=job.id, generation=0, state="succeeded", finished=1.0)))
    return key


def report(job: Paused) -> str:
    """The job store loses the job, whose start finds its report."""
    key, store = object_keys.report(job.id), job.quiet.store
    job.run("map", 0)
    job.storage.write(key, b'{"v":1,"job":"j","name":"","state":"succeeded","counters":{},"totals":{},"started":1,'
                      b'"finished":2,"seconds":1,"output":"","parts":[]}')  # fmt: skip
    request = store.request(job.id)
    assert request is not None
    fields = job_fields(unseal(request, Request, KEY, "the request"))
    store.drop(job.id)
    job.quiet.take()
    store.create(job.id, fields, request)
    store.push(job.quiet.name, start_message(job.id, job.quiet.name, 0))
    return key


def losses(job: Paused) -> str:
    """Two deaths at each of its first records: they would be skipped."""
    task = TaskId(job.id, 0, "map", 0)
    job.quiet.store.next_attempt(task)
    deaths = tuple((record, 1) for record in (0, 0, 1, 1))
    job.quiet.store.put_blob(job.id, "losses.0.map.0", encode(Losses(reason="signal 9", deaths=deaths)))
    return object_keys.losses(task)


FORGERIES = (
    commit_in_redis, commit_in_storage, last_commit, shuffle_input, plan_page, number_of_tasks, summary, end, report,
    losses,
)  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_it_is_refused(paused: Paused, forge: Callable[[Paused], str]) -> None:
    where = forge(paused)
    paused.go_on()
    with pytest.raises(mrcelery.JobFailedError) as raised:
        paused.handle.wait(120)
    assert raised.value.failure.error == "UnsignedError"
    assert raised.value.exit_code == 1
    message = str(raised.value)
    assert where in message
    assert "submit the job again" in message
    assert "\n" not in message
    assert not [info.key for info in open_storage(paused.output).list() if not info.key.startswith("_PUBLISHING")]


def test_nothing_is_read_or_written_where_a_field_says_that_the_storage_is(paused: Paused, tmp_path: Path) -> None:
    """It is the one that the client has signed."""
    paused.quiet.store.update(paused.id, {"storage": f"{tmp_path}/elsewhere"})
    paused.go_on()
    paused.handle.wait(120)
    assert not (tmp_path / "elsewhere").exists()
    lines = b"".join(map(open_storage(paused.output).read, ("part-00000", "part-00001"))).splitlines()
    assert lines == [b'1\t["a","b","c","d","e","f","g","h"]']


def test_a_commit_in_redis_that_is_none_is_said_to_be_damaged(paused: Paused) -> None:
    paused.run("map", 0)
    paused.quiet.store.call(("HSET", f"mrcelery:job:{paused.id}:done:0.map", 0, b"garbage"))
    paused.go_on()
    with pytest.raises(mrcelery.JobFailedError, match="a commit in the job store is damaged") as raised:
        paused.handle.wait(120)
    assert raised.value.failure.error == "CorruptDataError"
    assert "\n" not in str(raised.value)
