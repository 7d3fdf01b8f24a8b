"""Each transition of a job is atomic: if a client dies or gets no answer, the job can still continue."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mrcelery.jobstore.redis import LIVE, RedisJobStore
from mrcelery.schema.task_id import TaskId
from tests.support.redis_relay import Relay, relay
from tests.support.services import RedisServer, command

FIELDS = {"name": "n", "created": "1000.0", "queue": "q"}
MARKED = {"step": "0", "stage": "map", "total.0.map": "2", "published.0.map": "1.0"}


@pytest.fixture
def line(server: RedisServer) -> Iterator[Relay]:
    with relay(server.port) as line:
        yield line


def queued(store: RedisJobStore) -> None:
    store.create("j", FIELDS, b"request")


def failed(store: RedisJobStore) -> None:
    queued(store)
    store.move("j", "running", MARKED)
    store.set_mark("j", "running.0.map", "0.1-a", "x")
    store.set_mark("j", "attempts.0.map", "1-a", "x")
    store.move("j", "failed", {"failure": "{}", "finished": "2"})


def nothing(store: RedisJobStore) -> None:
    pass


TRANSITIONS: dict[str, tuple[Callable[[RedisJobStore], None], Callable[[RedisJobStore], object]]] = {
    "create": (nothing, lambda store: store.create("j", FIELDS, b"request")),
    "cancel": (queued, lambda store: store.move("j", "cancelled", {"finished": "3"})),
    "succeed": (queued, lambda store: store.move("j", "succeeded", {"finished": "3"})),
    "retry": (failed, lambda store: store.revive("j")),
    "drop": (failed, lambda store: store.drop("j")),
}


TASK = TaskId("j", 0, "map", 1)
NOTE = ("attempts.0.map", "1.a", "x")

COUNTS: dict[str, Callable[[RedisJobStore], object]] = {
    "an attempt": lambda store: store.next_attempt(TASK, note=NOTE, add={"0.map.started": 1}),
    "an attempt without a note": lambda store: store.next_attempt(TASK),
    "an excuse": lambda store: store.excuse_attempt(TASK),
    "a mark": lambda store: store.set_mark("j", *NOTE, add={"0.map.failed": 1}),
    "a commit": lambda store: store.add_commit(TASK, b"commit", note=NOTE, add={"0.map.records_in": 5}),
}
"""Operations that count something."""


def seen(store: RedisJobStore) -> tuple[object, ...]:
    """Return all that Redis has of the job, and whether it is in the list of live jobs."""
    (live,) = store.call(("ZRANGE", LIVE, 0, -1))
    keys: list[bytes]
    (keys,) = store.call(("KEYS", "mrcelery:job:j*"))  # type: ignore[assignment]
    return store.fields("j"), live == [b"j"], sorted(key for key in keys if b":sent:" not in key)


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisJobStore]:
    store = RedisJobStore(server.tcp_url)
    yield store
    store.close()


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_client_killed_at_any_operation(name: str, line: Relay, store: RedisJobStore) -> None:
    """A client killed before or after Redis executes an operation leaves the job unchanged, or as it should be."""
    prepare, transition = TRANSITIONS[name]

    def fresh() -> tuple[object, ...]:
        store.call(("FLUSHALL",))
        prepare(store)
        return seen(store)

    before = fresh()
    transition(store)
    after = seen(store)
    assert before != after
    number = 0
    while True:
        outcomes = []
        for when in ("lose", "silence"):
            assert fresh() == before
            line.asked = 0
            pid = os.fork()
            if not pid:
                try:
                    transition(RedisJobStore(line.url))
                finally:
                    os._exit(0)

            def kill(asked: int, pid: int = pid, when: str = when, number: int = number) -> str:
                if asked != number:
                    return "pass"
                os.kill(pid, signal.SIGKILL)
                return when

            line.decide = kill
            _, status = os.waitpid(pid, 0)
            outcomes.append(os.WIFSIGNALED(status))
            assert seen(store) in (before, after), (number, when)
        if not any(outcomes):
            assert seen(store) == after
            return
        number += 1


@pytest.mark.parametrize("name", TRANSITIONS)
def test_an_answer_that_is_lost(name: str, line: Relay, store: RedisJobStore) -> None:
    """The connection repeats its request, and gets the answer to the first one."""
    prepare, transition = TRANSITIONS[name]
    prepare(store)
    expected = transition(store)
    after, totals = seen(store), store.totals()
    number = 0
    while True:
        store.call(("FLUSHALL",))
        prepare(store)
        through = RedisJobStore(line.url)
        line.decide = lambda asked: "pass"
        through.totals()  # connects; the server may have dropped an idle connection
        line.asked = 0
        line.decide = lambda asked, lost=number: "silence" if asked == lost else "pass"  # type: ignore[misc]
        assert transition(through) == expected
        through.close()
        assert seen(store) == after
        assert store.totals() == totals, "counted once"
        if line.asked <= number:
            return
        number += 1


def counted(store: RedisJobStore) -> tuple[object, ...]:
    return store.excused(TASK), store.done(TASK.stage), store.marks("j", NOTE[0]), store.sums("j"), store.totals()


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("before", [0, 1, 12])
def test_a_count_whose_answer_is_lost(name: str, before: int, line: Relay, store: RedisJobStore) -> None:
    """A repeated request counts once, and returns the number of the first one."""

    def prepare() -> None:
        store.call(("FLUSHALL",))
        queued(store)
        for _ in range(before):
            store.next_attempt(TASK, add={"0.map.started": 1})
            store.excuse_attempt(TASK)

    prepare()
    expected, after = COUNTS[name](store), counted(store)
    number = store.next_attempt(TASK)
    prepare()
    through = RedisJobStore(line.url)
    through.totals()  # connects; the server may have dropped an idle connection
    line.asked = 0
    line.decide = lambda asked: "silence" if asked == 0 else "pass"
    assert COUNTS[name](through) == expected
    assert line.asked == 2
    through.close()
    assert counted(store) == after
    assert store.next_attempt(TASK) == number


def test_a_count_of_an_earlier_version(store: RedisJobStore) -> None:
    queued(store)
    store.call(("HSET", "mrcelery:job:j:attempts", TASK.name, 3, f"{TASK.name}.excused", 2))
    store.excuse_attempt(TASK)
    assert (store.next_attempt(TASK), store.excused(TASK)) == (4, 3)


def test_a_clean_that_was_killed_before_it_dropped_the_job(
    server: RedisServer, store: RedisJobStore, tmp_path: Path
) -> None:
    failed(store)
    store.update("j", {"storage": str(tmp_path / "storage")})
    (tmp_path / "storage").mkdir()
    run = command("clean", "j", "--broker", server.tcp_url, "--storage", tmp_path / "storage")
    assert (run.returncode, store.fields("j")) == (0, {}), run.stderr
