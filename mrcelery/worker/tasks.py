"""The Celery tasks: thin wrappers that call the coordinator or run an attempt."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from billiard.process import current_process
from celery.exceptions import Ignore, Reject
from celery.signals import worker_init, worker_process_init

from mrcelery.attempt.catching_up import state_of
from mrcelery.attempt.cleanup import clean_up
from mrcelery.attempt.failure import fail_job, failure
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.config import Config
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.cancel import clean_cancelled
from mrcelery.coordinator.finish import finish, withdraw_output
from mrcelery.coordinator.stages import StageTasks, has_gone_on
from mrcelery.coordinator.start import start
from mrcelery.errors import (
    JobStoppedError,
    MissingExtraError,
    MRCeleryError,
    SickMachineError,
    StorageOutageError,
    StorageRefusedError,
    UnreachableError,
    shown,
    visible,
)
from mrcelery.job.raised import described
from mrcelery.jobstore import presence
from mrcelery.jobstore.base import generation_of
from mrcelery.jobstore.connection import store_url
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.reporting.report import write_report
from mrcelery.schema.backoff import pause
from mrcelery.schema.states import FINAL
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.addresses import scheme_of
from mrcelery.task import memory_limit
from mrcelery.worker.broker_errors import BROKER_ERRORS
from mrcelery.worker.elsewhere import check_extras, leave_to_others, pass_on, record_retry
from mrcelery.worker.job_processes import JobProcesses, supported
from mrcelery.worker.outages import LONGEST, Again, again, counted
from mrcelery.worker.publish import PASSES, publish_stage
from mrcelery.worker.sick import WorkerIsSick, check_machine, to_another

if TYPE_CHECKING:
    from celery import Celery, Task


class AttemptFailed(Exception):  # named for Flower, where it is read
    """A failed task's error as Celery shows it; the job's record has the full error."""


OPTIONS = {
    "bind": True,
    "acks_late": True,  # a task whose worker dies is delivered again
    "reject_on_worker_lost": True,  # also if only the child process died
    "ignore_result": True,  # results are commits in storage
    "max_retries": None,  # the job store counts attempts, over all deliveries
    "typing": False,
    "serializer": "json",
    # Settings that an app makes for its own tasks; they would replace None, the default of Celery's classes.
    "time_limit": 0,
    "soft_time_limit": 0,
    "rate_limit": 0,
    "track_started": False,
    "store_errors_even_if_ignored": False,
    "acks_on_failure_or_timeout": True,  # else a task that has failed its job is delivered forever
    "acks_on_failure": True,
    "acks_on_timeout": True,
    "retry_on_worker_lost": False,
    "autoretry_for": (),
    "throws": (AttemptFailed,),  # logged as one line: the job's record has the cause
}


ATTEMPT_REQUEST = "mrcelery.worker.lost:AttemptRequest"
"""Given by name: only workers need it, and it imports much more."""

OUR_REQUEST = "mrcelery.worker.lost:OurRequest"

RETRY_SECONDS = 1
"""Pause before another attempt after a storage or connection failure; doubles each time."""


BROKER_PATIENCE = 60.0
"""Seconds that a running task waits for a broker that restarts, so that its results are not thrown away."""

_log = logging.getLogger(__name__)

_open_jobs: dict[tuple[int, str], OpenJobs] = {}
_processes: JobProcesses | None = None


def register(app: Celery) -> None:
    """Add mrcelery's tasks to an app, unless it has them."""
    if "mrcelery.map" in app.tasks:
        return
    # The app's annotations are meant for its own tasks.
    base = type("Task", (app.Task,), {"abstract": True, "annotate": classmethod(lambda cls: None)})

    def declare(name: str, function: Callable[..., Any], **more: Any) -> None:
        app.task(_outliving_the_broker(function), name=f"mrcelery.{name}", base=base, **OPTIONS, **more)

    declare("start", _start, Request=OUR_REQUEST)
    declare("map", _map, Request=ATTEMPT_REQUEST)
    declare("barrier", _barrier, Request=OUR_REQUEST)
    declare("reduce", _reduce, Request=ATTEMPT_REQUEST)
    declare("finish", _finish, Request=OUR_REQUEST)


