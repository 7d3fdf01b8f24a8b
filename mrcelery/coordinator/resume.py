"""How far a job has come, by what storage holds of it.

Redis may lose everything it knows of a job. Its spec and its commits are in storage, and they say how far it has
come: what was committed is not run again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import JobSpec, Kind, PlanPage
from mrcelery.storage.base import Storage


@dataclass(frozen=True)
class Standing:
    """The stage that a job is in, its tasks, and those of them that have committed.

    ``totals`` are the tasks of all stages up to it, by step and kind.
    """

    step: int
    kind: Kind
    tasks: int
    committed: frozenset[int]
    totals: dict[tuple[int, Kind], int]


@dataclass
class _Found:
    """What one step has in storage."""

    commits: dict[str, set[int]] = field(default_factory=lambda: {"map": set(), "reduce": set()})
    shuffled: int = 0
    """Reduce tasks whose input is written."""
    pages: list[str] = field(default_factory=list)


def standing(storage: Storage, spec: JobSpec) -> Standing:
    """Find out how far a job has come. Takes a listing of its intermediate data.

    A step after the first counts as begun when one of its tasks has committed: before that its plan may be half
    written, and the step before it ends once more, which gives the same plan.
    """
    totals: dict[tuple[int, Kind], int] = {}
    now: Standing | None = None
    for step, plan in enumerate(spec.steps):
        found = _scan(storage, spec.request.job, step)
        if now is not None and not any(found.commits.values()):
            return now
        maps = sum(_splits(storage, found.pages)) if step else spec.plan.splits
        totals[step, "map"] = maps
        now = Standing(step, "map", maps, frozenset(found.commits["map"]), totals)
        if plan.reducers and (found.shuffled >= plan.reducers or found.commits["reduce"]):
            totals[step, "reduce"] = plan.reducers
            now = Standing(step, "reduce", plan.reducers, frozenset(found.commits["reduce"]), totals)
        if len(now.committed) < now.tasks:
            return now
    assert now is not None  # a job has a step
    return now


def _scan(storage: Storage, job: str, step: int) -> _Found:
    found = _Found()
    root = object_keys.step_root(job, step)
    for info in storage.list(root):
        folder, _, name = info.key.removeprefix(root).partition("/")
        if name == "commit.json":
            kind, _, number = folder.partition("-")
            found.commits[kind].add(int(number))
        elif folder == "shuffle":
            found.shuffled += 1
        elif folder.startswith("plan-"):
            found.pages.append(info.key)
    return found


def _splits(storage: Storage, pages: list[str]) -> Iterator[int]:
    for key in pages:
        yield len(decode(storage.read(key), PlanPage, key).splits)
