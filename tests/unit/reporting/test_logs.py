"""The output of attempts: listed with their outcomes, and followed while they share it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mrcelery.attempt import heartbeat, output_capture
from mrcelery.attempt.output_capture import captured
from mrcelery.attempt.progress_file import ProgressFile
from mrcelery.jobstore import journal
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting.logs import Attempt, Follower, LogFilter, listed
from mrcelery.reporting.overview import StageView, overview
from mrcelery.schema import object_keys
from mrcelery.schema.states import Outcome
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.memory import MemoryStorage

JOB = "j"
ALL = LogFilter()
LIMIT = 1 << 15


@pytest.fixture
def store() -> MemoryJobStore:
    store = MemoryJobStore()
    store.create(JOB, {"steps": '[["",false]]', "total.0.map": "9", "entered.0.map": "1"}, b"")
    store.move(JOB, "running")
    return store


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(f"logs-{os.urandom(6).hex()}")


def begin(store: MemoryJobStore, task: int, token: str = "ab") -> str:
    """Begin an attempt that has reported that it runs; return its name."""
    name = f"{journal.begin(store, TaskId(JOB, 0, 'map', task), token, 'w 1')}-{token}"
    from mrcelery.jobstore import stage_marks

    stage_marks.report_running(store, TaskId(JOB, 0, "map", task), name, began=0.0, records=1, worker="w 1")
    return name


def end(store: MemoryJobStore, task: int, name: str, outcome: Outcome, error: str = "") -> None:
    journal.ended(store, TaskId(JOB, 0, "map", task), name, outcome, worker="w 1", seconds=1.0, error=error)


def key(task: int, name: str) -> str:
    return object_keys.log(TaskId(JOB, 0, "map", task), name)


def stages(store: MemoryJobStore) -> tuple[StageView, ...]:
    found = overview(store, JOB)
    assert found is not None
    return found.stages


def shown(store: MemoryJobStore, storage: MemoryStorage, wanted: LogFilter = ALL) -> list[tuple[int, str, str, bool]]:
    found = listed(storage, JOB, overview(store, JOB), wanted)
    return [(one.task, one.attempt, one.ending, key is not None) for one, key in found]


def test_a_listing_says_how_attempts_ended(store: MemoryJobStore, storage: MemoryStorage) -> None:
    names = [begin(store, task, token) for task, token in enumerate(("aa", "bb", "cc", "dd"))]
    for task in (0, 2):
        storage.write(key(task, names[task]), b"text\n")
    end(store, 0, names[0], "succeeded")
    journal.killed(store, TaskId(JOB, 0, "map", 1), "w 1", "signal 9")
    journal.killed(store, TaskId(JOB, 0, "map", 2), "w 1", "")
    end(store, 3, names[3], "failed", "ValueError: x")
    assert shown(store, storage) == [
        (0, "1-aa", "", True),
        (1, "bb", "its process died, and its last output was lost: signal 9", False),
        (2, "1-cc", "its process died, and its last output was lost: killed", True),
        (3, "1-dd", "failed: ValueError: x", False),
    ]
    assert [task for task, *_ in shown(store, storage, LogFilter(failed=True))] == [1, 2, 3]
    for attempt in ("1-cc", "cc"):
        assert [task for task, *_ in shown(store, storage, LogFilter(attempt=attempt))] == [2]
    assert [task for task, *_ in shown(store, storage, LogFilter(task=3))] == [3]
    assert shown(store, storage, LogFilter(kind="reduce")) == shown(store, storage, LogFilter(step=1)) == []
    # Even if nothing else is known of the job, its logs are listed.
    assert [(one.task, one.outcome) for one, _ in listed(storage, JOB, None, ALL)] == [(0, ""), (2, "")]


def test_what_is_shared_is_followed(store: MemoryJobStore, storage: MemoryStorage) -> None:
    follower = Follower(store, storage, JOB, ALL)

    def look() -> list[tuple[str, bytes]]:
        return [(one.attempt, new) for one, new in follower.read(stages(store), 5.0)]

    assert look() == []
    assert store.poll(TaskId(JOB, 0, "map", 0))[2]
    first, second = begin(store, 0, "aa"), begin(store, 1, "bb")
    storage.write(key(0, first), b"one\ntw")
    assert look() == [(first, b"one\n")]
    storage.write(key(0, first), b"one\ntwo\nthr")
    storage.write(key(1, second), b"other\n")
    assert look() == [(first, b"two\n"), (second, b"other\n")]
    assert look() == []
    storage.write(key(0, first), b"one\ntwo\nthree")
    end(store, 0, first, "succeeded")
    journal.killed(store, TaskId(JOB, 0, "map", 1), "w 1", "signal 9")
    assert look() == [
        (first, b"three"),
        (second, b"[its process died, and its last output was lost: signal 9]\n"),
    ]
    assert look() == []


def test_only_what_is_wanted_is_followed(store: MemoryJobStore, storage: MemoryStorage) -> None:
    for task in range(3):
        name = begin(store, task)
        storage.write(key(task, name), b"x\n")
        end(store, task, name, "succeeded" if task else "failed")
    for wanted, tasks in ((LogFilter(task=2), [2]), (LogFilter(failed=True), [0]), (LogFilter(kind="reduce"), [])):
        found = Follower(store, storage, JOB, wanted).read(stages(store), 1.0)
        assert sorted({one.task for one, _ in found}) == tasks


@pytest.mark.parametrize("lines", [20, 900])
def test_a_log_whose_middle_is_left_out_is_followed_on(
    store: MemoryJobStore, storage: MemoryStorage, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is printed between two reads, what is new at the end is shown, and nothing twice."""
    monkeypatch.setattr(output_capture, "LOG_LIMIT", LIMIT)
    name = begin(store, 0)
    follower, seen, number = Follower(store, storage, JOB, ALL), b"", 0
    kept = output_capture.Kept()
    while kept.written < 8 * LIMIT:
        for _ in range(lines):
            kept.write(b"line %09d of all that is printed\n" % number)
            number += 1
        storage.write(key(0, name), kept.kept())
        seen += b"".join(new for _, new in follower.read(stages(store), 1.0))
    printed = [int(line.split()[1]) for line in seen.splitlines() if line.startswith(b"line")]
    assert printed[-1] == number - 1
    assert len(set(printed)) == len(printed)
    # In steps that are small compared with the limit, nothing is missing.
    assert printed == sorted(printed)
    assert lines > 20 or printed == list(range(number))


