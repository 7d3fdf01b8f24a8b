"""The commit protocol: whatever attempts do and in whatever order, one counts and all return it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcelery.attempt.commit import commit, committed
from mrcelery.errors import CorruptDataError, VersionError
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import Commit, Part
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage

SEAL = JobSeal("wc-1")
NAMES = (f"memory://commit-{number}" for number in itertools.count())


def attempt(name: str, **changes: Any) -> Commit:
    values: dict[str, Any] = {
        "job": "wc-1",
        "step": 0,
        "kind": "map",
        "task": 7,
        "attempt": name,
        "counters": {"words": {"seen": 3}},
        "records_in": 1,
        "records_out": 1,
        "bytes_in": 5,
        "bytes_out": 10,
        "seconds": 0.25,
        "host": "here",
    }
    values.update(changes)
    task = TaskId(values["job"], values["step"], values["kind"], values["task"])
    return Commit(**{"parts": (Part(0, object_keys.part(task, 0, name), 10, 1, 4_000_000_000),), **values})


def test_the_first_attempt_wins_and_the_second_returns_it() -> None:
    storage = open_storage(next(NAMES))
    first, second = attempt("1-a"), attempt("2-b", counters={})
    assert committed(storage, TaskId("wc-1", 0, "map", 7), SEAL) is None
    assert commit(storage, first, SEAL) == first
    assert commit(storage, second, SEAL) == first
    assert commit(storage, first, SEAL) == first  # a repeat of the winner's own write
    assert committed(storage, TaskId("wc-1", 0, "map", 7), SEAL) == first
    assert [info.key for info in storage.list()] == ["jobs/wc-1/step-0/map-00007/commit.json"]


def test_tasks_do_not_meet() -> None:
    storage = open_storage(next(NAMES))
    own = [attempt("1-a"), attempt("1-b", task=8), attempt("1-c", step=1), attempt("1-d", kind="reduce")]
    own.append(attempt("1-e", job="wc-10"))
    assert [commit(storage, one, SEAL) for one in own] == own


class Lossy:
    """A storage whose conditional write reaches it, though its answer may be lost: then it is sent again."""

    def __init__(self, storage: Storage, lost: set[int]) -> None:
        self._storage = storage
        self._lost = lost
        self._writes = 0

    def create(self, key: str, data: bytes) -> bool:
        won = self._storage.create(key, data)
        self._writes += 1
        return self._storage.create(key, data) if self._writes in self._lost else won

    def read(self, key: str) -> bytes:
        return self._storage.read(key)


ROOT = object_keys.part(TaskId("wc-1", 0, "map", 7), 0, "")
names = st.text(max_size=5)
counters = st.dictionaries(names, st.dictionaries(names, st.integers(-5, 2**60)), max_size=3)
sizes = st.integers(0, 2**32 - 1)
parts = st.lists(
    st.builds(
        Part,
        st.integers(0, 99),
        st.text(max_size=20).map(lambda name: f"{ROOT}-{name}".replace("..", "")),
        sizes,
        sizes,
        sizes,
    ),
    max_size=5,
).map(tuple)
attempts = st.lists(
    st.builds(lambda counters, parts: {"counters": counters, "parts": parts}, counters, parts), min_size=1, max_size=6
)


@given(attempts=attempts, order=st.randoms(use_true_random=False), lost=st.sets(st.integers(1, 12)))
@settings(max_examples=50)
def test_any_attempts_in_any_order_agree(attempts: list[dict[str, Any]], order: Any, lost: set[int]) -> None:
    """Also where an answer was lost and the write repeated, and where an attempt commits twice."""
    memory = open_storage(next(NAMES))
    storage: Any = Lossy(memory, lost)
    mine = [attempt(f"{number}-x", **values) for number, values in enumerate(attempts)] * 2
    order.shuffle(mine)
    returned = [commit(storage, one, SEAL) for one in mine]
    assert returned == [mine[0]] * len(mine)
    assert committed(memory, TaskId("wc-1", 0, "map", 7), SEAL) == mine[0]


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_threads_that_race(where: str, tmp_path: Path) -> None:
    storage = open_storage(next(NAMES) if where == "memory" else str(tmp_path))
    for task in range(20):
        start = threading.Barrier(6)
        returned: list[Commit] = []

        def run(number: int) -> None:
            mine = attempt(f"{number}-x", task=task, seconds=float(number))  # noqa: B023
            start.wait()  # noqa: B023
            returned.append(commit(storage, mine, SEAL))  # noqa: B023

        threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = committed(storage, TaskId("wc-1", 0, "map", task), SEAL)
        assert winner is not None
        assert returned == [winner] * 6


def test_a_commit_that_is_damaged_or_of_another_version(tmp_path: Path) -> None:
    storage = open_storage(next(NAMES))
    key = object_keys.commit(TaskId("wc-1", 0, "map", 7))
    storage.write(key, encode(attempt("1-a"))[:-10])
    reads: tuple[Callable[[], object], ...] = (
        lambda: committed(storage, TaskId("wc-1", 0, "map", 7), SEAL),
        lambda: commit(storage, attempt("2-b"), SEAL),
    )
    for read in reads:
        with pytest.raises(CorruptDataError, match="is damaged"):
            read()
    storage.write(key, encode(attempt("1-a", v=2)))
    with pytest.raises(VersionError, match="has version 2"):
        committed(storage, TaskId("wc-1", 0, "map", 7), SEAL)
