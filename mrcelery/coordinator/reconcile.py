"""What a job needs now: a pure function of the known facts.

Messages are lost: with a queue that is flushed, a broker that restarts empty, a worker that dies between taking a
message and recording that it holds it, a process that is killed after it has claimed the barrier and before it has
published it. :func:`needs` finds the messages that should exist but do not, and decides what to do about it. It does no
I/O; :mod:`mrcelery.worker.reconciler` gathers the facts and carries the actions out. Every action may be repeated or
unnecessary: a task's first commit counts, and a coordinator step that was already done does nothing.

The chord's count remains the fast way from stage to stage, but is never relied on: the step that follows a stage is
published here, too, once all tasks have committed, and a step that arrives before that does nothing. So a chord may
hang, count twice or start again in a Redis that has forgotten it.

Backup tasks are those of the paper's section 3.6, chosen by rate: a task that takes long because it has much to do
processes records as quickly as the others, and gets no backup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mrcelery.schema.states import FINAL
from mrcelery.schema.stragglers import Policy, Republished, Running, is_slow, usual_rate
from mrcelery.schema.structs import Kind

Step = Literal["start", "barrier", "finish"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The known facts about a job at epoch seconds ``now``, and about the one stage it is in."""

    now: float
    state: str
    """As in the job store; "" if the job store does not know the job."""
    step: int = 0
    kind: Kind | None = None
    """None before the first stage."""
    then: Step = "finish"
    """The coordinator step after this stage."""
    tasks: int = 0
    committed: frozenset[int] = frozenset()
    in_flight: frozenset[int] = frozenset()
    """Tasks with a message that is queued or leased."""
    coordinating: bool = False
    """Whether a coordinator message is queued or leased."""
    running: tuple[Running, ...] = ()
    unseen: Mapping[str, float] = field(default_factory=dict)
    """When each missing name was first missed, see :func:`missing`."""
    republished: Mapping[str, Republished] = field(default_factory=dict)
    """The messages republished in this stage, by the same names."""
    rates: Sequence[float] = ()
    """Records per second of committed tasks, or of a sample of them."""
    backed_up: frozenset[int] = frozenset()
    speculative: bool = True
    sick: str = ""
    """Why the workers of the job's queue take no tasks, if none of them does."""
    sick_since: float = 0.0


@dataclass(frozen=True)
class Publish:
    """Republish a task, with this attempt number."""

    task: int
    attempt: int


@dataclass(frozen=True)
class Nudge:
    """Republish a coordinator step."""

    what: Step


@dataclass(frozen=True)
class BackUp:
    """Start a second attempt of a task on a worker other than ``worker``."""

    task: int
    worker: str


@dataclass(frozen=True)
class GiveUp:
    """Fail the job; ``task`` is -1 if a coordinator step cannot be done."""

    task: int
    reason: str


Action = Publish | Nudge | BackUp | GiveUp


def missing(facts: Facts, policy: Policy) -> list[str]:
    """List the expected messages that were not found: numbers of tasks as text, or a coordinator step."""
    if facts.state in FINAL or not facts.state or facts.coordinating:
        return []
    awaited = _awaited(facts)
    if awaited is not None:
        return [awaited]
    # If a broker has lost its records of leased messages, running attempts still report themselves.
    alive = {one.task for one in facts.running if one.quiet < policy.lease}
    seen = facts.committed | facts.in_flight | alive
    return [str(task) for task in range(facts.tasks) if task not in seen]


def _awaited(facts: Facts) -> Step | None:
    """Return the coordinator step whose turn it is, if any."""
    if facts.kind is None:
        return "start"
    return facts.then if len(facts.committed) >= facts.tasks else None


def needs(facts: Facts, policy: Policy) -> list[Action]:
    """Decide what to do now."""
    sick = facts.now - facts.sick_since
    if facts.sick and facts.state not in FINAL and sick >= policy.sick:
        return [GiveUp(-1, f"no worker of the job's queue was well for {sick:.0f} s; {facts.sick}")]
    actions: list[Action] = []
    for name in missing(facts, policy):
        since, before = facts.unseen.get(name, facts.now), facts.republished.get(name)
        if facts.now - since < policy.grace or (before and facts.now - before.last < policy.lease):
            continue
        action = _republish(facts, policy, name, before.times if before else 0)
        if isinstance(action, GiveUp):
            return [action]
        actions.append(action)
    return actions + _backups(facts, policy)


def _republish(facts: Facts, policy: Policy, name: str, times: int) -> Action:
    if not name.isdecimal():
        if times >= policy.most_republished:
            return GiveUp(-1, f"{name} was published {times} times and never ended: {_SEE_LOGS}")
        return Nudge(name)  # type: ignore[arg-type]
    task = int(name)
    # Attempts are counted, and capped, where they start.
    if times >= policy.most_republished:
        return GiveUp(task, f"{facts.kind} task {task} was published {times} times and lost each time: {_SEE_OTHERS}")
    return Publish(task, times + 1)


_SEE_LOGS = "its process died or vanished each time; the workers' logs have the signal"
_SEE_OTHERS = "see that no other app's workers listen on the job's queue"


def _backups(facts: Facts, policy: Policy) -> list[Action]:
    """Choose slow attempts to back up: near the end of a stage, when no task waits."""
    left = facts.tasks - len(facts.committed)
    if not facts.speculative or facts.state != "running" or not 0 < left <= facts.tasks / 2 or not facts.rates:
        return []
    room = max(1, int(facts.tasks * policy.backups)) - len(facts.backed_up)
    running = {one.task: one for one in facts.running if one.task not in facts.committed}
    if room <= 0 or len(running) < left:
        return []  # while tasks wait for a worker, there is no worker to spare
    usual = usual_rate(facts.rates)
    slow = [one for one in running.values() if one.task not in facts.backed_up and is_slow(one, usual, policy)]
    slow.sort(key=lambda one: one.records / one.seconds)
    return [BackUp(one.task, one.worker) for one in slow[:room]]
