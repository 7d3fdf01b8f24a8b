"""What an attempt leaves behind in its process and tells of itself; and whose records a runtime takes."""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt import output_capture
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.output_capture import Kept
from mrcelery.attempt.progress_file import last_progress, records_read
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.start import start
from mrcelery.errors import (
    ConfigError,
    CorruptDataError,
    StorageUnreachableError,
    TaskError,
    UnsignedError,
    UserCodeError,
)
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.inline import InlineRunner
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.task.bad_records import note_loss

KEY = "correct horse battery staple"


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[OpenJobs, str]]:
    """Makes a job that is submitted, and its runtime; nothing has run."""

    def submit(source: str, signing_key: str | None = None, text: str = "a\n", **options: Any) -> tuple[OpenJobs, str]:
        kept: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(InlineRunner, "submit", lambda self, *request: kept.append(request))
            (tmp_path / "job.py").write_text("import os, sys, logging\nfrom mrcelery import MRJob\n" + dedent(source))
            (tmp_path / "in.txt").write_text(text)
            mrcelery.submit(
                f"{tmp_path}/job.py", f"{tmp_path}/in.txt", runner="inline", storage=f"{tmp_path}/storage",
                signing_key=signing_key or "", **options,
            ).close()  # fmt: skip
        request, envelope, code, blobs = kept[0]
        store = MemoryJobStore()
        from mrcelery.runners.enter import enter

        enter(store, request, envelope, code, blobs)
        return OpenJobs(store, scratch=f"{tmp_path}/scratch", signing_key=signing_key), request.job

    return submit


def log_of(tmp_path: Path) -> str:
    (log,) = (o.key for o in open_storage(f"{tmp_path}/storage").list("jobs/") if "/log." in o.key)
    return open_storage(f"{tmp_path}/storage").read(log).decode()


