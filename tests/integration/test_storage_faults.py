"""Jobs survive faults of the storage within bounds, or fail with a message of one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import events
from mrcelery.errors import JobFailedError, StorageOutageError, StorageUnreachableError
from mrcelery.storage import check, open_storage
from tests.support.s3_proxy import Asked, Fault, Log, proxy

JobFile = Callable[..., str]
TEXT = "".join(f"a rose is a rose {number % 50}\n" for number in range(4000))
WORDS = Counter(TEXT.split())


@pytest.fixture
def log(bucket: str) -> Iterator[Log]:
    with proxy() as log:
        yield log


@pytest.fixture
def root(log: Log, bucket: str) -> str:
    root = f"s3://{bucket}/{os.urandom(4).hex()}"
    open_storage(root).write("in.txt", TEXT.encode())
    check(open_storage(f"{root}/storage"))
    return root


Decide = Callable[[Asked], Fault | None]


def some(share: int, fault: Fault, which: Callable[[Asked], bool] = lambda asked: True) -> Decide:
    """Make every ``share``-th request fail; a retry of the same request succeeds."""
    seen: Counter[tuple[str, str]] = Counter()
    met = [0]
    lock = threading.Lock()

    def decide(asked: Asked) -> Fault | None:
        if not which(asked):
            return None
        with lock:
            met[0] += 1
            seen[asked.method, asked.key] += 1
            return fault if met[0] % share == 0 and seen[asked.method, asked.key] % 2 == 1 else None

    return decide


def reads(asked: Asked) -> bool:
    return asked.billed == "GET" and asked.method == "GET"


FAULTS: dict[str, Decide] = {
    "internal errors": some(4, Fault(500, "InternalError")),
    "throttling": some(4, Fault(503, "SlowDown")),
    "gateway errors": some(4, Fault(502, "BadGateway")),
    "answers lost": some(5, Fault(reset=True), lambda asked: asked.method in ("GET", "PUT", "HEAD")),
    "bodies cut off": some(3, Fault(keep=0.5), reads),
    "slow reads": some(6, Fault(pieces=5, pause=0.02), reads),
    "wrong bits": some(3, Fault(flip=True), lambda asked: reads(asked) and "/part-" in asked.key),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_job_gets_over_it(name: str, log: Log, root: str, word_count: str) -> None:
    log.fault = FAULTS[name]
    with mrcelery.submit(
        word_count, f"{root}/in.txt", f"{root}/out", runner="local", workers=2, storage=f"{root}/storage",
        reducers=3, split_size=20_000,
    ) as handle:  # fmt: skip
        handle.wait(120)
        assert handle.counters()["text"] == {"lines": 4000, "words": len(WORDS)}
        log.fault = lambda asked: None
        assert dict(handle) == WORDS


def submitted(root: str, job: str, **options: Any) -> mrcelery.JobHandle:
    return mrcelery.submit(
        job, f"{root}/in.txt", f"{root}/out", runner="local", workers=2, storage=f"{root}/storage", reducers=2,
        split_size=20_000, **options,
    )  # fmt: skip


def test_credentials_that_expire_in_mid_job(log: Log, root: str, word_count: str) -> None:
    """The job fails soon, with a message that says what to renew."""
    expired = Fault(403, "ExpiredToken")
    done = threading.Event()

    def after_a_commit(asked: Asked) -> Fault | None:
        if done.is_set():
            return expired
        if asked.method == "PUT" and asked.key.endswith("map-00000/commit.json"):
            done.set()
        return None

    log.fault = after_a_commit
    with submitted(root, word_count, max_attempts=2) as handle:
        with pytest.raises(JobFailedError, match=r"the AWS credentials in use .* have expired: log in again") as raised:
            handle.wait(120)
        log.fault = lambda asked: None
    assert raised.value.exit_code == 3
    assert "Traceback" not in str(raised.value)


def test_a_part_that_stays_damaged_is_made_again(log: Log, root: str, word_count: str) -> None:
    """A part that was written damaged stays damaged; the map task runs again and writes a new object."""
    first = threading.Lock()
    bad: set[str] = set()

    def damage(asked: Asked) -> Fault | None:
        if reads(asked) and "/map-" in asked.key and "/part-" in asked.key:
            with first:
                if len(bad) < 2:
                    bad.add(asked.key)
            if asked.key in bad:
                return Fault(flip=True)
        return None

    log.fault = damage
    with submitted(root, word_count) as handle:
        handle.wait(120)
        assert handle.counters()["text"] == {"lines": 4000, "words": len(WORDS)}
        assert dict(handle) == WORDS
    assert len(bad) == 2


def test_an_endpoint_that_is_silent_now_and_then(
    log: Log, root: str, word_count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job succeeds although some requests are never answered, and some bodies stop halfway."""
    monkeypatch.setenv("MRCELERY_STORAGE_TIMEOUT", "1")
    silent, stalled = some(20, Fault(silent=True)), some(4, Fault(silent=True, keep=0.5), reads)
    log.fault = lambda asked: stalled(asked) if reads(asked) else silent(asked)
    with submitted(root, word_count) as handle:
        handle.wait(120)
        log.fault = lambda asked: None
        assert dict(handle) == WORDS


