"""With a secret, workers obey nothing that was not signed for its job and its place.

Between writing and reading, each kind of object is altered, replaced by its counterpart from another task or from
another job with the same secret, stripped of its signature, or emptied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery.attempt.decision import decide, latest, retried
from mrcelery.coordinator.stages import StageTasks
from mrcelery.coordinator.start import start
from mrcelery.errors import UnsignedError
from mrcelery.schema import object_keys
from mrcelery.schema.task_id import StageId, TaskId
from mrcelery.task.bad_records import losses, note_loss
from tests.support.stepped_jobs import RESULTS, Job

KEY = "correct horse battery staple"

Attack = Callable[[bytes, bytes, bytes], bytes]

ALTERED = re.compile(rb"(?<=[/-])0000\d|in\.txt|(?<=:)\d\b|(?<=,)1(?=,)")
"""Task numbers and field values."""

ATTACKS: dict[str, Attack] = {
    "altered": lambda mine, sibling, stranger: ALTERED.sub(lambda found: b"7" * len(found[0]), mine),
    "of another task": lambda mine, sibling, stranger: sibling,
    "of another job": lambda mine, sibling, stranger: stranger,
    "robbed of its signature": lambda mine, sibling, stranger: mine[: mine.rindex(b',"sig":"')] + b"}",
    "emptied": lambda mine, sibling, stranger: b"",
}

Name = Callable[[str], str]


def commit_of(step: int, kind: Any, task: int) -> Name:
    return lambda job: object_keys.commit(TaskId(job, step, kind, task))


def input_of(partition: int) -> Name:
    return lambda job: object_keys.shuffle_input(job, 0, partition)


def page_of(step: int, page: int) -> Name:
    return lambda job: object_keys.plan_page(job, step, page)


OBJECTS: dict[str, tuple[Name, Name]] = {
    "map commit": (commit_of(0, "map", 1), commit_of(0, "map", 0)),
    "reduce commit": (commit_of(0, "reduce", 0), commit_of(0, "reduce", 1)),
    "last commit": (commit_of(1, "reduce", 0), commit_of(1, "reduce", 1)),
    "shuffle input": (
        lambda job: object_keys.shuffle_input(job, 0, 0),
        lambda job: object_keys.shuffle_input(job, 0, 1),
    ),
    "plan page": (lambda job: object_keys.plan_page(job, 1, 0), lambda job: object_keys.plan_page(job, 1, 1)),
    "first plan page": (lambda job: object_keys.plan_page(job, 0, 0), lambda job: object_keys.plan_page(job, 0, 1)),
    "summary": (
        lambda job: object_keys.stage_summary(StageId(job, 0, "map")),
        lambda job: object_keys.stage_summary(StageId(job, 0, "reduce")),
    ),
}
"""The key of each object, with the key of another one of the same kind."""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcelery.planning.splits.PAGE", 1)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "mine").mkdir()
    return Job(tmp_path / "mine", monkeypatch, signing_key=KEY, reducers=3)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "other").mkdir()
    return Job(tmp_path / "other", monkeypatch, signing_key=KEY, reducers=3)


def run_until(job: Job, *keys: str) -> Iterator[StageTasks]:
    """Run a job until all keys exist, and return the steps that are left."""
    steps = job.steps()
    while any(job.storage.stat(key) is None for key in keys):
        next(steps)
    return steps


def finish(job: Job) -> None:
    for _ in job.steps():
        pass


def refused(job: Job, where: str, steps: Iterator[StageTasks] | None = None) -> None:
    """Check that a job stops there, and says why in one line."""
    with pytest.raises(UnsignedError) as raised:
        for _ in steps or job.steps():
            pass
    message = str(raised.value)
    assert where in message
    assert job.id in message
    assert "submit the job again" in message
    assert "\n" not in message
    assert KEY not in message
    assert not list(job.storage.list(object_keys.output(job.id)))


CASES = [(what, attack) for what in OBJECTS for attack in ATTACKS]
CASES.remove(("first plan page", "robbed of its signature"))  # it has no signature: the signed spec has its digest


@pytest.mark.parametrize(("what", "attack"), CASES)
def test_an_object_in_storage(job: Job, stranger: Job, what: str, attack: str) -> None:
    names = OBJECTS[what]
    key, sibling = (name(job.id) for name in names)
    steps = run_until(job, key, sibling)
    run_until(stranger, key.replace(job.id, stranger.id))
    mine, other = job.storage.read(key), stranger.storage.read(key.replace(job.id, stranger.id))
    forged = ATTACKS[attack](mine, job.storage.read(sibling), other)
    assert forged != mine
    job.storage.write(key, forged)
    if what == "plan page":  # without a commit of its tasks, it is rewritten if the job store is lost
        refused(job, key, steps)
    else:
        job.forget()
        refused(job, key)


@pytest.mark.parametrize("attack", set(ATTACKS) - {"emptied"})
def test_a_commit_in_the_job_store(job: Job, stranger: Job, attack: str) -> None:
    """There, an empty commit means that it must be read from storage."""
    stage = StageId(job.id, 0, "map")
    key, sibling = (object_keys.commit(stage.task_id(task)) for task in (2, 1))
    steps = run_until(job, key, sibling)
    run_until(stranger, key.replace(job.id, stranger.id))
    kept = job.runtime.store.commits(stage)
    other = stranger.runtime.store.commits(StageId(stranger.id, 0, "map"))[2]
    forged = ATTACKS[attack](kept[2], kept[1], other)
    assert forged != kept[2]
    job.runtime.store.forget_stage(stage)
    for task, data in {**kept, 2: forged}.items():
        job.runtime.store.add_commit(stage.task_id(task), data)
    refused(job, key, steps)


def test_a_summary_in_the_job_store(job: Job) -> None:
    stage = StageId(job.id, 0, "map")
    steps = run_until(job, object_keys.stage_summary(stage))
    data = job.runtime.store.fields(job.id)[f"summary.{stage.name}"]
    altered = data.replace('"bad_keys":[]', '"bad_keys":["jobs/another/secret"]')
    assert altered != data
    job.runtime.store.update(job.id, {f"summary.{stage.name}": altered})
    refused(job, object_keys.stage_summary(stage), steps)


def test_the_number_of_map_tasks_that_the_job_store_knows(job: Job) -> None:
    """With fewer tasks, the results would be incomplete, and nobody would notice."""
    steps = run_until(job, object_keys.plan_page(job.id, 1, 1))
    job.runtime.store.update(job.id, {"total.1.map": "1"})
    refused(job, "plan-00000.json", steps)


@pytest.mark.parametrize("begun", [False, True])
def test_a_plan_whose_end_was_removed(job: Job, begun: bool) -> None:
    steps = run_until(job, object_keys.plan_page(job.id, 1, 1))
    while begun and job.storage.stat(object_keys.commit(TaskId(job.id, 1, "map", 0))) is None:
        next(steps)
    job.storage.delete([object_keys.plan_page(job.id, 1, 1)])
    job.forget()
    if not begun:
        finish(job)  # the plan is written again
        assert job.results() == RESULTS
    else:
        refused(job, "plan-00000.json")


def test_a_commit_beyond_the_tasks_of_a_stage_is_none_of_it(job: Job) -> None:
    run_until(job, object_keys.commit(TaskId(job.id, 0, "map", 1)))
    for name in ("map-00077", "map-x", "other"):
        job.storage.write(f"{object_keys.step_root(job.id, 0)}{name}/commit.json", b"{}")
    job.forget()
    finish(job)
    assert job.results() == RESULTS


@pytest.mark.parametrize("attack", ATTACKS)
def test_how_a_job_ended(job: Job, stranger: Job, attack: str) -> None:
    """A forged end could stop a running job, or make a failed one pass for done."""
    key, seal = object_keys.end(job.id, 1), job.runtime.seal(job.id)
    for generation in range(2):
        decide(job.storage, seal, generation, "failed")
        decide(stranger.storage, stranger.runtime.seal(stranger.id), generation, "failed")
    other = stranger.storage.read(key.replace(job.id, stranger.id))
    sibling = job.storage.read(object_keys.end(job.id, 0)).replace(b'"generation":0', b'"generation":1')
    job.storage.write(key, ATTACKS[attack](job.storage.read(key), sibling, other))
    with pytest.raises(UnsignedError, match=key):
        latest(job.storage, seal, 0)
    with pytest.raises(UnsignedError, match=key):
        decide(job.storage, seal, 1, "succeeded")
    job.runtime.store.update(job.id, {"revived": "1"})
    refused(job, key)


@pytest.mark.parametrize("attack", ATTACKS)
def test_that_a_job_was_retried(job: Job, stranger: Job, attack: str) -> None:
    """A forged retry could make a job that has ended run again."""
    key, seal = object_keys.retry(job.id, 1), job.runtime.seal(job.id)
    for generation in (1, 2):
        retried(job.storage, seal, generation)
        retried(stranger.storage, stranger.runtime.seal(stranger.id), generation)
    other = stranger.storage.read(key.replace(job.id, stranger.id))
    sibling = job.storage.read(object_keys.retry(job.id, 2)).replace(b'"generation":2', b'"generation":1')
    job.storage.write(key, ATTACKS[attack](job.storage.read(key), sibling, other))
    with pytest.raises(UnsignedError, match=key):
        latest(job.storage, seal, 0)
    start(job.runtime, job.id)
    with pytest.raises(UnsignedError, match=key):
        start(job.runtime, job.id)  # again, as after Redis was emptied


@pytest.mark.parametrize("attack", set(ATTACKS) - {"of another task"})
def test_a_report(job: Job, stranger: Job, attack: str) -> None:
    """Otherwise a job that has lost its commits could pass for one that has succeeded."""
    key = object_keys.report(job.id)
    for one in (job, stranger):
        finish(one)
    other = stranger.storage.read(object_keys.report(stranger.id))
    job.storage.write(key, ATTACKS[attack](job.storage.read(key), b"", other))
    job.storage.delete([object_keys.end(job.id, 0), *(o.key for o in job.storage.list(object_keys.output(job.id)))])
    job.forget()
    refused(job, key)


@pytest.mark.parametrize("attack", ATTACKS)
def test_losses_say_which_records_are_skipped(job: Job, stranger: Job, attack: str) -> None:
    task, store = TaskId(job.id, 0, "map", 1), job.runtime.store
    for one in (task, task._replace(task=2)):
        note_loss(store, one, "signal 9", (1, 1), job.runtime.seal(job.id))
    note_loss(
        stranger.runtime.store, task._replace(job=stranger.id), "signal 9", (1, 1), stranger.runtime.seal(stranger.id)
    )
    (mine, sibling), name = (store.get_blob(job.id, f"losses.0.map.{n}") for n in (1, 2)), "losses.0.map.1"
    other = stranger.runtime.store.get_blob(stranger.id, name)
    assert mine is not None
    assert sibling is not None
    assert other is not None
    forged = (
        mine.replace(b"[[1,1]]", b"[[1,1],[1,1]]") if attack == "altered" else ATTACKS[attack](mine, sibling, other)
    )
    store.put_blob(job.id, name, forged)
    with pytest.raises(UnsignedError, match=re.escape(object_keys.losses(task))):
        losses(store, task, job.runtime.seal(job.id))


def test_without_a_secret_not_a_byte_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a process without a secret reads what was signed."""
    for name, key in (("bare", ""), ("signed", KEY)):
        (tmp_path / name).mkdir()
        job = Job(tmp_path / name, monkeypatch, signing_key=key or None)
        finish(job)
        assert job.results() == RESULTS
        kept = [job.storage.read(info.key) for info in job.storage.list() if info.key.endswith(".json")]
        assert len(kept) > 10
        assert any(b'"sig":"' in data for data in kept) is bool(key)
    job.signing_key = None
    job.storage.delete([object_keys.end(job.id, 0), object_keys.report(job.id)])
    job.forget()
    finish(job)
    assert job.results() == RESULTS


@pytest.mark.parametrize("kind", ["map", "reduce"])
def test_a_part_that_is_lost_is_made_again_and_signed(job: Job, kind: Any) -> None:
    """Damaged data is still repaired, and what is written is signed like what it replaces."""
    lost = TaskId(job.id, 0, kind, 0)
    then = object_keys.shuffle_input(job.id, 0, 2) if kind == "map" else object_keys.plan_page(job.id, 1, 0)
    steps = run_until(job, object_keys.commit(lost), then)
    for info in list(job.storage.list(f"{object_keys.task_root(lost)}part-")):
        job.storage.delete([info.key])
    for _ in steps:
        pass
    assert job.results() == RESULTS