def test_what_user_code_does_to_its_process_ends_with_the_attempt(
    submitted: Callable[..., tuple[OpenJobs, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "1")
    monkeypatch.setenv("CHANGED", "1")
    runtime, job = submitted(
        """
        class Job(MRJob):
            def mapper(self, _, line):
                os.environ["NEW"] = os.environ["CHANGED"] = "2"
                del os.environ["MINE"]
                os.chdir("/")
                logging.getLogger().setLevel("DEBUG")
                logging.getLogger().addHandler(logging.NullHandler())
                logging.debug("logged")
                print("printed")
                print("to stderr", file=sys.stderr)
                sys.stdout.buffer.write(b"bytes\\n")
                sys.stdout.close()
                yield line, 1
        """
    )
    root = logging.getLogger()
    before = dict(os.environ), os.getcwd(), list(sys.path), root.handlers[:], root.level, gc.isenabled()
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert before == (dict(os.environ), os.getcwd(), list(sys.path), root.handlers[:], root.level, gc.isenabled())
    log = log_of(tmp_path)
    assert all(text in log for text in ("logged", "printed\n", "to stderr\n", "bytes\n"))


def test_a_long_log_keeps_its_head_and_its_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_capture, "LOG_LIMIT", 100)
    kept = Kept()
    for number in range(1000):
        kept.write(b"%03d\n" % number)
        assert len(kept.kept()) < 200
    assert kept.kept().startswith(b"000\n001\n")
    assert kept.kept().endswith(b"998\n999\n")
    assert kept.kept().count(b"[...]") == 1
    short = Kept()
    for _ in range(37):
        short.write(b"abcd")
    assert short.kept() == b"abcd" * 37


def test_a_log_that_cannot_be_written_hides_no_error(
    submitted: Callable[..., tuple[OpenJobs, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, job = submitted(
        """
        class Job(MRJob):
            def mapper(self, _, line):
                print("printed")
                raise ValueError("the user's")
        """
    )
    start(runtime, job)
    storage = runtime.open(job).storage

    def full(key: str, data: bytes) -> None:
        raise StorageUnreachableError("no room")

    monkeypatch.setattr(storage, "write", full)
    with pytest.raises(UserCodeError, match="the user's"):
        run_attempt(runtime, TaskId(job, 0, "map", 0))


PLAIN = """
    class Job(MRJob):
        def mapper(self, _, line):
            yield line, 1
"""


WATCHED = """
    import glob, shutil

    class Job(MRJob):
        def mapper(self, _, line):
            self.copy(f"{line}-before")
            if line == "status":
                self.set_status("at it")
            self.copy(f"{line}-after")
            yield line, 1

        def copy(self, name):
            (mine,) = glob.glob(os.environ["SCRATCH"] + "/alive/*")
            shutil.copy(mine, os.environ["COPIES"] + "/" + name)
"""


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a job of :data:`WATCHED` puts its attempt's progress file as it stands before and after each record."""
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setenv("SCRATCH", f"{tmp_path}/scratch")
    monkeypatch.setenv("COPIES", str(folder))
    return folder


def test_an_attempt_that_reads_on_is_seen_to(
    submitted: Callable[..., tuple[OpenJobs, str]], copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 0.0)
    runtime, job = submitted(WATCHED, text="one\ntwo\n")
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert 0 < last_progress(f"{copies}/one-after") < last_progress(f"{copies}/two-before")
    assert (records_read(f"{copies}/one-after"), records_read(f"{copies}/two-before")) == (0, 2)
    assert os.listdir(copies.parent / "scratch" / "alive") == []


def test_a_status_says_that_a_slow_record_is_at_work(
    submitted: Callable[..., tuple[OpenJobs, str]], copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrcelery.attempt.heartbeat.POLL_SECONDS", 3600.0)  # so that nothing else touches the file
    runtime, job = submitted(WATCHED, text="silent\nstatus\n")
    start(runtime, job)
    run_attempt(runtime, TaskId(job, 0, "map", 0))
    silent, before, after = (
        last_progress(f"{copies}/{name}") for name in ("silent-after", "status-before", "status-after")
    )
    assert 0 < silent == before < after
    assert runtime.store.fields(job)["status"] == "at it"


def test_a_record_that_killed_its_process_twice_is_skipped_and_counted(
    submitted: Callable[..., tuple[OpenJobs, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, job = submitted(
        """
        class Job(MRJob):
            def mapper(self, _, line):
                if "FAIL" in os.environ:
                    raise MemoryError("as if by a crash")
                assert line != "killer"
                yield line, 1
        """,
        text="fine\nkiller\nfine too\n",
        max_bad_records=1,
    )
    start(runtime, job)
    task = TaskId(job, 0, "map", 0)
    with monkeypatch.context() as patch, pytest.raises(TaskError):
        patch.setenv("FAIL", "1")
        run_attempt(runtime, task)
    for _ in range(2):
        note_loss(runtime.store, task, "killed by signal 11", (1, 1))
    commit = run_attempt(runtime, task)
    assert (commit.bad_records, commit.records_in, commit.records_out) == (1, 3, 2)
    bad = open_storage(f"{tmp_path}/storage").read(commit.bad_key)
    assert b"killed its process twice: killed by signal 11" in bad


def test_a_full_disk_is_told_and_tried_again(
    submitted: Callable[..., tuple[OpenJobs, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, job = submitted(PLAIN)
    start(runtime, job)

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/spill-0")

    monkeypatch.setattr("mrcelery.attempt.run.run_map", full)
    with pytest.raises(TaskError, match=r"/scratch/spill-0: No space left on device: .*MRCELERY_SCRATCH") as raised:
        run_attempt(runtime, TaskId(job, 0, "map", 0))
    assert raised.value.retryable
    assert raised.value.attempt.startswith("1-")


def test_an_object_that_is_gone_is_named(submitted: Callable[..., tuple[OpenJobs, str]]) -> None:
    runtime, job = submitted(PLAIN)
    start(runtime, job)
    storage = runtime.open(job).storage
    storage.delete([object_keys.plan_page(job, 0, 0)])
    with pytest.raises(CorruptDataError, match=r"plan-00000\.json is gone"):
        run_attempt(runtime, TaskId(job, 0, "map", 0))


def test_a_signed_request_holds_for_its_own_job_only(submitted: Callable[..., tuple[OpenJobs, str]]) -> None:
    """Who may write to the job store must not make a job run again under another name."""
    runtime, job = submitted(PLAIN, KEY)
    fields = {**runtime.store.fields(job), "name": "other"}
    request = runtime.store.request(job)
    assert request is not None
    runtime.store.create("other", fields, request)
    with pytest.raises(UnsignedError, match="that of job job-"):
        start(runtime, "other")
    start(runtime, job)


def test_a_signed_spec_holds_for_its_own_job_only(submitted: Callable[..., tuple[OpenJobs, str]]) -> None:
    runtime, job = submitted(PLAIN, KEY)
    start(runtime, job)
    storage = runtime.open(job).storage
    storage.write(object_keys.spec("other"), storage.read(object_keys.spec(job)))
    runtime.store.create("other", runtime.store.fields(job), b"")
    with pytest.raises(UnsignedError, match="that of job job-"):
        runtime.open("other")


def test_the_default_scratch_folder_must_be_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can make a folder of that name in /tmp first, and would own what is unpacked in it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = Path(OpenJobs(MemoryJobStore()).scratch)
    assert scratch.parent == tmp_path
    assert scratch.stat().st_mode & 0o777 == 0o700
    OpenJobs(MemoryJobStore())
    scratch.chmod(0o777)
    with pytest.raises(ConfigError, match="not this user's alone"):
        OpenJobs(MemoryJobStore())
    scratch.rmdir()
    (tmp_path / "elsewhere").mkdir()
    scratch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="not this user's alone"):
        OpenJobs(MemoryJobStore())


@pytest.mark.parametrize("bad_records", [0, 5])
def test_an_error_about_input_that_is_no_text_can_be_told(tmp_path: Path, bad_records: int) -> None:
    job, text = tmp_path / "job.py", tmp_path / "text"
    source = """
        from mrcelery import MRJob

        class Odd(MRJob):
            def mapper(self, _, line):
                raise ValueError(f"odd: {line}")
    """
    job.write_text(dedent(source))
    text.write_bytes(b"b\xffd\n")
    with mrcelery.submit(str(job), str(text), runner="inline", max_bad_records=bad_records) as handle:
        if bad_records:
            handle.wait()
            return
        with pytest.raises(mrcelery.JobFailedError, match=r"^ValueError: odd: b\\udcffd$") as caught:
            handle.wait()
        assert r"b\udcffd" in caught.value.failure.traceback