@contextmanager
def attempt(store: MemoryJobStore, storage: MemoryStorage, path: str) -> Iterator[Callable[[], None]]:
    """Run an attempt that captures and polls as a real one does."""
    with captured(storage, "log") as log:
        yield heartbeat.poller(
            store,
            TaskId(JOB, 0, "map", 0),
            attempt="1-ab",
            worker="w 1",
            progress=ProgressFile(path),
            records=lambda: 0,
            share=log.share,
        )


def test_an_attempt_shares_only_while_it_is_followed(
    store: MemoryJobStore, storage: MemoryStorage, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(output_capture, "NEAR_SECONDS", 3600.0)
    with attempt(store, storage, f"{tmp_path}/mark") as poll:
        print("first")
        logging.getLogger("mine").warning("logged")
        poll()
        assert storage.stat("log") is None
        store.follow(JOB, 60.0)
        poll()
        text = storage.read("log")
        assert text.startswith(b"first\n")
        assert text.endswith(b"WARNING mine: logged\n")
        print("second")
        poll()
        assert storage.read("log") == text  # too soon after the last time
    assert storage.read("log") == text + b"second\n"


def test_names() -> None:
    one = Attempt(0, "map", 3, "2-a1b2c3")
    assert all(LogFilter(attempt=name).takes(one) for name in ("2-a1b2c3", "2", "a1b2c3"))
    assert not any(LogFilter(attempt=name).takes(one) for name in ("1", "3", "a1b2"))
