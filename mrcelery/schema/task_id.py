"""Identifiers of a job's stages and tasks, used throughout the engine.

Both are tuples: attempts poll the job store with them, and they are keys of its dictionaries. Neither is sent or stored
as such; messages and records contain their parts as separate fields.
"""

from __future__ import annotations

from typing import NamedTuple

from mrcelery.schema.structs import Commit, Kind

KINDS: tuple[Kind, ...] = ("map", "reduce")
"""The stages of a step, in order."""


class StageId(NamedTuple):
    """A stage: all map tasks or all reduce tasks of one step (numbered from 0) of a job."""

    job: str
    step: int
    kind: Kind

    @property
    def name(self) -> str:
        """Return ``<step>.<kind>``: the stage within its job, as used in fields and tables of the job store."""
        return f"{self.step}.{self.kind}"

    def task_id(self, task: int) -> TaskId:
        """Return the id of this stage's task with this number, from 0."""
        return TaskId(self.job, self.step, self.kind, task)


class TaskId(NamedTuple):
    """A task of a stage; ``task`` is its number, from 0."""

    job: str
    step: int
    kind: Kind
    task: int

    @classmethod
    def of(cls, commit: Commit) -> TaskId:
        """Return the id of a commit's task."""
        return cls(commit.job, commit.step, commit.kind, commit.task)

    @property
    def stage(self) -> StageId:
        """Return the stage of the task."""
        return StageId(self.job, self.step, self.kind)

    @property
    def name(self) -> str:
        """Return ``<step>.<kind>.<task>``: the task within its job, as used in tables of the job store."""
        return f"{self.step}.{self.kind}.{self.task}"
