"""run, submit and JobHandle: over the inline runner, and over a job store whose state the test sets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import MRJob
from mrcelery.client.api import JobHandle, StageStatus, attach
from mrcelery.client.handle import Delivery
from mrcelery.client.submission import Submission, job_id
from mrcelery.errors import (
    ConfigError,
    InputError,
    JobCancelledError,
    JobFailedError,
    OutputExistsError,
    UsageError,
    WaitTimeoutError,
)
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.protocols import ReprProtocol
from mrcelery.reporting.report import Report
from mrcelery.reporting.status import JobStatus
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Commit, Failure, StageSummary, Totals
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.storage import open_storage

TEXT = "to be or not to be\nthat is the question\n"


class WordCount(MRJob):
    def mapper(self, _: None, line: str) -> Any:
        for word in line.split():
            self.increment_counter("words", "seen")
            yield word, 1

    def reducer(self, word: str, counts: Any) -> Any:
        yield word, sum(counts)


class Repr(WordCount):
    OUTPUT_PROTOCOL = ReprProtocol

    def reducer(self, word: str, counts: Any) -> Any:
        yield (word,), {sum(counts)}


class Broken(MRJob):
    def mapper(self, _: None, line: str) -> Any:
        raise ValueError(f"cannot take {line[:5]}")
        yield


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the test's own."""
    for name in ("MRCELERY_BROKER", "CELERY_BROKER_URL", "MRCELERY_STORAGE", "MRCELERY_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text(TEXT)


def inline(job: type[MRJob] | str, output: str | None = None, **options: Any) -> JobHandle:
    return mrcelery.run(job, "in.txt", output, runner="inline", **options)


def test_results() -> None:
    with inline(WordCount) as job:
        assert dict(job.results()) == Counter(TEXT.split())
        assert dict(job) == dict(job.results())
        assert sorted(job.output_lines())[0] == b'"be"\t2'
        assert job.counters() == {"words": {"seen": 10}}
        status = job.status()
        assert (status.state, status.name, job.failure()) == ("succeeded", "WordCount", None)
        assert status.stages == (StageStatus(0, "map", 1, 1), StageStatus(0, "reduce", 1, 1))
        assert job.report().totals.records_in == 2


def test_many_reducers_and_several_inputs(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(TEXT)
    inputs = ["in.txt", "more.txt"]
    with mrcelery.run(WordCount, inputs, runner="inline", reducers=4, split_size="8B") as job:
        assert dict(job) == Counter((TEXT * 2).split())
        assert len(job.report().parts) == 4


@pytest.mark.parametrize("spec", ["{}/wc.py", "{}/wc.py:Count"])
def test_a_job_by_its_file(tmp_path: Path, spec: str) -> None:
    (tmp_path / "wc.py").write_text(
        "from mrcelery import MRJob\nclass Count(MRJob):\n"
        "    def mapper(self, _, line):\n        yield None, len(line)\n"
    )
    with inline(spec.format(tmp_path)) as job:
        assert sorted(job) == [(None, 18), (None, 20)]


def test_arguments_reach_the_job(tmp_path: Path) -> None:
    (tmp_path / "arg.py").write_text(
        "from mrcelery import MRJob\nclass Arg(MRJob):\n"
        "    def configure_args(self):\n        super().configure_args()\n"
        "        self.add_passthru_arg('--sign', default='+')\n"
        "    def mapper(self, _, line):\n        yield None, self.options.sign\n"
    )
    with inline("arg.py", args=["--sign=-x"]) as job:
        assert [value for _, value in job] == ["-x", "-x"]
    with pytest.raises(UsageError, match="--sing"):
        inline("arg.py", args=["--sing", "x"])


def test_a_protocol_reads_its_own_results() -> None:
    with inline(Repr) as job:
        assert dict(job) == {(word,): {n} for word, n in Counter(TEXT.split()).items()}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"output_format": "text"}, (None, "be\t2")),
        ({"compress": "gzip"}, ("be", 2)),
        ({"compress": "zstd"}, ("be", 2)),
    ],
)
def test_other_outputs(options: dict[str, str], line: tuple[Any, Any]) -> None:
    with inline(WordCount, **options) as job:
        assert min(job) == line


