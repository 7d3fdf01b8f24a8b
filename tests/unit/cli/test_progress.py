"""What a waiting command shows without a terminal, and as JSON, for a job in a real job store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mrcelery import events
from mrcelery.cli import progress
from mrcelery.cli.progress import Display, see_through
from mrcelery.client.api import JobHandle
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting.overview import Overview, glance
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Failure
from mrcelery.schema.task_id import TaskId

STAGES = {"steps": '[["",true]]', "total.0.map": "2", "entered.0.map": "100.0", "created": "99.0", "started": "100.0"}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "POLL_SECONDS", 0.0)


@pytest.fixture
def handle() -> JobHandle:
    store = MemoryJobStore()
    store.create("j", {**STAGES, "name": "n", "queue": "q"}, b"")
    store.move("j", "running")
    return JobHandle("j", None, store=store)


def end(handle: JobHandle, state: Any, **fields: str) -> None:
    assert handle._store is not None
    handle._store.move("j", state, {"finished": "103.5", **fields})


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    told = capsys.readouterr()
    assert told.out == ""
    return told.err.splitlines()


def records(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    told = capsys.readouterr()
    assert told.err == ""
    return [json.loads(line) for line in told.out.splitlines()]


def test_lines(handle: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.poll(handle)
        display.event(events.NoWorkers(job="j", at=1.0, queue="q", seconds=6.0))
        display.poll(handle)
        assert lines(capsys)[:2] == ["mrcelery: job j: running", "mrcelery: step 0 map: 2 tasks"]
        end(handle, "failed", failure=encode(Failure(error="UserCodeError", message="m")).decode())
        display.end(handle.glance(), None, ["mrcelery retry j"])
    assert lines(capsys) == ["mrcelery: job j: failed in user code after 3.5 s; next: mrcelery retry j"]


def test_progress_is_a_line_every_ten_seconds(handle: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    assert handle._store is not None
    store = handle._store

    def seen(now: float) -> Overview:
        store.add_commit(TaskId("j", 0, "map", int(now)), b"", add={"0.map.succeeded": 1})
        found = glance(store, "j", now)
        assert found is not None
        return found

    with Display() as display:
        for second in range(25):
            display._show(seen(100.0 + second))
    told = [line for line in lines(capsys) if "tasks succeeded" in line]
    assert [line.partition(" of ")[0] for line in told] == [f"mrcelery: step 0 map: {n}" for n in (11, 21)]


def test_quiet_is_quiet(handle: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True) as display:
        display.poll(handle)
        display.event(events.NoWorkers(job="j", at=1.0, queue="q", seconds=6.0))
        assert not display.ends(True)
    assert capsys.readouterr() == ("", "")


def test_a_job_that_was_never_shown_says_nothing(
    handle: JobHandle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PLAIN_QUIET_SECONDS", 3600.0)
    with Display() as display:
        display.poll(handle)
        assert not display.ends(True)
    assert capsys.readouterr() == ("", "")


class EndsWhileSeen(JobHandle):
    """A job that fails between the client's poll for its end and the display's."""

    failed = Failure(error="UserCodeError", message="m", traceback="the user's traceback", record="'boom'")
    polls = 0

    def glance(self) -> Overview:
        self.polls += 1
        if self.polls == 2:  # until then, a running job is shown
            end(self, "failed", failure=encode(self.failed).decode())
        return super().glance()


@pytest.mark.parametrize("mode", ["live", "plain"])
def test_the_users_traceback_comes_before_how_the_job_ended(
    handle: JobHandle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_terminal", lambda: mode == "live")
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take the captured output for a terminal
    ends = EndsWhileSeen("j", None, store=handle._store)
    with Display() as display:
        assert see_through(ends, display, lambda _: ["mrcelery retry j"]) == 1
    assert ends.polls == 3
    text = capsys.readouterr().err
    assert "running" in text
    found = [text.index(words) for words in ("the user's traceback", "record 'boom'", "failed in user code")]
    assert found == sorted(found)


def test_json(handle: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(as_json=True) as display:
        display.poll(handle)
        display.event(events.NoWorkers(job="j", at=1.0, queue="q", seconds=6.0))
        end(handle, "cancelled")
        display.end(handle.glance(), None)
    told = records(capsys)
    assert [one["event"] for one in told] == ["submitted", "stage_started", "progress", "no_workers", "cancelled"]
    assert {one["v"] for one in told} == {1}
    assert {one["job"] for one in told} == {"j"}
    assert (told[-1]["state"], told[-1]["seconds"]) == ("cancelled", 3.5)


def test_quiet_json_is_the_last_event(handle: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    with Display(quiet=True, as_json=True) as display:
        display.poll(handle)
        display.event(events.NoWorkers(job="j", at=1.0, queue="q", seconds=6.0))
        end(handle, "cancelled")
        display.end(handle.glance(), None)
    assert [one["event"] for one in records(capsys)] == ["cancelled"]


def test_a_job_that_is_not_known_for_a_moment(handle: JobHandle, capsys: pytest.CaptureFixture[str]) -> None:
    assert handle._store is not None
    handle._store.drop("j")
    with Display() as display:
        display.poll(handle)
    assert capsys.readouterr() == ("", "")
