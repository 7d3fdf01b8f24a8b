"""What a job needs: in single cases, and in a model of a fleet in which anything may get lost now and then."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mrcelery.coordinator.reconcile import BackUp, Facts, GiveUp, Nudge, Publish, missing, needs
from mrcelery.schema.stragglers import Policy, Republished, Running

POLICY = Policy(grace=3.0, lease=15.0)
NOW = 1000.0
LONG_AGO = 100.0


def facts(**changes: Any) -> Facts:
    """Return the facts of a map stage of four tasks, of which nothing has been seen for long."""
    stage = Facts(now=NOW, state="running", step=0, kind="map", then="barrier", tasks=4)
    unseen = dict.fromkeys(["start", "barrier", "finish", *map(str, range(100))], LONG_AGO)
    return replace(stage, **{"unseen": unseen, **changes})


def tasks(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def slow(task: int, *, seconds: float = 100.0, records: int = 10, worker: str = "slow", quiet: float = 0.5) -> Running:
    return Running(task, worker, seconds, records, quiet)


def test_a_job_whose_workers_are_all_sick_waits_and_is_given_up_in_the_end() -> None:
    policy = replace(POLICY, sick=600.0)
    waits = facts(in_flight=tasks(0, 1, 2, 3), sick="a: /scratch: full", sick_since=NOW - 599)
    assert needs(waits, policy) == []
    over = replace(waits, sick_since=NOW - 600)
    assert needs(over, policy) == [GiveUp(-1, "no worker of the job's queue was well for 600 s; a: /scratch: full")]
    assert needs(replace(over, state="succeeded"), policy) == []
    assert needs(replace(over, sick=""), policy) == []


def test_each_task_is_lost_if_it_is_neither_committed_nor_in_flight_nor_running() -> None:
    for committed, flying, alive in product([False, True], repeat=3):
        now = facts(
            committed=tasks(2) if committed else tasks(),
            in_flight=tasks(2) if flying else tasks(),
            running=(slow(2),) if alive else (),
            speculative=False,
        )
        lost = not (committed or flying or alive)
        assert ("2" in missing(now, POLICY)) is lost
        assert (Publish(2, 1) in needs(now, POLICY)) is lost
        assert [Publish(task, 1) for task in (0, 1, 3)] == [a for a in needs(now, POLICY) if a != Publish(2, 1)]


@pytest.mark.parametrize("state", ["", "succeeded", "failed", "cancelled"])
def test_nothing_is_done_for_a_job_that_has_ended_or_that_nobody_knows(state: str) -> None:
    assert needs(facts(state=state), POLICY) == []


def test_an_attempt_that_has_told_nothing_for_a_lease_is_not_counted_on() -> None:
    assert needs(facts(tasks=1, running=(slow(0, quiet=14.9),), speculative=False), POLICY) == []
    assert needs(facts(tasks=1, running=(slow(0, quiet=15.0),), speculative=False), POLICY) == [Publish(0, 1)]


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (facts(state="queued", kind=None, tasks=0), "start"),
        (facts(committed=tasks(0, 1, 2, 3)), "barrier"),
        (facts(tasks=0), "barrier"),
        (facts(kind="reduce", then="finish", committed=tasks(0, 1, 2, 3)), "finish"),
        (facts(then="finish", committed=tasks(0, 1, 2, 3)), "finish"),
    ],
)
def test_the_step_whose_turn_it_is(now: Facts, what: Any) -> None:
    assert needs(now, POLICY) == [Nudge(what)]
    assert needs(replace(now, coordinating=True), POLICY) == []
    assert needs(replace(now, republished={what: Republished(1, NOW - 14.9)}), POLICY) == []
    assert needs(replace(now, republished={what: Republished(1, NOW - 15.0)}), POLICY) == [Nudge(what)]
    (given_up,) = needs(replace(now, republished={what: Republished(10, LONG_AGO)}), POLICY)
    assert isinstance(given_up, GiveUp)
    assert given_up.task == -1
    assert what in given_up.reason


def test_nothing_is_published_while_the_coordinator_publishes() -> None:
    """Half of a stage's tasks are on the queue; the other half is on its way there."""
    assert needs(facts(coordinating=True, in_flight=tasks(0, 1)), POLICY) == []


