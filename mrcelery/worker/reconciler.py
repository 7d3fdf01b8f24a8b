"""Supervision of running jobs: gathers the facts of each, and does what :mod:`mrcelery.coordinator.reconcile` says.

Every worker runs a reconciler, in a thread of its main process. One worker at a time holds a job. Reading a job that
makes progress costs a few commands; only for a job that has stopped moving are the queue and the leases searched, on
the server and in pieces, for the ids of its messages.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from celery import bootsteps

from mrcelery.attempt.catching_up import state_of
from mrcelery.attempt.decision import latest
from mrcelery.attempt.failure import fail_job, failure
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.config import Config
from mrcelery.coordinator.reconcile import Action, BackUp, Facts, GiveUp, Nudge, Publish, missing, needs
from mrcelery.coordinator.stages import stage_of
from mrcelery.errors import (
    BrokerUnreachableError,
    CorruptDataError,
    JobStoppedError,
    MRCeleryError,
    StorageOutageError,
    StorageUnreachableError,
    TaskError,
    UnsignedError,
)
from mrcelery.jobstore import stage_marks
from mrcelery.jobstore.base import generation_of, is_of_generation
from mrcelery.jobstore.connection import store_url
from mrcelery.jobstore.messages import start_message
from mrcelery.jobstore.presence import ailing, listening
from mrcelery.jobstore.queue_scan import in_flight, leased
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.jobstore.requests import storage_of
from mrcelery.reporting.report import write_report
from mrcelery.schema import object_keys
from mrcelery.schema.states import FINAL
from mrcelery.schema.stragglers import Policy, Republished
from mrcelery.schema.structs import Request
from mrcelery.schema.task_id import StageId
from mrcelery.storage import open_storage
from mrcelery.worker.broker_errors import Trouble
from mrcelery.worker.publish import PASSES, publish_again, publish_step

if TYPE_CHECKING:
    from celery import Celery

LONGEST_LEASE = 15.0
"""Minimum seconds before the same message is published again, however long the visibility timeout is."""

ENDED_AT_ONCE = 20
"""Ended jobs that are compared with their storage in one pass."""

SICK_NAMED = 3
"""Sick workers whose reasons appear in a job's failure."""

_log = logging.getLogger(__name__)


@dataclass
class _Watched:
    """What the reconciler remembers about a job from pass to pass."""

    request: Request
    envelope: bytes
    fields: dict[str, str] = field(default_factory=dict)
    moved: tuple[object, ...] = ()
    since: float = 0.0
    """When the job last moved."""
    searched: float = 0.0
    unseen: dict[str, float] = field(default_factory=dict)
    sick_since: float = 0.0
    """When all workers of its queue were first found sick; 0 if they are not."""


