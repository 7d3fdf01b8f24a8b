"""Which stage of a job, and which of its tasks: the names that the whole engine passes on.

Both are tuples: attempts poll the job store with them, and they are keys of its dictionaries. Neither is sent or
stored as such; messages and records have their parts as fields of their own.
"""

from __future__ import annotations

from typing import NamedTuple

from mrcelery.schema.structs import Commit, Kind

KINDS: tuple[Kind, ...] = ("map", "reduce")
"""The stages of a step in their order."""


class StageId(NamedTuple):
    """A stage: all map tasks or all reduce tasks of one step (numbered from 0) of a job."""

    job: str
    step: int
    kind: Kind

    @property
    def name(self) -> str:
        """Return ``<step>.<kind>``: the stage within its job, as fields and tables of the job store name it."""
        return f"{self.step}.{self.kind}"

    def task_id(self, task: int) -> TaskId:
        """Name a task of this stage by its number, from 0."""
        return TaskId(self.job, self.step, self.kind, task)


class TaskId(NamedTuple):
    """A task: the ``task``-th, from 0, of a stage."""

    job: str
    step: int
    kind: Kind
    task: int

    @classmethod
    def of(cls, commit: Commit) -> TaskId:
        """Name the task that a commit is of."""
        return cls(commit.job, commit.step, commit.kind, commit.task)

    @property
    def stage(self) -> StageId:
        """Return the stage that the task belongs to."""
        return StageId(self.job, self.step, self.kind)

    @property
    def name(self) -> str:
        """Return ``<step>.<kind>.<task>``: the task within its job, as tables of the job store name it."""
        return f"{self.step}.{self.kind}.{self.task}"