def test_what_is_missing_is_given_time() -> None:
    """A message is nowhere for a moment, on its way from the queue to the worker that took it."""
    now = facts(in_flight=tasks(0, 1, 2))
    assert needs(replace(now, unseen={}), POLICY) == []
    assert needs(replace(now, unseen={"3": NOW - 2.9}), POLICY) == []
    assert needs(replace(now, unseen={"3": NOW - 3.0}), POLICY) == [Publish(3, 1)]


def test_a_task_is_published_once_in_a_lease_and_not_for_ever() -> None:
    now = facts(in_flight=tasks(0, 1, 2))
    assert needs(replace(now, republished={"3": Republished(1, NOW - 14.9)}), POLICY) == []
    assert needs(replace(now, republished={"3": Republished(1, NOW - 15.0)}), POLICY) == [Publish(3, 2)]
    (given_up,) = needs(replace(now, republished={"3": Republished(10, LONG_AGO)}), POLICY)
    assert isinstance(given_up, GiveUp)
    assert given_up.task == 3
    assert "map task 3" in given_up.reason


STRAGGLING = facts(
    tasks=10, committed=tasks(*range(9)), in_flight=tasks(9), running=(slow(9),), rates=[1.0, 1.0, 1.0, 0.05, 20.0]
)


def test_a_straggler_gets_one_backup() -> None:
    assert needs(STRAGGLING, POLICY) == [BackUp(9, "slow")]
    assert needs(replace(STRAGGLING, backed_up=tasks(9)), POLICY) == []
    soon = replace(STRAGGLING, running=(slow(9, seconds=5.0, records=0),))
    assert needs(soon, POLICY) == [BackUp(9, "slow")]


def test_an_attempt_at_a_committed_task_gets_no_backup() -> None:
    """It is the slower of two attempts, and will stop at its next poll."""
    assert needs(replace(STRAGGLING, running=(slow(0, records=1), slow(9))), POLICY) == [BackUp(9, "slow")]


@pytest.mark.parametrize(
    "changes",
    [
        {"speculative": False},
        {"rates": []},
        {"state": "cancelled"},
        {"running": ()},  # it has not started, or ends before it reports
        {"running": (slow(9, records=34),)},  # a long split: 0.34 records a second are not three times slower than 1
        {"running": (slow(9, seconds=90.0, records=30),)},  # exactly three times slower, not more
        {"running": (slow(9, seconds=4.9, records=0),)},
        {"committed": tasks(*range(4)), "in_flight": tasks(*range(4, 10))},
        {"committed": tasks(*range(4)), "running": tuple(map(slow, range(4, 10)))},  # not the end of the stage
        {"tasks": 11, "in_flight": tasks(9, 10)},  # a task waits for a worker
        {"backed_up": tasks(3)},  # at most one task in ten gets a backup
    ],
)
def test_no_backup(changes: dict[str, Any]) -> None:
    assert needs(replace(STRAGGLING, **changes), POLICY) == []


def test_the_slowest_get_the_few_backups_there_are() -> None:
    running = tuple(slow(task, records=task) for task in reversed(range(90, 100)))
    now = facts(
        tasks=100, committed=tasks(*range(90)), in_flight=tasks(*range(90, 100)), running=running, rates=[100.0]
    )
    assert needs(now, POLICY) == [BackUp(task, "slow") for task in range(90, 95)]
    assert needs(replace(now, backed_up=tasks(91, 99)), POLICY) == [BackUp(task, "slow") for task in (90, 92, 93)]
    assert needs(replace(now, backed_up=tasks(1, 2, 3, 4, 5)), POLICY) == []
    assert needs(replace(now, backed_up=tasks(1, 2, 3, 4, 5, 6, 7)), POLICY) == []


def test_one_that_has_taken_no_record_yet_is_the_slowest() -> None:
    assert needs(replace(STRAGGLING, running=(slow(9, records=0),)), POLICY) == [BackUp(9, "slow")]