def test_an_output_folder(tmp_path: Path) -> None:
    with inline(WordCount, "out") as job:
        assert dict(job) == Counter(TEXT.split())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["_SUCCESS", "part-00000"]
    with pytest.raises(OutputExistsError):
        inline(WordCount, "out")
    inline(WordCount, "out", overwrite=True).close()


def test_fetch(tmp_path: Path) -> None:
    with inline(WordCount) as job:
        job.fetch("home")
        assert (tmp_path / "home" / "part-00000").read_bytes() == b"".join(job.output())
        with pytest.raises(OutputExistsError):
            job.fetch("home")


def test_the_users_error() -> None:
    with pytest.raises(JobFailedError) as caught:
        inline(Broken)
    failure = caught.value.failure
    assert "cannot take to be" in str(caught.value)
    assert "cannot take" in failure.traceback
    assert str(Path(mrcelery.__file__).parent) not in failure.traceback
    assert (failure.offset, Path(failure.file).name, caught.value.exit_code) == (0, "in.txt", 1)


def test_a_failed_job_has_no_results() -> None:
    with mrcelery.submit(Broken, "in.txt", runner="inline") as job:
        assert job.status().state == "failed"
        assert "cannot take" in job.status().message
        with pytest.raises(JobFailedError):
            job.results()


def test_data_of_a_storage_outlives_its_runner(tmp_path: Path) -> None:
    with inline(WordCount, storage="store") as job:
        name = job.id
    with attach(name, storage="store") as later:
        assert dict(later) == Counter(TEXT.split())
        assert (later.status().state, later.counters()) == ("succeeded", {"words": {"seen": 10}})
        with pytest.raises(ConfigError, match="--broker"):
            later.cancel()
    with attach("other-job", storage="store") as other, pytest.raises(UsageError, match="not known"):
        other.status()


def test_temporary_data_goes_with_the_handle() -> None:
    job = inline(WordCount)
    folder = Path(job.runner.storage) if job.runner else Path()
    assert folder.is_dir()
    job.close()
    assert not folder.exists()


def test_what_is_wrong_is_said_before_anything_starts() -> None:
    wrong: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (InputError, "nope", lambda: mrcelery.submit(WordCount, "nope.txt", runner="inline")),
        (UsageError, "no input", lambda: mrcelery.submit(WordCount, [], runner="inline")),
        (ConfigError, "reducerz.*did you mean 'reducers'", lambda: inline(WordCount, reducerz=3)),
        (ConfigError, "runner.*spark", lambda: mrcelery.submit(WordCount, "in.txt", runner="spark")),
        (ConfigError, "needs a broker", lambda: mrcelery.submit(WordCount, "in.txt", runner="celery")),
        (ConfigError, "needs a storage", lambda: mrcelery.submit(WordCount, "in.txt", broker="redis://h")),
        (UsageError, "output format", lambda: inline(WordCount, output_format="xml")),
        (ConfigError, "no fleet", lambda: attach("job")),
    ]
    for error, match, call in wrong:
        with pytest.raises(error, match=match):
            call()


def test_a_broker_means_a_fleet() -> None:
    options: dict[str, Any] = {"broker": "redis://host", "storage": "s3://bucket/x"}
    assert Submission.prepare(WordCount, "in.txt", **options).runner == "celery"
    assert Submission.prepare(WordCount, "in.txt", runner="local", **options).runner == "local"
    assert Submission.prepare(WordCount, "in.txt").runner == "local"
    assert Submission.prepare(WordCount, "in.txt", "out", **options).brings_home
    assert not Submission.prepare(WordCount, "in.txt", "s3://bucket/out", **options).brings_home
    assert not Submission.prepare(WordCount, "in.txt", "out", broker="redis://host", storage="shared").brings_home


