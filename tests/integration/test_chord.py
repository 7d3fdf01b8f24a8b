"""The barrier is a Celery chord: which messages are queued before a worker takes them, and what they lead to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.coordinator.stages import StageTasks
from mrcelery.errors import TaskError
from mrcelery.jobstore.messages import start_message
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Commit, Kind, StageSummary
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.worker import tasks as executor_tasks
from tests.support.services import Fleet, Quiet, eventually, files_under, results

JobFile = Callable[..., str]
COUNTS = {"a": 3, "rose": 3, "is": 2}


def test_what_is_published(quiet: Quiet, word_count: str, tmp_path: Path) -> None:
    """``start`` publishes M map messages that name their chord, which then publishes R reduce messages."""
    text = tmp_path / "text.txt"
    text.write_text("a rose is\n" * 5)
    with mrcelery.submit(word_count, str(text), reducers=2, split_size=10, **quiet.settings) as handle:
        job = handle.id
        ((headers, body),) = quiet.messages()
        assert (headers["task"], headers["id"]) == ("mrcelery.start", f"{job}.start")
        assert body[:2] == [[], {"job": job}]
        quiet.take()

        quiet.run("mrcelery.start", job=job)
        messages = quiet.messages()
        check_header(messages, job, "map", 5, "mrcelery.barrier")
        size = quiet.app.backend.get_key_for_group(f"{job}.0.map", ".s")
        assert quiet.store.call(("GET", size)) == [b"5"]

        with quiet.workers():
            handle.wait()
        assert results(handle) == {"a": 5, "rose": 5, "is": 5}
        assert quiet.messages() == []
        assert quiet.store.call(("EXISTS", size)) == [0]  # the chord counted to its end


def check_header(messages: Any, job: str, kind: str, tasks: int, body_task: str) -> None:
    assert len(messages) == tasks
    for number, (headers, (args, kwargs, embedded)) in enumerate(messages):
        assert headers["task"] == f"mrcelery.{kind}"
        assert headers["id"] == f"{job}.0.{kind}.{number}.0"
        assert headers["group"] == f"{job}.0.{kind}"
        assert headers["group_index"] == number
        assert headers["root_id"] == job
        assert headers["ignore_result"] is True
        assert args == []
        assert kwargs == {"job": job, "step": 0, "task": number, "attempt": 0}
        assert headers["kwargsrepr"] == repr(kwargs)
        chord = embedded["chord"]
        assert chord["task"] == body_task
        assert chord["kwargs"] == {"job": job, "step": 0}
        assert chord["immutable"] is True


def test_the_reduce_stage_is_a_chord_too(quiet: Quiet, fleet: Fleet, word_count: str, text: Path) -> None:
    """Run the barrier of a finished map stage in this process: the messages that it publishes are a chord."""
    with mrcelery.submit(word_count, str(text), reducers=3, **quiet.settings) as handle:
        quiet.take()
        quiet.run("mrcelery.start", job=handle.id)
        quiet.take()
        quiet.app.tasks["mrcelery.map"].apply(kwargs={"job": handle.id, "step": 0, "task": 0, "attempt": 0}, throw=True)
        quiet.run("mrcelery.barrier", job=handle.id, step=0)
        check_header(quiet.messages(), handle.id, "reduce", 3, "mrcelery.finish")
        with quiet.workers():
            handle.wait()
        assert results(handle) == COUNTS


GATE = """
    import os, time
    from mrcelery import MRJob

    class Gate(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate")

        def mapper(self, _, line):
            open(os.path.join(self.options.gate, "started-" + line), "w").close()
            while line == "wait" and not os.path.exists(os.path.join(self.options.gate, "open")):
                time.sleep(0.02)
            yield line, 1

        def reducer(self, key, values):
            open(os.path.join(self.options.gate, "reduced"), "w").close()
            yield key, sum(values)
"""


def test_no_reduce_task_before_the_last_map_task(fleet: Fleet, job_file: JobFile, tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("a\nwait\nb\nc\n")
    gate = tmp_path / "gate"
    gate.mkdir()
    args = ["--gate", str(gate)]
    with mrcelery.submit(job_file(GATE), str(text), args=args, split_size=2, reducers=2, **fleet.settings) as handle:

        def waiting() -> bool:
            stages = {stage.kind: stage for stage in handle.status().stages}
            return "map" in stages and stages["map"].succeeded == stages["map"].total - 1

        eventually(waiting, "all map tasks but one are done")
        eventually(lambda: (gate / "started-wait").exists(), "the last one has begun")
        assert handle.status().state == "running"
        assert [stage.kind for stage in handle.status().stages] == ["map"]
        assert not (gate / "reduced").exists()
        (gate / "open").touch()
        handle.wait()
        assert results(handle) == {"a": 1, "wait": 1, "b": 1, "c": 1}


PIDS = """
    import os, time
    from mrcelery import MRJob

    class Pids(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--folder")
            self.add_passthru_arg("--workers", type=int, nargs="+")

        def mapper(self, _, line):
            open(os.path.join(self.options.folder, str(os.getpid())), "w").close()
            deadline = time.monotonic() + 60
            while len(os.listdir(self.options.folder)) < 4 and time.monotonic() < deadline:
                time.sleep(0.02)
            yield self.worker(), os.getpid()

        def worker(self):
            # the main process: an ancestor
            pid = os.getppid()
            while pid not in self.options.workers and pid > 1:
                with open(f"/proc/{pid}/stat") as stat:
                    pid = int(stat.read().rpartition(")")[2].split()[1])
            return pid

        def reducer(self, parent, children):
            yield parent, sorted(set(children))
"""


def test_both_workers_run_map_tasks_at_the_same_time(fleet: Fleet, job_file: JobFile, tmp_path: Path) -> None:
    text = tmp_path / "in.txt"
    text.write_text("x\n" * 4)
    folder = tmp_path / "pids"
    folder.mkdir()
    args = ["--folder", str(folder), "--workers", *(str(worker.process.pid) for worker in fleet.workers)]
    with mrcelery.run(job_file(PIDS), str(text), args=args, split_size=2, **fleet.settings) as handle:
        children = results(handle)
    assert set(children) == {worker.process.pid for worker in fleet.workers}
    assert [len(of) for of in children.values()] == [2, 2]


@pytest.mark.parametrize("reducers", [1, 4])
def test_no_input_at_all(fleet: Fleet, word_count: str, tmp_path: Path, reducers: int) -> None:
    """With M = 0 the chord has no header."""
    (tmp_path / "empty.txt").touch()
    output = tmp_path / "out"
    with mrcelery.run(
        word_count, str(tmp_path / "empty.txt"), str(output), reducers=reducers, **fleet.settings
    ) as handle:
        assert [(s.kind, s.total) for s in handle.status().stages] == [("map", 0), ("reduce", reducers)]
        assert handle.counters() == {}
    assert {path.name: path.stat().st_size for path in output.glob("part-*")} == {
        f"part-{number:05d}": 0 for number in range(reducers)
    }
    assert (output / "_SUCCESS").exists()


def test_one_map_and_one_reduce_task(fleet: Fleet, word_count: str, text: Path) -> None:
    with mrcelery.run(word_count, str(text), reducers=1, **fleet.settings) as handle:
        assert [(s.kind, s.total) for s in handle.status().stages] == [("map", 1), ("reduce", 1)]
        assert list(handle) == sorted(COUNTS.items())


def test_empty_partitions(fleet: Fleet, word_count: str, tmp_path: Path) -> None:
    text = tmp_path / "one.txt"
    text.write_text("word\n" * 9)
    output = tmp_path / "out"
    with mrcelery.run(word_count, str(text), str(output), reducers=16, split_size=5, **fleet.settings) as handle:
        assert [(s.kind, s.total) for s in handle.status().stages] == [("map", 9), ("reduce", 16)]
    sizes = [path.stat().st_size for path in sorted(output.glob("part-*"))]
    assert len(sizes) == 16
    assert sum(size > 0 for size in sizes) == 1


MAP_ONLY = """
    from mrcelery import MRJob

    class Upper(MRJob):
        def mapper(self, _, line):
            if line:
                yield None, line.upper()
"""


def failed_and_retried(quiet: Quiet, handle: mrcelery.JobHandle) -> None:
    """Fail a job and retry it; the messages of its first run are still queued."""
    assert quiet.store.move(handle.id, "failed", {"finished": "1.0"})
    handle.retry()


def test_messages_of_an_earlier_run_come_too_late(quiet: Quiet, word_count: str, text: Path) -> None:
    """Each message names its run; coordinator steps of the previous run do not change a retried job."""
    with mrcelery.submit(word_count, str(text), reducers=2, **quiet.settings) as handle:
        job = handle.id
        quiet.run("mrcelery.start", job=job)
        quiet.app.tasks["mrcelery.map"].apply(kwargs={"job": job, "step": 0, "task": 0, "attempt": 0}, throw=True)
        quiet.take()
        failed_and_retried(quiet, handle)
        ((_, body),) = quiet.messages()
        assert body[1] == {"job": job, "generation": 1}
        quiet.take()
        before = quiet.store.fields(job)
        for step in ("barrier", "finish"):
            quiet.run(f"mrcelery.{step}", job=job, step=0)
        quiet.run("mrcelery.start", job=job)
        assert {**quiet.store.fields(job), "compared": ""} == {**before, "compared": ""}
        assert quiet.take() == []
        quiet.run("mrcelery.start", job=job, generation=1)  # finds its only map task committed
        ((headers, (_, kwargs, _)),) = quiet.messages()
        assert (headers["task"], kwargs) == ("mrcelery.barrier", {"job": job, "step": 0, "generation": 1})
        quiet.take()
        quiet.run("mrcelery.barrier", **kwargs)
        reduces = [body for _, body in quiet.messages()]
        assert [kwargs["generation"] for _, kwargs, _ in reduces] == [1, 1]
        assert [embedded["chord"]["kwargs"] for *_, embedded in reduces] == [
            {"job": job, "step": 0, "generation": 1}
        ] * 2
        with quiet.workers():
            handle.wait()
        assert results(handle) == COUNTS


@pytest.mark.parametrize("ends", ["with a stage", "with an error", "with a fault"])
def test_a_step_that_runs_while_its_job_is_retried(
    quiet: Quiet, word_count: str, text: Path, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mrcelery.submit(word_count, str(text), reducers=2, **quiet.settings) as handle:
        quiet.run("mrcelery.start", job=handle.id)

        def late(*_: Any) -> StageTasks:
            failed_and_retried(quiet, handle)
            quiet.take()
            if ends != "with a stage":
                raise TaskError("no") if ends == "with an error" else ZeroDivisionError
            return StageTasks(StageId(handle.id, 0, "reduce"), 2, "finish", quiet.name)

        monkeypatch.setattr(executor_tasks, "barrier", late)
        quiet.run("mrcelery.barrier", job=handle.id, step=0)
        assert quiet.messages() == []
        fields = quiet.store.fields(handle.id)
        assert fields["state"] == "queued"
        assert fields.keys().isdisjoint({"failure", "published.0.reduce"})


def test_map_only_keeps_the_order_of_the_input(fleet: Fleet, job_file: JobFile, tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(100)]
    text = tmp_path / "in.txt"
    text.write_text("".join(f"{line}\n" for line in lines))
    output = tmp_path / "out"
    settings = {**fleet.settings, "split_size": 100, "output_format": "text"}
    with mrcelery.run(job_file(MAP_ONLY), str(text), str(output), **settings) as handle:
        ((kind, total),) = [(stage.kind, stage.total) for stage in handle.status().stages]
        assert kind == "map"
    parts = sorted(output.glob("part-*"))
    assert len(parts) == total > 5
    assert "".join(part.read_text() for part in parts) == "".join(f"{line.upper()}\n" for line in lines)


@pytest.mark.parametrize("copies", [2, 4])
def test_every_message_delivered_several_times(quiet: Quiet, word_count: str, tmp_path: Path, copies: int) -> None:
    """Duplicate messages, before and among the first ones, do not change the result; each task counts once."""
    text = tmp_path / "text.txt"
    text.write_text("a rose is\n" * 20)
    with mrcelery.submit(word_count, str(text), reducers=3, split_size=20, keep=True, **quiet.settings) as handle:
        job = handle.id
        for _ in range(copies):
            quiet.run("mrcelery.start", job=job)  # a later delivery finds the stage published
        headers = [message for message in quiet.take() if b"mrcelery.map" in message] * copies
        assert len(headers) == copies * 10
        for message in headers:
            quiet.store.push(quiet.name, message)
        quiet.store.push(quiet.name, start_message(job, quiet.name))
        with quiet.workers(concurrency=4):
            handle.wait()
            assert results(handle) == {"a": 20, "rose": 20, "is": 20}
            assert handle.counters()["text"] == {"lines": 20, "words": 3}
            assert handle.report().totals.tasks == 13
            # Late copies after the job has ended, including those of the coordinator's tasks.
            report = handle.report()
            for name in ("barrier", "finish"):
                quiet.app.send_task(f"mrcelery.{name}", kwargs={"job": job, "step": 0}, queue=quiet.name)
            for message in headers[:5]:
                quiet.store.push(quiet.name, message)
            eventually(lambda: not quiet.raw() and not quiet.held(), "the late messages are done with")
            assert handle.status().state == "succeeded"
            assert results(handle) == {"a": 20, "rose": 20, "is": 20}
            handle._final_report = None
            assert handle.report() == report


def test_storage_keys(fleet: Fleet, word_count: str, tmp_path: Path) -> None:
    """A job that keeps its intermediate data has the documented layout."""
    text = tmp_path / "text.txt"
    text.write_text("a rose is\n" * 3)
    output = tmp_path / "out"
    storage = Path(fleet.settings["storage"])
    with mrcelery.run(
        word_count, str(text), str(output), reducers=2, split_size=10, keep=True, **fleet.settings
    ) as handle:
        job, report = handle.id, handle.report()
    root = storage / "jobs" / job
    found = {path.relative_to(storage).as_posix() for path in files_under(root)}
    fixed = {object_keys.spec(job), object_keys.code(job), object_keys.report(job), object_keys.report_page(job)}
    fixed.add(object_keys.end(job, 0))
    fixed.add(object_keys.plan_page(job, 0, 0))
    fixed |= {object_keys.stage_summary(StageId(job, 0, "map")), object_keys.stage_summary(StageId(job, 0, "reduce"))}
    fixed |= {object_keys.shuffle_input(job, 0, number) for number in range(2)}
    stages: list[tuple[Kind, int]] = [("map", 3), ("reduce", 2)]
    fixed |= {object_keys.commit(TaskId(job, 0, kind, n)) for kind, tasks in stages for n in range(tasks)}
    assert fixed <= found
    named = set()
    for kind, tasks in stages:
        summed = 0
        for number in range(tasks):
            commit = decode((storage / object_keys.commit(TaskId(job, 0, kind, number))).read_bytes(), Commit)
            assert (commit.job, commit.step, commit.kind, commit.task) == (job, 0, kind, number)
            for part in commit.parts:
                assert part.key == object_keys.part(TaskId(job, 0, kind, number), part.partition, commit.attempt)
                assert (storage / part.key).stat().st_size == part.bytes
                named.add(part.key)
            summed += commit.records_in
        summary = decode((storage / object_keys.stage_summary(StageId(job, 0, kind))).read_bytes(), StageSummary)
        assert summary.totals.records_in == summed
        assert summary.totals.tasks == tasks
    assert found == fixed | named
    assert job.startswith("wordcount-")
    for key in ("spec.json", "code.zip", "report.json", "step-0/map-00002/commit.json"):
        assert (root / key).is_file()  # as the contract spells them
    success = json.loads((output / "_SUCCESS").read_bytes())
    assert success == {**json.loads((root / "report.json").read_bytes()), "overview": None}
    assert success["job"] == job
    assert success["counters"]["text"] == {"lines": 3, "words": 3}
    assert success["totals"]["records_in"] == 3
    assert success["totals"]["bytes_in"] == 30
    assert success["totals"]["records_out"] == 3
    assert success["totals"]["bytes_out"] == sum(path.stat().st_size for path in output.glob("part-*"))
    assert success["seconds"] >= 0
    assert success["parts"] == ["part-00000", "part-00001"] == list(report.parts)


def test_only_summaries_are_left_of_a_job_that_succeeded(fleet: Fleet, word_count: str, text: Path) -> None:
    with mrcelery.run(word_count, str(text), reducers=2, **fleet.settings) as handle:
        job = handle.id
    root = Path(fleet.settings["storage"]) / "jobs" / job

    def left() -> list[str]:
        names = (path.relative_to(root).as_posix() for path in files_under(root))
        return sorted(name for name in names if name.startswith("step-"))

    eventually(lambda: left() == ["step-0/map.json", "step-0/reduce.json"], "the rest is removed")
