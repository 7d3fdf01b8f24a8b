"""Inputs that change while real workers run a job, between its plan and the tasks that have yet to read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mrcelery
from mrcelery import JobHandle
from mrcelery.errors import JobFailedError
from mrcelery.storage import open_storage
from tests.support.services import GATED, Fleet, Gate, eventually
from tests.support.web_server import web_server

TASKS = 8
"""More than the fleet has processes: some read at once, and wait, the others come when the gate opens."""

AT_ONCE = 4


class Input:
    """A gate's input, somewhere, and other contents of the same length, which the mapper would take as well."""

    def __init__(self, folder: Path) -> None:
        self.gate = Gate(folder, TASKS)
        self.contents = self.gate.text.read_bytes()
        other = folder / "seem"
        other.mkdir()
        (other / "go").touch()
        self.other = self.contents.replace(b"/seen\n", b"/seem\n")
        assert len(self.other) == len(self.contents)
        self.uri = str(self.gate.text)
        self.put: Callable[[bytes], object] = self.gate.text.write_bytes

    def replace(self, data: bytes) -> None:
        """Give the file's name to another file."""
        new = self.gate.text.with_name("new")
        new.write_bytes(data)
        new.replace(self.gate.text)

    @contextmanager
    def started(self, fleet: Fleet, job: str) -> Iterator[JobHandle]:
        """A job of which some tasks have read their split and wait."""
        handle = mrcelery.submit(job, self.uri, **fleet.settings, split_size=self.gate.split_size, reducers=1)
        try:
            eventually(lambda: self.gate.starts() == AT_ONCE, "the first tasks have read their input")
            yield handle
        finally:
            self.gate.open()


@pytest.fixture(params=["rewritten", "replaced", "s3", "http"])
def changing(request: pytest.FixtureRequest, tmp_path: Path, bucket: str) -> Iterator[Input]:
    made = Input(tmp_path)
    if request.param == "replaced":
        made.put = made.replace
    elif request.param == "s3":
        key = os.urandom(6).hex()
        made.uri, made.put = f"s3://{bucket}/{key}", lambda data: open_storage(f"s3://{bucket}").write(key, data)
        made.put(made.contents)
    elif request.param == "http":
        with web_server(made.contents) as (root, web):
            made.uri, made.put = f"{root}/gate?token=secret", lambda data: setattr(web, "data", data)
            yield made
        return
    yield made


def test_other_contents_of_the_same_length(fleet: Fleet, job_file: Callable[..., str], changing: Input) -> None:
    job = job_file(GATED)
    with changing.started(fleet, job) as handle:
        changing.put(changing.other)
        changing.gate.open()
        with pytest.raises(JobFailedError) as caught:
            handle.wait(60)
    failure = caught.value.failure
    assert failure.error == "ChangedInputError"
    size = len(changing.contents)
    name = changing.uri.partition("?")[0]
    assert failure.message.startswith(f"job {handle.id}: input {name}")
    assert f"has changed since it was planned: it had {size} bytes" in failure.message
    assert f"and now has {size} bytes" in failure.message
    assert "submit the job again" in failure.message
    assert "secret" not in failure.message
    assert failure.file.startswith(name)
    assert "Traceback" not in str(caught.value)
    tried = [entry for entry in handle.overview().stages[0].attempts if entry.outcome == "failed"]
    assert len({entry.task for entry in tried}) == len(tried) <= AT_ONCE  # each once: another attempt would fail too
    again = mrcelery.submit(job, changing.uri, **fleet.settings, split_size=changing.gate.split_size, reducers=1)
    again.wait(60)
    assert list(again) == [("seen", TASKS)]


def test_a_log_that_grows_is_read_as_it_was_planned(fleet: Fleet, job_file: Callable[..., str], tmp_path: Path) -> None:
    log = Input(tmp_path)
    log.put(log.contents[:-1])  # its last line is being written
    with log.started(fleet, job_file(GATED)) as handle, log.gate.text.open("ab") as file:
        file.write(b"?\n" + log.other * 100)
        file.flush()
        log.gate.open()
        handle.wait(60)
    assert list(handle) == [("seen", TASKS)]
    assert handle.report().totals.bytes_in == len(log.contents) - 1


@pytest.mark.parametrize("size", [0, 1])
def test_a_log_that_was_emptied(fleet: Fleet, job_file: Callable[..., str], tmp_path: Path, size: int) -> None:
    log = Input(tmp_path)
    with log.started(fleet, job_file(GATED)) as handle:
        os.truncate(log.gate.text, size)
        log.gate.open()
        with pytest.raises(
            JobFailedError, match=f"has changed since it was planned: it had .*, and now has {size} bytes"
        ):
            handle.wait(60)