def _outliving_the_broker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a task delivered again if the broker or this machine makes it fail: its job is not at fault."""

    @functools.wraps(function)
    def run(self: Task, **kwargs: Any) -> Any:
        _check_message(kwargs)
        try:
            return function(self, **kwargs)
        except Reject as e:
            # Celery raises this if a retry could not be published: it would give the task up.
            if e.requeue:
                raise
            reason: object = e.reason
        except BROKER_ERRORS as e:
            # A retry would be published to the same broker, and lost; this message is delivered again.
            reason = str(e)
        except SickMachineError as e:
            time.sleep(RETRY_SECONDS)  # in case the worker cannot be kept from taking it again at once
            raise WorkerIsSick(visible(str(e)), e.certain) from None
        time.sleep(pause(0, 2 * RETRY_SECONDS, 2 * RETRY_SECONDS))
        raise Reject(reason, requeue=True)

    return run


def _check_message(kwargs: Mapping[str, Any]) -> None:
    """Ignore a message whose job or numbers are malformed: they become names of files and objects."""
    job = kwargs.get("job")
    plain = isinstance(job, str) and job not in ("", ".", "..") and "/" not in job
    numbers = [kwargs.get(name, 0) for name in ("step", "task", "generation", "attempt", "passes")]
    if not plain or any(type(number) is not int or number < 0 for number in numbers):
        _log.warning(
            "mrcelery: ignoring a message that does not name a task of a job: %s", shown(repr(dict(kwargs)), 300)
        )
        raise Ignore("it names no task of a job")


def _start(self: Task, *, job: str, generation: int = 0, **_: Any) -> None:
    _coordinate(self, job, -1, "start", generation, lambda jobs: start(jobs, job))


def _barrier(self: Task, *, job: str, step: int, generation: int = 0, **_: Any) -> None:
    _coordinate(self, job, step, "barrier", generation, lambda jobs: barrier(jobs, job, step))


def _finish(self: Task, *, job: str, step: int, generation: int = 0, **_: Any) -> None:
    try:
        _coordinate(self, job, step, "finish", generation, lambda jobs: finish(jobs, job, step))
    finally:
        # Also if the job had ended before: an earlier delivery may have been killed during its cleanup.
        jobs = open_jobs(self.app)
        if jobs.store.state(job) == "succeeded":
            _clean_up(self, jobs, job)


def _coordinate(
    task: Task, job: str, step: int, kind: str, generation: int, decide: Callable[[OpenJobs], StageTasks | None]
) -> None:
    jobs = open_jobs(task.app)
    began = kind != "start"
    try:
        fields = jobs.store.fields(job)
        if kind != "start" or fields.get("state") in FINAL:  # else `start` checks storage itself
            state_of(jobs, job)
            fields = jobs.store.fields(job)
        _check_generation(fields, job, generation)
        # A storage that was never reached is for the user to fix; one that was reached may recover.
        began = began or "started" in fields
        if has_gone_on(fields, kind, step):
            raise JobStoppedError(f"the {kind} of job {job} has been done")
        if kind in ("barrier", "finish"):
            jobs.store.update(job, {"stage": kind})
        stage = decide(jobs)
        if stage is not None:
            _check_generation(jobs.store.fields(job), job, generation)
            publish_stage(task.app, stage, generation)
            jobs.store.update(job, {stage.published: repr(time.time())})
    except Ignore:
        raise
    except BROKER_ERRORS:
        raise
    except JobStoppedError as e:
        if e.removed:
            raise Ignore(str(e)) from None
        # If the stage was cut short, this runs after all its tasks have stopped.
        with suppress(MRCeleryError):  # it is retried
            fields = jobs.store.fields(job)
            _check_generation(fields, job, generation)
            if fields.get("state") == "cancelled":
                clean_cancelled(jobs, cast("RedisJobStore", jobs.store), job, late=kind == "start")
            _write_report(jobs, job)
            jobs.forget(job)
        raise Ignore(str(e)) from None
    except MRCeleryError as e:
        if isinstance(e, MissingExtraError):
            leave_to_others(task, jobs, e, generation, failure(e, job=job, step=step, kind=kind))
        check_machine(jobs, e)
        if then := _comes_again(task, jobs, job, e, stranger=not began):
            record_retry(jobs, failure(e, job=job, step=step, kind=kind))
            raise task.retry(kwargs=then.kwargs, exc=AttemptFailed(visible(str(e))), countdown=then.countdown) from e
        _check_generation(jobs.store.fields(job), job, generation)
        fail_job(jobs.store, failure(e, job=job, step=step, kind=kind), generation, jobs.signing_key)
        _withdraw(jobs, job, kind)
        _write_report(jobs, job)
        raise AttemptFailed(visible(str(e))) from None
    except Exception as e:
        check_machine(jobs, e)
        _crashed(jobs, e, generation, job=job, step=step, kind=kind)
        _withdraw(jobs, job, kind)
        _write_report(jobs, job)
        raise


def _comes_again(
    task: Task, jobs: OpenJobs, job: str, e: MRCeleryError, *, stranger: bool = False, most: int = 0
) -> Again | None:
    """Return when and how a task is retried after an error; None if the error fails the job.

    ``most``: tries that count, 0 for a coordinator step.
    """
    kwargs, options = task.request.kwargs, jobs.options(job)
    if isinstance(e, StorageOutageError):
        try:
            return again(kwargs, e, options.storage_patience, stranger=stranger)
        except StorageOutageError as over:
            e.args = over.args
            return None
    passing = isinstance(e, UnreachableError) and not isinstance(e, StorageRefusedError) and not stranger
    tries = counted(kwargs, task.request.retries)
    if not (passing or getattr(e, "retryable", False)) or tries + 1 >= (most or max(4, options.max_attempts)):
        return None
    return Again(pause(tries, RETRY_SECONDS, LONGEST), dict(kwargs))


def _clean_up(task: Task, jobs: OpenJobs, job: str) -> None:
    try:
        clean_up(jobs, job)
    except StorageOutageError as e:
        # The job has succeeded; data it no longer needs is removed when the storage is back, or by `clean`.
        with suppress(StorageOutageError):
            then = again(task.request.kwargs, e, jobs.options(job).storage_patience)
            raise task.retry(kwargs=then.kwargs, exc=AttemptFailed(visible(str(e))), countdown=then.countdown) from e
    jobs.forget(job)


def _write_report(jobs: OpenJobs, job: str) -> None:
    """Write the report of a job that has not succeeded; write it again as the job's last attempts end."""
    with suppress(MRCeleryError):  # the storage may have failed: the job's record has the error anyway
        write_report(jobs.store, job, jobs.signing_key)