def test_a_flag_wins_over_the_class_and_the_class_over_the_files(tmp_path: Path) -> None:
    class Json(WordCount):
        INPUT = "jsonl"
        JOBCONF = {"mapreduce.job.reduces": "5"}

    (tmp_path / "mrcelery.toml").write_text('input_format = "whole-file"\n')
    assert Submission.prepare(Json, "in.txt").options.input_format == "jsonl"
    assert Submission.prepare(WordCount, "in.txt").options.input_format == "whole-file"
    assert Submission.prepare(Json, "in.txt", input_format="text").options.input_format == "text"
    for expected, options in ((5, {}), (3, {"jobconf": {"mapreduce.job.reduces": "3"}}), (2, {"reducers": 2})):
        assert Submission.prepare(Json, "in.txt", **options).steps[0].reducers == expected


def test_the_plan_is_priced_without_running() -> None:
    plan = Submission.prepare(WordCount, "in.txt", split_size="10", reducers=3).plan()
    assert (plan.inputs.files, plan.inputs.bytes, plan.inputs.splits, plan.reducers) == (1, len(TEXT), 4, (3,))
    assert plan.cost.dollars == 0
    on_s3 = Submission.prepare(WordCount, "in.txt", storage="s3://bucket/x", runner="local").plan()
    assert on_s3.cost.requests["PUT"] > 0


def test_job_ids() -> None:
    assert job_id("Word Count!").rsplit("-", 3)[0] == "word-count"
    assert job_id("") != job_id("")
    assert job_id("A", "token") == job_id("A", "token") != job_id("A", "other")