class Reconciler:
    """Reconciles all jobs at an app's broker."""

    def __init__(self, app: Celery, policy: Policy | None = None) -> None:
        self._app = app
        self.policy = policy or policy_of(app)
        config = Config.load({})
        self._store = RedisJobStore(store_url(app))
        self._jobs = OpenJobs(self._store, scratch=config.scratch or None, signing_key=config.signing_key or None)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{id(self)}"
        self._watched: dict[str, _Watched] = {}
        self._run = ""
        """The server run for which ended jobs were last listed."""
        self._ended: list[str] = []

    def reconcile(self) -> None:
        """Reconcile every job once. Raises :class:`mrcelery.errors.BrokerUnreachableError`."""
        self._compare_ended()
        live = self._store.live()
        for reconcile, found in ((self._reconcile_job, live), (self._reconcile_cancelled, self._store.stopping())):
            for job in found:
                try:
                    reconcile(job)
                except BrokerUnreachableError:
                    raise
                except (KeyError, ValueError, MRCeleryError) as e:
                    # One job's trouble must not block the others.
                    _log.warning("mrcelery: cannot reconcile job %s now: %s: %s", job, type(e).__name__, e)
        for job in self._watched.keys() - set(live):
            try:
                if not self._store.state(job):
                    self._register_again(job, self._watched[job])
                else:
                    self._store.keep_live(job)
            except StorageUnreachableError as e:
                _log.warning("mrcelery: cannot check now whether job %s is lost: %s", job, e)
            else:
                del self._watched[job]

    def _compare_ended(self) -> None:
        """Find retried jobs that a server has forgotten because it replaced another one, or was restored from old data.

        Runs whenever the server's run has changed, a few jobs per pass.
        """
        if run := self._store.unsure("", self._run):
            self._run, self._ended = run, self._store.unsure_jobs()
        for job in self._ended[:ENDED_AT_ONCE]:
            try:
                if self._store.hold(job, self._owner, 3 * self.policy.grace):
                    state_of(self._jobs, job)
            except BrokerUnreachableError:
                raise
            except JobStoppedError:
                pass  # its data is gone
            except (KeyError, ValueError, MRCeleryError) as e:
                _log.warning("mrcelery: cannot compare job %s with its storage: %s", job, e)
        del self._ended[:ENDED_AT_ONCE]

    def _register_again(self, job: str, watched: _Watched) -> None:
        """Register a job that Redis has lost: ``start`` resumes it from its spec and commits in storage."""
        if watched.fields.get("state") in (None, *FINAL):
            return
        storage = open_storage(watched.request.storage)
        if storage.stat(object_keys.spec(job)) is None:
            # The job ended after the last pass and was cleaned; or its code was lost with Redis, too, and only its
            # client has it.
            return
        with suppress(CorruptDataError, UnsignedError):  # ``start`` reads it too, and fails the job for it
            if latest(storage, self._jobs.seal(job), generation_of(watched.fields)).end is not None:
                return  # the job ended after the last pass
        fields = {k: v for k, v in watched.fields.items() if k != "state" and not is_of_generation(k)}
        if self._store.create(job, fields, watched.envelope):
            _log.warning("mrcelery: Redis has lost job %s: it is resumed from storage", job)
            queue = watched.request.options.queue
            self._store.push(queue, start_message(job, queue, generation_of(fields)))

    def _reconcile_job(self, job: str) -> None:
        now = time.time()
        watched = self._watched.get(job)
        if watched is None:
            envelope = self._store.request(job)
            if envelope is None:
                return
            watched = self._watched[job] = _Watched(self._jobs.request(job), envelope, since=now)
        if fields := self._store.fields(job):  # else Redis has lost it since it was listed
            watched.fields = fields
        if not fields or not self._store.hold(job, self._owner, 3 * self.policy.grace):
            watched.unseen = {}
            return
        if "started" in fields and self._store.unsure(job, fields.get("compared", "")):
            if state_of(self._jobs, job) in FINAL:
                return
            if not (fields := self._store.fields(job)):
                return
            watched.fields = fields
        facts = self._facts(job, watched, now)
        if facts is None:
            return
        for action in needs(facts, self.policy):
            self._do(job, watched.request, generation_of(watched.fields), facts, action)

    def _reconcile_cancelled(self, job: str) -> None:
        """Have a cancelled job's data removed if the message that should have removed it is lost."""
        now, store = time.time(), self._store
        fields = store.fields(job)
        if now - float(fields.get("finished") or 0) < self.policy.grace:
            return
        before = stage_marks.republished(store, job, 0, "cancelled").get("start", Republished(0, 0.0))
        if before.times >= self.policy.most_republished or now - before.last < self.policy.lease:
            return
        try:
            if "started" in fields and state_of(self._jobs, job) != "cancelled":
                return
            if root := storage_of(store, job, fields, self._jobs.signing_key):
                open_storage(root).stat(object_keys.spec(job))
        except StorageOutageError:
            return  # nothing is lost: the data cannot be removed now
        if leased(store, job) or not store.hold(job, self._owner, 3 * self.policy.grace):
            return
        stage_marks.note_republished(store, job, 0, "cancelled", "start", Republished(before.times + 1, now))
        _log.warning("mrcelery: job %s was cancelled, and its data is still there", job)
        queue = fields.get("queue") or "celery"
        store.push(queue, start_message(job, queue, generation_of(fields)))

    def _facts(self, job: str, watched: _Watched, now: float) -> Facts | None:
        """Gather the facts about the job; None if it is moving and needs no search."""
        fields, store, request = watched.fields, self._store, watched.request
        if fields["state"] == "queued":
            stage, total, done = None, 0, 0
        else:
            stage = _stage(request, fields)
            total, done = int(fields[f"total.{stage.name}"]), store.done(stage)
        moved = (fields["state"], fields.get("step"), fields.get("stage"), done)
        if moved != watched.moved:
            watched.moved, watched.since, watched.unseen = moved, now, {}
        if now - watched.since < self.policy.grace and now - watched.searched < self.policy.lease:
            return None
        watched.searched = now
        flying = in_flight(store, job, request.options.queue)
        head = f"{stage.name}." if stage else ""
        facts = Facts(
            now=now,
            state=fields["state"],
            step=stage.step if stage else 0,
            kind=stage.kind if stage else None,
            then=stage_of(request, fields, stage).then if stage else "finish",  # type: ignore[arg-type]
            tasks=total,
            committed=store.done_tasks(stage) if stage else frozenset(),
            in_flight=frozenset(int(i.split(".")[2]) for i in flying if head and i.startswith(head)),
            coordinating=any(i.rpartition(".")[2] in ("start", "barrier", "finish") for i in flying),
            running=stage_marks.running(store, stage, now) if stage else (),
            republished=stage_marks.republished(
                store, job, stage.step if stage else 0, stage.kind if stage else "start"
            ),
            rates=stage_marks.rates(store, stage) if stage else (),
            backed_up=stage_marks.backups(store, stage) if stage else frozenset(),
            speculative=request.options.speculative,
        )
        sick = self._sick(request.options.queue)
        watched.sick_since = (watched.sick_since or now) if sick else 0.0
        facts = replace(facts, sick=sick, sick_since=watched.sick_since)
        watched.unseen = {name: watched.unseen.get(name, now) for name in missing(facts, self.policy)}
        return replace(facts, unseen=watched.unseen)

    def _sick(self, queue: str) -> str:
        """Return why the workers of a queue take no tasks; "" if one of them does, or if there are none."""
        workers = self._store.workers()
        sick = ailing(workers, queue)
        if not sick or len(sick) < len(listening(workers, queue)):
            return ""
        return "; ".join(f"{name}: {reason}" for name, reason in list(sick.items())[:SICK_NAMED])

    def _do(self, job: str, request: Request, generation: int, facts: Facts, action: Action) -> None:
        store, step, kind = self._store, facts.step, facts.kind
        _log.warning("mrcelery: job %s, step %d, %s: %s", job, step, kind, action)
        if isinstance(action, GiveUp):
            error = TaskError(action.reason)
            failed = failure(error, job=job, step=step, kind=kind or "start", task=action.task)
            fail_job(self._store, failed, generation, self._jobs.signing_key)
            with suppress(MRCeleryError):
                write_report(store, job, self._jobs.signing_key)
            return
        if isinstance(action, Nudge):
            self._note(job, facts, action.what)
            publish_step(self._app, job, step, action.what, request.options.queue, generation)
            return
        assert kind is not None
        stage = stage_of(request, store.fields(job), StageId(job, step, kind))
        if isinstance(action, Publish):
            self._note(job, facts, str(action.task))
            publish_again(self._app, stage, action.task, action.attempt, generation)
        elif isinstance(action, BackUp):
            stage_marks.record_backup(store, stage.id.task_id(action.task), facts.now)
            publish_again(self._app, stage, action.task, 1, generation, avoid=action.worker, passes=PASSES)

    def _note(self, job: str, facts: Facts, name: str) -> None:
        # Before publishing: if this worker is killed between the two, the message is published later, but not too
        # often.
        before = facts.republished.get(name, Republished(0, 0.0))
        again = Republished(before.times + 1, facts.now)
        stage_marks.note_republished(self._store, job, facts.step, facts.kind or "start", name, again)

    def close(self) -> None:
        """Close the connection."""
        self._store.close()