def _withdraw(jobs: OpenJobs, job: str, kind: str) -> None:
    if kind == "finish":
        # The storage may have failed: the job's failure is reported anyway.
        with suppress(MRCeleryError):
            withdraw_output(jobs, job)


def _map(self: Task, *, job: str, step: int, task: int, generation: int = 0, **more: Any) -> int:
    return _run(self, TaskId(job, step, "map", task), generation, **more)


def _reduce(self: Task, *, job: str, step: int, task: int, generation: int = 0, **more: Any) -> int:
    return _run(self, TaskId(job, step, "reduce", task), generation, **more)


def _run(
    self: Task, task_id: TaskId, generation: int, *, attempt: int, avoid: str = "", passes: int = 0, **_: Any
) -> int:
    _pass_on(self, task_id, generation, attempt=attempt, avoid=avoid, passes=passes)
    return _attempt(self, task_id, generation)


def _pass_on(task: Task, task_id: TaskId, generation: int, *, attempt: int, avoid: str, passes: int) -> None:
    passes = min(passes, PASSES)
    if passes > 0 and task.request.hostname == avoid:
        pass_on(task.app, open_jobs(task.app), task_id, generation, attempt=attempt, avoid=avoid, passes=passes)


def _attempt(task: Task, task_id: TaskId, generation: int) -> int:
    """Run the attempt; every delivery of a task returns its number, whichever attempt won."""
    jobs, job, number = open_jobs(task.app), task_id.job, task_id.task
    try:
        # A pool's main process supervises its children.
        alone = current_process().name != "MainProcess"
        worker = task.request.hostname or ""
        check_extras(jobs, job)
        with _killable():
            if alone and supported():
                _job_processes().attempt(jobs, task_id, worker, generation)
            else:
                run_attempt(jobs, task_id, worker=worker, alone=alone)
    except JobStoppedError:
        # Not an error, and the chord must not fail: its body finds that the job has ended, and does nothing.
        return number
    except BROKER_ERRORS:
        raise
    except MRCeleryError as e:
        if isinstance(e, MissingExtraError):
            jobs.store.excuse_attempt(task_id)
            leave_to_others(task, jobs, e, generation, failure(e, **task_id._asdict()))
        if (sick := to_another(jobs, task_id, e, worker=task.request.hostname or "")) is not None:
            raise sick from e
        if then := _comes_again(task, jobs, job, e, most=jobs.options(job).max_attempts):
            kwargs = {**then.kwargs, "attempt": task.request.retries + 1}
            if getattr(e, "elsewhere", False):
                kwargs |= {"avoid": task.request.hostname, "passes": PASSES}
            record_retry(jobs, failure(e, **task_id._asdict()))
            raise task.retry(kwargs=kwargs, exc=AttemptFailed(visible(str(e))), countdown=then.countdown) from e
        _check_generation(jobs.store.fields(job), job, generation)
        fail_job(jobs.store, failure(e, **task_id._asdict()), generation, jobs.signing_key)
        _write_report(jobs, job)
        raise AttemptFailed(visible(str(e))) from None
    except Exception as e:
        check_machine(jobs, e)
        _crashed(jobs, e, generation, **task_id._asdict())
        _write_report(jobs, job)
        if isinstance(e, MemoryError):  # Celery would end the worker with it
            raise AttemptFailed("MemoryError") from None
        raise
    return number