@dataclass
class Message:
    """``name``: ``start``, ``barrier``, ``finish`` or the number of a task; ``stage``: 0 is the map stage, 1 reduce."""

    stage: int
    name: str


@dataclass
class World:
    """Just enough of a fleet: storage keeps what it has, everything else may be lost."""

    sizes: tuple[int, int]
    queue: list[Message] = field(default_factory=list)
    leased: list[Message] = field(default_factory=list)
    commits: list[dict[int, int]] = field(default_factory=lambda: [{}, {}])
    """In storage: by stage, how often each task was committed, which must be once."""
    told: bool = False
    """In storage: whether the barrier has written what the reduce tasks must read."""
    spec: bool = False
    done: list[set[int]] = field(default_factory=lambda: [set(), set()])
    """In the job store, like all fields below."""
    counted: list[set[int]] = field(default_factory=lambda: [set(), set()])
    fired: list[bool] = field(default_factory=lambda: [False, False])
    state: str = "queued"
    stage: int = -1
    published: set[int] = field(default_factory=set)
    republished: dict[str, Republished] = field(default_factory=dict)


class Fleet(RuleBasedStateMachine):
    """A job of one step on a fleet in which messages are lost, workers die at any point and Redis forgets."""

    @initialize(maps=st.integers(0, 3), reducers=st.integers(1, 3))
    def submit(self, maps: int, reducers: int) -> None:
        self.now = NOW
        self.world = World((maps, reducers), queue=[Message(-1, "start")])
        self.unseen: dict[str, float] = {}
        self.troubles = 0

    # The workers

    @precondition(lambda self: self.world.queue)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        queue = self.world.queue
        self.world.leased.append(queue.pop(data.draw(st.integers(0, len(queue) - 1))))

    @precondition(lambda self: self.world.leased)
    @rule(data=st.data(), killed=st.sampled_from(["no", "no", "no", "before", "committed", "claimed", "half"]))
    def run(self, data: st.DataObject, killed: str) -> None:
        """A worker does what a message says, until it is killed; then the message is delivered again."""
        at = data.draw(st.integers(0, len(self.world.leased) - 1))
        self.do(self.world.leased.pop(at), killed)

    def do(self, message: Message, killed: str = "no") -> None:
        world = self.world
        if killed == "before" or not (self.task if message.name.isdecimal() else self.coordinate)(message, killed):
            self.troubles += 1
            world.queue.append(message)

    def task(self, message: Message, killed: str) -> bool:
        world, number = self.world, int(message.name)
        if world.state not in ("", "queued", "running"):
            return True
        assert message.stage == 0 or world.told, "a reduce task that runs before it was told what to read"
        if number not in world.commits[message.stage]:
            world.commits[message.stage][number] = 1
        if killed == "committed":
            return False
        world.done[message.stage].add(number)
        world.counted[message.stage].add(number)
        if len(world.counted[message.stage]) == world.sizes[message.stage] and not world.fired[message.stage]:
            world.fired[message.stage] = True
            if killed == "claimed":  # the rerun finds the claim, so nobody publishes the body
                return False
            world.queue.append(Message(message.stage, ("barrier", "finish")[message.stage]))
        return True

    def coordinate(self, message: Message, killed: str) -> bool:
        world = self.world
        following = message.stage + 1
        if world.state not in ("queued", "running") or following in world.published:
            return True
        if message.name == "start" and world.spec:
            following = 1 if world.told else 0
            world.done[following] |= set(world.commits[following])
        elif message.name != "start":
            if len(world.commits[message.stage]) < world.sizes[message.stage]:
                return True  # too early
            world.done[message.stage] |= set(world.commits[message.stage])
        if message.name == "finish":
            world.state = "succeeded"
            return True
        world.spec = True
        world.told = world.told or message.name == "barrier"
        world.state, world.stage, world.republished = "running", following, {}
        left = [task for task in range(world.sizes[following]) if task not in world.done[following]]
        if killed == "half":
            left = left[: len(left) // 2]
        world.queue.extend(Message(following, str(task)) for task in left)
        if killed == "half":
            return False
        if not left:
            world.queue.append(Message(following, ("barrier", "finish")[following]))
        world.published.add(following)
        return True

    # What goes wrong

    @precondition(lambda self: self.world.queue)
    @rule(data=st.data())
    def a_message_is_lost(self, data: st.DataObject) -> None:
        queue = self.world.queue
        queue.pop(data.draw(st.integers(0, len(queue) - 1)))
        self.troubles += 1

    @precondition(lambda self: self.world.queue)
    @rule(data=st.data())
    def a_message_comes_twice(self, data: st.DataObject) -> None:
        queue = self.world.queue
        queue.append(queue[data.draw(st.integers(0, len(queue) - 1))])

    @rule()
    def the_queue_is_flushed(self) -> None:
        self.world.queue.clear()
        self.troubles += 1

    @rule(late=st.lists(st.sampled_from(["start", "barrier", "finish", "0", "1"]), max_size=3))
    def late_messages_arrive(self, late: list[str]) -> None:
        for name in late:
            stage = {"start": -1, "barrier": 0, "finish": 1}.get(name, 0)
            if self.world.spec and (not name.isdecimal() or int(name) < self.world.sizes[0]):
                self.world.queue.append(Message(stage, name))

    @precondition(lambda self: self.world.spec and self.world.state != "succeeded")
    @rule()
    def redis_restarts_empty(self) -> None:
        """Clients that wait for the job register it again, with the message that starts it."""
        world = self.world
        world.queue, world.leased = [Message(-1, "start")], []
        world.done, world.counted, world.fired = [set(), set()], [set(), set()], [False, False]
        world.state, world.stage, world.published, world.republished = "queued", -1, set(), {}
        self.troubles += 1

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 20.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    # The reconciler

    @rule()
    def reconcile(self) -> None:
        world = self.world
        flying = world.queue + world.leased
        known = Facts(
            now=self.now,
            state=world.state,
            kind=None if world.state == "queued" else ("map", "reduce")[world.stage],
            then=("barrier", "finish")[world.stage],
            tasks=0 if world.stage < 0 else world.sizes[world.stage],
            committed=frozenset(world.done[world.stage]) if world.stage >= 0 else frozenset(),
            in_flight=frozenset(int(m.name) for m in flying if m.name.isdecimal() and m.stage == world.stage),
            coordinating=any(not m.name.isdecimal() for m in flying),
            republished=world.republished,
        )
        self.unseen = {name: self.unseen.get(name, self.now) for name in missing(known, POLICY)}
        for action in needs(replace(known, unseen=self.unseen), POLICY):
            assert not isinstance(action, GiveUp) or self.troubles > POLICY.most_republished
            if isinstance(action, GiveUp):
                world.state = "failed"
                return
            assert isinstance(action, (Publish, Nudge))
            name = str(action.task) if isinstance(action, Publish) else action.what
            stage = -1 if name == "start" else world.stage
            before = world.republished.get(name, Republished(0, 0.0))
            assert self.now - before.last >= POLICY.lease, "published again within a lease"
            world.republished[name] = Republished(before.times + 1, self.now)
            world.queue.append(Message(stage, name))

    @invariant()
    def each_task_is_committed_once(self) -> None:
        for commits in getattr(self, "world", World((0, 0))).commits:
            assert set(commits.values()) <= {1}

    def teardown(self) -> None:
        """Once nothing more goes wrong, the job ends well, after a bounded number of messages."""
        if not hasattr(self, "world"):
            return
        world = self.world
        handled = 0
        for _ in range(60):
            while world.queue or world.leased:
                self.do((world.queue or world.leased).pop(0))
                handled += 1
            if world.state in ("succeeded", "failed"):
                break
            self.now += 4.0
            self.reconcile()
        assert handled < 200
        if world.state == "failed":
            assert self.troubles > POLICY.most_republished
            return
        assert world.state == "succeeded"
        assert [set(commits) for commits in world.commits] == [set(range(size)) for size in world.sizes]


Fleet.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_whatever_is_lost_the_job_ends = Fleet.TestCase
