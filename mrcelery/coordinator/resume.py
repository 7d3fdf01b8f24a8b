"""How far a job has come, according to storage.

Redis may lose everything it knows of a job. Its spec and its commits are in storage, and they show how far it has come:
committed tasks are not run again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mrcelery.attempt.open_jobs import OpenJob
from mrcelery.coordinator.stages import planned_tasks
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Kind, PlanPage
from mrcelery.storage.base import Storage

_TASK = re.compile(r"(map|reduce)-(\d+)/commit\.json")
_PAGE = re.compile(r"plan-(\d+)\.json")


@dataclass(frozen=True)
class Standing:
    """The stage that a job is in, its tasks, and which of them have committed.

    ``totals`` are the numbers of tasks of all stages up to this one, by step and kind.
    """

    step: int
    kind: Kind
    tasks: int
    committed: frozenset[int]
    totals: dict[tuple[int, Kind], int]


@dataclass
class _Found:
    """One step's objects in storage."""

    commits: dict[str, set[int]] = field(default_factory=lambda: {"map": set(), "reduce": set()})
    shuffled: int = 0
    """Reduce tasks whose input is written."""
    pages: list[int] = field(default_factory=list)


def standing(active: OpenJob) -> Standing:
    """Find out how far a job has come. Takes a listing of its intermediate data.

    A step after the first counts as begun when one of its tasks has committed: before that its plan may be half
    written, and the step before it ends once more, which gives the same plan. Here it is enough that a commit exists:
    code that acts upon it reads it, and checks its signature.
    """
    storage, spec = active.storage, active.spec
    totals: dict[tuple[int, Kind], int] = {}
    now: Standing | None = None
    for step, plan in enumerate(spec.steps):
        found = _scan(storage, spec.request.job, step)
        if now is not None and not any(found.commits.values()):
            return now
        maps = _planned(active, step, found.pages) if step else spec.plan.splits
        totals[step, "map"] = maps
        now = Standing(step, "map", maps, frozenset(task for task in found.commits["map"] if task < maps), totals)
        if plan.reducers and (found.shuffled >= plan.reducers or found.commits["reduce"]):
            totals[step, "reduce"] = plan.reducers
            done = frozenset(task for task in found.commits["reduce"] if task < plan.reducers)
            now = Standing(step, "reduce", plan.reducers, done, totals)
        if len(now.committed) < now.tasks:
            return now
    assert now is not None  # a job has a step
    return now


def _scan(storage: Storage, job: str, step: int) -> _Found:
    found = _Found()
    root = object_keys.step_root(job, step)
    for info in storage.list(root):
        name = info.key.removeprefix(root)
        if committed := _TASK.fullmatch(name):
            found.commits[committed[1]].add(int(committed[2]))
        elif name.startswith("shuffle/"):
            found.shuffled += 1
        elif page := _PAGE.fullmatch(name):
            found.pages.append(int(page[1]))
    return found


def _planned(active: OpenJob, step: int, pages: list[int]) -> int:
    """Return M of a later step, of whose plan these pages exist."""
    if active.seal.signs:
        return planned_tasks(active, step, max(pages, default=0))
    return sum(_splits(active, step, pages))


def _splits(active: OpenJob, step: int, pages: list[int]) -> Iterator[int]:
    for page in pages:
        key = object_keys.plan_page(active.id, step, page)
        yield len(decode(active.storage.read(key), PlanPage, key).splits)