def _job_processes() -> JobProcesses:
    """Return the job processes of this pool process."""
    global _processes
    if _processes is None:
        _processes = JobProcesses()
    return _processes


def _check_generation(fields: Mapping[str, str], job: str, generation: int) -> None:
    """Ignore a message of an earlier generation of the job, given its fields: the retry published its own messages."""
    if generation_of(fields) != generation:
        raise Ignore(f"job {job} was retried meanwhile")


@contextmanager
def _killable() -> Iterator[None]:
    """End a pool process at once when its worker stops.

    Celery's way, an exception in the midst of user code, could be caught there, and would look like the user's own.
    """
    ours: dict[int, Any] = {}
    if current_process().name != "MainProcess" and threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGTERM), int(signal.SIGQUIT)):
            if callable(signal.getsignal(number)):  # else it is ignored, or left to the system
                ours[number] = signal.signal(number, lambda received, _: os._exit(128 + received))
    try:
        yield
    finally:
        for number, before in ours.items():
            signal.signal(number, before)


def _crashed(jobs: OpenJobs, e: Exception, generation: int, *, job: str, step: int, kind: str, task: int = -1) -> None:
    """Fail a job because of an internal error of mrcelery, and label it as one."""
    _check_generation(jobs.store.fields(job), job, generation)
    error = MRCeleryError(f"mrcelery itself failed ({described(e)}); the worker's log has the traceback")
    fail_job(jobs.store, failure(error, job=job, step=step, kind=kind, task=task), generation, jobs.signing_key)


def open_jobs(app: Celery) -> OpenJobs:
    """Return this process's open jobs for an app; their job store is in the same Redis as the app's queues."""
    url = str(app.conf.broker_url)
    jobs = _open_jobs.get((os.getpid(), url))
    if jobs is None:
        config = Config.load({})
        jobs = _open_jobs[os.getpid(), url] = OpenJobs(
            RedisJobStore(store_url(app), patience=BROKER_PATIENCE),
            storage=config.storage,
            scratch=config.scratch or None,
            signing_key=config.signing_key or None,
        )
    return jobs


@worker_init.connect  # type: ignore[untyped-decorator]
def _name_worker(sender: Any, **_: Any) -> None:
    """Record this worker's name for the code that runs in it: a job waited for there may wait for itself."""
    presence.this_worker = str(sender.hostname)


@worker_init.connect  # type: ignore[untyped-decorator]
def _import_storage(**_: Any) -> None:
    """Import the storage's libraries once, before the worker forks: boto3 takes a quarter of a second."""
    if scheme_of(Config.load({}).storage) == "s3":
        import mrcelery.storage.s3  # noqa: F401, PLC0415 - boto3 takes a quarter of a second


@worker_init.connect  # type: ignore[untyped-decorator]
def _check_memory(**_: Any) -> None:
    """Warn once, here rather than in each pool process, if no memory ceiling is possible."""
    memory_limit.usage_or_warning()


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _fresh_process(**_: Any) -> None:
    """Forget, in a child, what the parent process opened."""
    global _processes
    _open_jobs.clear()
    _processes = None