class Known:
    """A runner over a job store that a test fills: no tasks run."""

    patience = 0.0

    def __init__(self, storage: str) -> None:
        self.store = MemoryJobStore()
        self.storage = storage
        self.closed = 0
        self.store.create("job-1", {"name": "Job", "storage": storage, "created": "5.0"}, b"")

    def submit(self, *args: object) -> None:
        raise NotImplementedError

    def start(self, job: str, queue: str, run: int = 0) -> None:
        pass

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        return False

    def check(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def known(request: pytest.FixtureRequest) -> Known:
    return Known(f"memory://api-{request.node.name}")


def commit(task: int, **counters: int) -> bytes:
    return encode(
        Commit(
            job="job-1",
            step=0,
            kind="map",
            task=task,
            attempt="1",
            parts=(),
            counters={"g": counters},
            records_in=0,
            records_out=0,
            bytes_in=0,
            bytes_out=0,
            seconds=0.0,
            host="",
        )
    )


def test_progress_and_counters_of_a_running_job(known: Known) -> None:
    job = JobHandle("job-1", known)
    assert (job.status().state, job.status().stages, job.counters()) == ("queued", (), {})
    fields = {"step": "0", "stage": "map", "total.0.map": "3", "started": "6.0", "status": "at line 7"}
    known.store.move("job-1", "running", fields)
    known.store.add_commit(TaskId("job-1", 0, "map", 2), commit(2, n=2, other=1))
    known.store.add_commit(TaskId("job-1", 0, "map", 0), commit(0, n=5))
    status = job.status()
    assert status.stages == (StageStatus(0, "map", 2, 3),)
    assert (status.started, status.message, status.storage) == (6.0, "at line 7", known.storage)
    assert job.counters() == {"g": {"n": 7, "other": 1}}

    summary = encode(StageSummary(counters={"g": {"n": 9}}, totals=Totals())).decode()
    known.store.move("job-1", "running", {"stage": "reduce", "total.0.reduce": "2", "summary.0.map": summary})
    known.store.forget_stage(StageId("job-1", 0, "map"))
    assert job.status().stages == (StageStatus(0, "map", 3, 3), StageStatus(0, "reduce", 0, 2))
    assert job.counters() == {"g": {"n": 9}}


def test_waiting(known: Known) -> None:
    job = JobHandle("job-1", known)
    seen: list[JobStatus] = []
    with pytest.raises(WaitTimeoutError, match="still queued"):
        job.wait(0.03, seen.append)
    assert seen[0].state == "queued"
    with pytest.raises(UsageError, match="is queued: wait"):
        job.results()
    assert job.cancel()
    assert not job.cancel()
    with pytest.raises(JobCancelledError):
        job.wait()


def test_a_short_job_is_seen_to_end_soon_and_a_long_one_costs_little(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of the test's own."""
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append((now[0], seconds))
        now[0] += seconds

    monkeypatch.setattr("mrcelery.client.handle.time.monotonic", lambda: now[0])
    monkeypatch.setattr("mrcelery.client.handle.time.sleep", sleep)
    with pytest.raises(WaitTimeoutError):
        JobHandle("job-1", known).wait(60.0)
    assert all(pause <= max(0.005, began / 50) + 1e-9 for began, pause in pauses)
    assert max(pause for _, pause in pauses) == 0.2
    assert len(pauses) < 700


def test_a_wait_sees_the_cluster_die(known: Known) -> None:
    def check() -> None:
        raise RuntimeError("died")

    known.check = check  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="died"):
        JobHandle("job-1", known).wait(60)


def test_a_failure_keeps_its_exit_code(known: Known) -> None:
    failure = Failure(error="StorageUnreachableError", message="gone", exit_code=3)
    known.store.move("job-1", "failed", {"failure": encode(failure).decode()})
    with pytest.raises(JobFailedError) as caught:
        JobHandle("job-1", known).wait()
    assert (caught.value.exit_code, str(caught.value)) == (3, "gone")


def test_success_brings_the_output_home(known: Known, tmp_path: Path) -> None:
    storage = open_storage(known.storage)
    report = Report(
        job="job-1",
        name="Job",
        state="succeeded",
        counters={},
        totals=Totals(),
        started=1.0,
        finished=time.time(),
        seconds=1.0,
        output="",
        parts=("part-00000",),
    )
    storage.write(object_keys.output("job-1") + "part-00000", b'"a"\t1\n')
    storage.write(object_keys.report("job-1"), encode(report))
    known.store.move("job-1", "succeeded")
    job = JobHandle("job-1", known, delivery=Delivery(folder=str(tmp_path / "home")))
    assert job.wait().state == "succeeded"
    assert (tmp_path / "home" / "part-00000").read_bytes() == b'"a"\t1\n'
    assert (tmp_path / "home" / "_SUCCESS").read_bytes() == encode(report)

    known.store.put_blob("job-1", "results", b'"small"\t2\n')
    assert list(JobHandle("job-1", known).output_lines()) == [b'"small"\t2']


def test_a_handle_closes_its_runner_once(known: Known) -> None:
    with JobHandle("job-1", known) as job:
        job.close()
    assert known.closed == 1
    job = JobHandle("job-1", known)
    del job
    assert known.closed == 2


def test_paths_are_addresses_too(tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    expected = dict(inline(WordCount).results())
    with mrcelery.run(WordCount, Path("in.txt"), out, runner="inline", storage=store) as handle:
        assert dict(handle.results()) == expected
        handle.fetch(tmp_path / "home")
    assert (out / "_SUCCESS").exists()
    assert (tmp_path / "home/_SUCCESS").exists()
    assert (store / "jobs").is_dir()
    with mrcelery.run(WordCount, [Path("in.txt"), "in.txt"], runner="inline") as handle:
        assert dict(handle.results())["to"] == 2 * expected["to"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"inputs": ""}, "an INPUT is empty"),
        ({"inputs": ["in.txt", ""]}, "an INPUT is empty"),
        ({"inputs": 3}, "inputs are 3"),
        ({"inputs": [3]}, "input 3 is no address"),
        ({"output": ""}, "OUTPUT .* is empty"),
        ({"output": "gs://b/o"}, "Google Cloud Storage"),
        ({"output": Path("s3://b/o")}, "give it as text"),
        ({"storage": ""}, "--storage is empty"),
        ({"storage": "hdfs://n/x"}, "HDFS"),
    ],
)
def test_wrong_addresses_are_refused_before_anything_runs(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        mrcelery.submit(WordCount, **{"inputs": "in.txt", "runner": "inline", **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt"]


def test_no_job_has_an_empty_id(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the job id is empty"):
        attach("", storage=str(tmp_path))


def test_a_memory_serves_no_other_process() -> None:
    for options in ({"storage": "memory://m"}, {"output": "memory://m"}):
        with pytest.raises(ConfigError, match="cannot serve the local runner"):
            mrcelery.submit(WordCount, "in.txt", runner="local", **options)  # type: ignore[arg-type]