@pytest.mark.parametrize("fault", [Fault(silent=True, keep=0.5), Fault(keep=0.5)], ids=["silent", "broken off"])
def test_a_reply_that_stops_in_the_midst_of_what_is_not_an_object(
    fault: Fault, log: Log, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the reply to a listing or an error reply breaks off, an outage is reported, not a library's exception."""
    monkeypatch.setenv("MRCELERY_STORAGE_TIMEOUT", "1")
    storage = open_storage(root)
    log.fault = lambda asked: fault
    with pytest.raises(StorageOutageError):
        list(storage.list())
    # The head of the reply may already say that the object is missing.
    with pytest.raises((StorageOutageError, FileNotFoundError)):
        storage.read("missing")


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_an_endpoint_that_falls_silent(
    keep: float, log: Log, root: str, word_count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job fails in bounded time and says why; `retry` resumes it once the endpoint answers again."""
    monkeypatch.setenv("MRCELERY_STORAGE_TIMEOUT", "1")
    log.fault = lambda asked: Fault(silent=True, keep=keep) if reads(asked) and asked.key.endswith("in.txt") else None
    with submitted(root, word_count, storage_patience=15.0) as handle:
        told: list[events.Event] = []
        with pytest.raises(JobFailedError, match=r"breaking off at byte|cannot be reached") as raised:
            handle.wait(120, on_event=told.append)
        assert raised.value.exit_code == 3
        assert {event.kind for event in told if isinstance(event, events.StorageLost)} == {"map"}
        log.fault = lambda asked: None
        handle.retry()
        handle.wait(120)
        assert dict(handle) == WORDS


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk of our own takes root on Linux")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_no_room_in_a_storage_folder(small_disk: Path) -> None:
    storage = open_storage(str(small_disk))
    with (
        pytest.raises(StorageUnreachableError, match=r"No space left on device: make room"),
        storage.writer("a") as out,
    ):
        for _ in range(5):
            out.write(bytes(1 << 20))
    assert list(storage.list()) == []
    with pytest.raises(StorageUnreachableError, match=r"No space left on device: make room"):
        storage.write("a", bytes(5 << 20))
    assert list(small_disk.iterdir()) == []


def test_no_room_for_spills(small_disk: Path, job_file: JobFile, tmp_path: Path) -> None:
    job = job_file(
        """
        from mrcelery import MRJob

        class Spills(MRJob):
            def mapper(self, _, line):
                for number in range(1000):
                    yield f"{line}-{number:050}", number

            def reducer(self, key, values):
                yield key, sum(values)
        """
    )
    text = tmp_path / "in.txt"
    text.write_text("".join(f"{number}\n" for number in range(400)))
    code = (
        "import mrcelery, sys\n"
        "mrcelery.run(sys.argv[1], sys.argv[2], runner='inline', storage=sys.argv[3], memory=8 << 20)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, job, str(text), str(tmp_path / "storage")],
        capture_output=True, text=True, env={**os.environ, "TMPDIR": str(small_disk)},
    )  # fmt: skip
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert "No space left on device: make room on the worker, or set MRCELERY_SCRATCH" in last
