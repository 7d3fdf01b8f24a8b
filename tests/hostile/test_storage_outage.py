"""Attempts that a storage outage ends do not count; only time limits how long a job waits for the storage."""

from __future__ import annotations

import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import events
from mrcelery.errors import JobFailedError, StorageOutageError
from mrcelery.storage import Storage, check, open_storage, s3_clients
from mrcelery.storage.claims import claim
from tests.support.s3_proxy import Asked, Fault, Log, proxy
from tests.support.services import GATED, Gate, RedisServer, eventually, workers

JobFile = Callable[..., str]
TEXT = "".join(f"a rose is a rose {number % 50}\n" for number in range(2000))
WORDS = Counter(TEXT.split())
QUEUE = "outage"
AWAY = 4.0
"""Seconds of an outage: longer than boto3's retries and a second try of a task can bridge."""

FAULTS = {
    "SlowDown": Fault(status=503, code="SlowDown"),
    "InternalError": Fault(status=500, code="InternalError"),
    "BadGateway": Fault(status=502, code="BadGateway"),
    "broken connections": Fault(drop=True),
}


@pytest.fixture(scope="module")
def log(bucket: str) -> Iterator[Log]:
    with proxy() as log:
        yield log


@pytest.fixture(scope="module", autouse=True)
def worker(log: Log, broker: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("workers")
    with workers(folder, broker.tcp_url, queue=QUEUE, AWS_MAX_ATTEMPTS="1", MRCELERY_VISIBILITY_TIMEOUT="5"):
        yield


@pytest.fixture
def root(log: Log, bucket: str) -> Iterator[str]:
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    open_storage(root).write("in.txt", TEXT.encode())
    check(open_storage(f"{root}/storage"))
    yield root
    log.fault = lambda asked: None


@pytest.fixture
def submit(broker: RedisServer, root: str) -> Callable[..., mrcelery.JobHandle]:
    def submit(job: str, inputs: Any = f"{root}/in.txt", output: str | None = f"{root}/out", **more: Any) -> Any:
        options = {"storage": f"{root}/storage", "reducers": 2, "split_size": 10_000, "max_attempts": 1, **more}
        return mrcelery.submit(
            job, inputs, output, runner="celery", broker=broker.tcp_url, queue=QUEUE, speculative=False, **options
        )

    return submit


class Outage:
    """Begins with the first request to a key with this ending, and lasts for ``seconds``."""

    def __init__(self, ending: str, fault: Fault, seconds: float) -> None:
        self.ending, self.fault, self.seconds = ending, fault, seconds
        self.began = 0.0
        self.met = 0
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Fault | None:
        with self._lock:
            if not self.began:
                if not asked.key.endswith(self.ending) or asked.method not in ("PUT", "GET", "HEAD"):
                    return None
                self.began = time.monotonic()
            if time.monotonic() - self.began > self.seconds:
                return None
            self.met += 1
            return self.fault


PHASES = {
    "planning": "/plan-00000.json",
    "map": "/map-00001/commit.json",
    "barrier": "/shuffle/00000.json",
    "reduce": "/reduce-00001/commit.json",
    "finish": "/report.json",
}


@pytest.mark.parametrize(("phase", "fault"), list(zip(PHASES, [*FAULTS, "SlowDown"], strict=True)))
def test_an_outage_longer_than_all_attempts(
    phase: str, fault: str, log: Log, submit: Callable[..., mrcelery.JobHandle], word_count: str
) -> None:
    """With one attempt allowed per task and an outage that ends several, the result is still exact."""
    outage = Outage(PHASES[phase], FAULTS[fault], AWAY)
    log.fault = outage
    told: list[events.Event] = []
    with submit(word_count) as handle:
        handle.wait(120, on_event=told.append)
        assert outage.met
        assert handle.counters()["text"] == {"lines": 2000, "words": len(WORDS)}
        assert dict(handle) == WORDS
        assert "TaskRetried" not in {type(event).__name__ for event in told}
        for event in told:
            if isinstance(event, events.StorageLost):
                assert event.patience == 600.0


def test_who_waits_is_told_what_is_awaited(
    log: Log, submit: Callable[..., mrcelery.JobHandle], word_count: str
) -> None:
    log.fault = Outage("/map-00001/commit.json", FAULTS["SlowDown"], 2 * AWAY)
    told: list[str] = []
    with submit(word_count) as handle:
        handle.wait(120, on_event=lambda event: told.append(str(event)))
    (lost,) = [line for line in told if line.startswith("storage not reachable for ")]
    assert "s: waiting, at most 600 s (step 0, map task" in lost
    assert "SlowDown" in lost


def test_patience_ends(log: Log, submit: Callable[..., mrcelery.JobHandle], word_count: str) -> None:
    """The job fails once its patience is over, whatever its attempts; `retry` resumes it."""
    log.fault = Outage("/map-00001/commit.json", FAULTS["SlowDown"], 1000.0)
    with submit(word_count, max_attempts=100, storage_patience=3.0) as handle:
        with pytest.raises(JobFailedError, match=r"did not recover within 3 s \(--storage-patience\)") as raised:
            handle.wait(120)
        assert raised.value.exit_code == 3
        log.fault = lambda asked: None
        handle.retry()
        handle.wait(120)
        assert dict(handle) == WORDS


def test_a_refusal_is_told_at_once(log: Log, submit: Callable[..., mrcelery.JobHandle], word_count: str) -> None:
    """Nothing is retried, since access rights do not change by themselves."""
    refused: list[str] = []

    def refuse(asked: Asked) -> Fault | None:
        if asked.method == "PUT" and asked.key.endswith("commit.json"):
            refused.append(asked.key)
            return Fault(403, "AccessDenied")
        return None

    log.fault = refuse
    told = pytest.raises(JobFailedError, match=r"access denied to s3://.* need s3:PutObject on this bucket")
    with submit(word_count, max_attempts=20) as handle, told:
        handle.wait(120)
    assert len(refused) == len(set(refused))


def test_a_job_that_is_cancelled_meanwhile(
    log: Log, submit: Callable[..., mrcelery.JobHandle], word_count: str
) -> None:
    """Its data is removed once the storage is back, however long that takes; then the job can be retried."""
    outage = Outage("/map-00001/commit.json", FAULTS["SlowDown"], 1000.0)
    log.fault = outage
    with submit(word_count) as handle:
        eventually(lambda: outage.met > 2, "tasks meet the outage")
        assert handle.cancel()
        assert handle.status().state == "cancelled"
        time.sleep(AWAY)
        log.fault = lambda asked: None
        eventually(lambda: "cleaned" in handle._store.fields(handle.id), "its data is removed")  # type: ignore[union-attr]
        handle.retry()
        handle.wait(120)
        assert dict(handle) == WORDS


def test_a_client_that_uploads_and_fetches(
    log: Log, submit: Callable[..., mrcelery.JobHandle], word_count: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("mrcelery.client.uploads.SMALL", 1)
    monkeypatch.setattr(s3_clients, "_clients", {})
    (tmp_path / "in.txt").write_text(TEXT)
    log.fault = Outage("in.txt", FAULTS["SlowDown"], AWAY)
    with submit(word_count, str(tmp_path / "in.txt"), str(tmp_path / "out")) as handle:
        assert re.search(r"storage not reachable for \d+ s: waiting, at most 600 s", caplog.text)
        log.fault = Outage("/output/part-00001", FAULTS["broken connections"], AWAY)
        handle.wait(120)
    assert (tmp_path / "out" / "_SUCCESS").exists()
    lines = [line for part in sorted((tmp_path / "out").glob("part-*")) for line in part.read_text().splitlines()]
    assert len(lines) == len(WORDS)


@pytest.mark.parametrize(
    "write",
    [lambda storage: storage.create("commit.json", b"{}"), lambda storage: claim(storage, "claims/1").take()],
    ids=["commit", "claim"],
)
def test_a_conditional_write_backs_off(
    log: Log, root: str, monkeypatch: pytest.MonkeyPatch, write: Callable[[Storage], Any]
) -> None:
    """S3 wants the loser of two concurrent writes to try again, but not 40 times a second."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3_clients, "_clients", {})
    monkeypatch.setattr("mrcelery.storage.s3.CONFLICTS", 6)
    log.fault = lambda asked: Fault(409, "ConditionalRequestConflict") if asked.method == "PUT" else None
    before, began = len(log.requests), time.monotonic()
    with pytest.raises(StorageOutageError, match="ConditionalRequestConflict"):
        write(open_storage(root))
    assert len(log.requests) - before == 7
    assert time.monotonic() - began > 0.05 * (2**6 - 1) / 2


def test_a_folder_that_is_not_mounted_for_a_while(
    submit: Callable[..., mrcelery.JobHandle], job_file: JobFile, tmp_path: Path
) -> None:
    """Nothing is written to the empty mount point, and earlier commits are found once it is mounted again."""
    storage, away = tmp_path / "storage", tmp_path / "away"
    gate = Gate(tmp_path, 3)
    with submit(
        job_file(GATED), str(gate.text), str(tmp_path / "out"), storage=str(storage), split_size=gate.split_size
    ) as handle:
        eventually(lambda: gate.starts() >= 2, "tasks run")
        storage.rename(away)
        storage.mkdir()  # the empty mount point
        gate.open()
        told: list[str] = []
        threading.Timer(2 * AWAY, lambda: away.rename(storage)).start()  # fails if the mount point is not empty
        handle.wait(120, on_event=lambda event: told.append(str(event)))
        assert any("is missing (mrcelery.json is gone): mount it again" in line for line in told)
        assert dict(handle) == {"seen": 3}