def _stage(request: Request, fields: dict[str, str]) -> StageId:
    """Return the stage a job is in; during a coordinator step, the stage before it."""
    step = int(fields["step"])
    reduces = request.steps[step].has_reducer
    reducing = fields["stage"] == "reduce" or (fields["stage"] == "finish" and reduces)
    return StageId(request.job, step, "reduce" if reducing else "map")


def policy_of(app: Celery) -> Policy:
    """Derive the policy from the app's visibility timeout, after which an unrenewed lease ends."""
    options = app.conf.broker_transport_options or {}
    lease = min(LONGEST_LEASE, float(options.get("visibility_timeout", LONGEST_LEASE)))
    return Policy(lease=lease, grace=lease / 5, sick=Config.load({}).sick_patience)


class ReconcilerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs a reconciler in a thread of a worker's main process; processes forked later have none."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self._stopped = threading.Event()
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, args=(worker.app,), name="mrcelery-reconciler", daemon=True).start()

    def stop(self, worker: Any) -> None:
        """Stop the thread."""
        self._stopped.set()

    terminate = stop

    def _run(self, app: Celery) -> None:
        policy = policy_of(app)
        reconciler: Reconciler | None = None
        trouble = Trouble(_log, "mrcelery: cannot reconcile jobs now: %s", "mrcelery: jobs are reconciled again")
        while not self._stopped.wait(policy.grace):
            try:
                # Not right away: a worker that has just started has work to do.
                reconciler = reconciler or Reconciler(app, policy)
                reconciler.reconcile()
                trouble.over()
            except MRCeleryError as e:
                trouble.met(e)
            except Exception:
                _log.exception("mrcelery: reconciling jobs failed; it will be retried")
        if reconciler is not None:
            reconciler.close()
