"""The Celery tasks: thin, each calls the coordinator or runs an attempt."""

from __future__ import annotations

import functools
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
    TaskError,
    UnreachableError,
    visible,
)
from mrcelery.job.raised import described
from mrcelery.jobstore.base import generation_of
from mrcelery.jobstore.connection import store_url
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.reporting.report import write_report
from mrcelery.schema.structs import JobOptions
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.addresses import scheme_of
from mrcelery.worker.broker_errors import BROKER_ERRORS
from mrcelery.worker.elsewhere import check_extras, leave_to_others, pass_on, record_retry
from mrcelery.worker.job_processes import JobProcesses, supported
from mrcelery.worker.publish import publish_stage

if TYPE_CHECKING:
    from celery import Celery, Task


class AttemptFailed(Exception):  # named for Flower, where it is read
    """A failed task's error as Celery shows it; the job's record has it in full."""


OPTIONS = {
    "bind": True,
    "acks_late": True,  # a task whose worker dies is delivered again
    "reject_on_worker_lost": True,  # also where only the child process died
    "ignore_result": True,  # results are commits in storage
    "max_retries": None,  # attempts are counted in the job store, over all deliveries
    "typing": False,
    "serializer": "json",
    "throws": (AttemptFailed,),  # logged as a line: whose fault it was stands in the job's record
}


ATTEMPT_REQUEST = "mrcelery.worker.lost:AttemptRequest"
"""By name: only workers need it, which import much more."""

RETRY_SECONDS = 1
"""Pause before another attempt after a storage or a connection failed; doubles each time."""


BROKER_PATIENCE = 60.0
"""Seconds that a running task waits for a broker that restarts: what it has computed is not thrown away."""

_open_jobs: dict[tuple[int, str], OpenJobs] = {}
_processes: JobProcesses | None = None


def register(app: Celery) -> None:
    """Add mrcelery's tasks to an app, unless it has them."""
    if "mrcelery.map" in app.tasks:
        return

    def declare(name: str, function: Callable[..., Any], **more: Any) -> None:
        app.task(_outliving_the_broker(function), name=f"mrcelery.{name}", **OPTIONS, **more)

    declare("start", _start)
    declare("map", _map, Request=ATTEMPT_REQUEST)
    declare("barrier", _barrier)
    declare("reduce", _reduce, Request=ATTEMPT_REQUEST)
    declare("finish", _finish)


def _outliving_the_broker(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a task delivered again if the broker fails it, at whatever moment: that is no fault of its job."""

    @functools.wraps(function)
    def run(self: Task, **kwargs: Any) -> Any:
        try:
            return function(self, **kwargs)
        except Reject as e:
            # Celery's own where a retry could not be published: it would give the task up.
            if e.requeue:
                raise
            reason: object = e.reason
        except BROKER_ERRORS as e:
            # A retry would be published to that very broker, and lost; this delivery comes again.
            reason = str(e)
        time.sleep(RETRY_SECONDS)  # a broker that refuses this alone would deliver it at once
        raise Reject(reason, requeue=True)

    return run


def _start(self: Task, *, job: str, generation: int = 0) -> None:
    _coordinate(self, job, -1, "start", generation, lambda jobs: start(jobs, job))


def _barrier(self: Task, *, job: str, step: int, generation: int = 0) -> None:
    _coordinate(self, job, step, "barrier", generation, lambda jobs: barrier(jobs, job, step))


def _finish(self: Task, *, job: str, step: int, generation: int = 0) -> None:
    try:
        _coordinate(self, job, step, "finish", generation, lambda jobs: finish(jobs, job, step))
    finally:
        # Also where the job had ended before: an earlier delivery may have been killed as it cleaned up.
        jobs = open_jobs(self.app)
        if jobs.store.state(job) == "succeeded":
            _clean_up(jobs, job)


def _coordinate(
    task: Task, job: str, step: int, kind: str, generation: int, decide: Callable[[OpenJobs], StageTasks | None]
) -> None:
    jobs = open_jobs(task.app)
    began = kind != "start"
    try:
        fields = jobs.store.fields(job)
        _check_generation(fields, job, generation)
        # A storage that was never reached is the user's to correct; later it may come back.
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
        # Of a stage that was cut short this runs when all its tasks have stopped.
        with suppress(MRCeleryError):  # it is tried again
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
        transient = isinstance(e, UnreachableError) and began and task.request.retries < 3
        if transient or (isinstance(e, TaskError) and e.retryable and task.request.retries < 3):
            record_retry(jobs, failure(e, job=job, step=step, kind=kind))
            raise task.retry(
                exc=AttemptFailed(visible(str(e))), countdown=RETRY_SECONDS * 2**task.request.retries
            ) from e
        _check_generation(jobs.store.fields(job), job, generation)
        fail_job(jobs.store, failure(e, job=job, step=step, kind=kind))
        _withdraw(jobs, job, kind)
        _write_report(jobs, job)
        raise AttemptFailed(visible(str(e))) from None
    except Exception as e:
        _crashed(jobs, e, generation, job=job, step=step, kind=kind)
        _withdraw(jobs, job, kind)
        _write_report(jobs, job)
        raise


def _clean_up(jobs: OpenJobs, job: str) -> None:
    clean_up(jobs, job)
    jobs.forget(job)


def _write_report(jobs: OpenJobs, job: str) -> None:
    """Write the report of a job that has not succeeded; again, as its last attempts end."""
    with suppress(MRCeleryError):  # the storage may be what failed: then the job's record says it all the same
        write_report(jobs.store, job)


def _withdraw(jobs: OpenJobs, job: str, kind: str) -> None:
    if kind == "finish":
        # The storage may be what failed: then the job's failure is said all the same.
        with suppress(MRCeleryError):
            withdraw_output(jobs, job)


def _map(
    self: Task, *, job: str, step: int, task: int, attempt: int, avoid: str = "", passes: int = 0, generation: int = 0
) -> int:
    task_id = TaskId(job, step, "map", task)
    _pass_on(self, task_id, generation, attempt=attempt, avoid=avoid, passes=passes)
    return _attempt(self, task_id, generation)


def _reduce(
    self: Task, *, job: str, step: int, task: int, attempt: int, avoid: str = "", passes: int = 0, generation: int = 0
) -> int:
    task_id = TaskId(job, step, "reduce", task)
    _pass_on(self, task_id, generation, attempt=attempt, avoid=avoid, passes=passes)
    return _attempt(self, task_id, generation)


def _pass_on(task: Task, task_id: TaskId, generation: int, *, attempt: int, avoid: str, passes: int) -> None:
    if passes > 0 and task.request.hostname == avoid:
        pass_on(task.app, open_jobs(task.app), task_id, generation, attempt=attempt, avoid=avoid, passes=passes)


def _attempt(task: Task, task_id: TaskId, generation: int) -> int:
    """Run the attempt; every delivery of a task returns its number, whoever won."""
    jobs, job, number = open_jobs(task.app), task_id.job, task_id.task
    try:
        # The main process of a pool supervises its children.
        alone = current_process().name != "MainProcess"
        worker = task.request.hostname or ""
        check_extras(jobs, job)
        with _killable():
            if alone and supported():
                _job_processes().attempt(jobs, task_id, worker, generation)
            else:
                run_attempt(jobs, task_id, worker=worker, alone=alone)
    except JobStoppedError:
        # Not an error, and the chord must not fail: its body finds the job ended, and does nothing.
        return number
    except BROKER_ERRORS:
        raise
    except MRCeleryError as e:
        if isinstance(e, MissingExtraError):
            jobs.store.excuse_attempt(task_id)
            leave_to_others(task, jobs, e, generation, failure(e, **task_id._asdict()))
        most = _most_attempts(jobs, job)
        retries = task.request.retries
        if (getattr(e, "retryable", False) or isinstance(e, UnreachableError)) and retries + 1 < most:
            kwargs = {**task.request.kwargs, "attempt": retries + 1}
            record_retry(jobs, failure(e, **task_id._asdict()))
            raise task.retry(
                kwargs=kwargs, exc=AttemptFailed(visible(str(e))), countdown=RETRY_SECONDS * 2 ** min(retries, 5)
            ) from e
        _check_generation(jobs.store.fields(job), job, generation)
        fail_job(jobs.store, failure(e, **task_id._asdict()))
        _write_report(jobs, job)
        raise AttemptFailed(visible(str(e))) from None
    except Exception as e:
        _crashed(jobs, e, generation, **task_id._asdict())
        _write_report(jobs, job)
        if isinstance(e, MemoryError):  # Celery would end the worker with it
            raise AttemptFailed("MemoryError") from None
        raise
    return number


def _job_processes() -> JobProcesses:
    """Return the processes of jobs of this process of the pool."""
    global _processes
    if _processes is None:
        _processes = JobProcesses()
    return _processes


def _check_generation(fields: Mapping[str, str], job: str, generation: int) -> None:
    """Ignore a message of an earlier generation of the job, which has these fields: a retry published its own."""
    if generation_of(fields) != generation:
        raise Ignore(f"job {job} was retried meanwhile")


@contextmanager
def _killable() -> Iterator[None]:
    """End a pool's process at once when its worker stops.

    Celery's own way, an exception in the midst of user code, could be caught there, and would look like user code's.
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


def _most_attempts(jobs: OpenJobs, job: str) -> int:
    """Return the job's limit; the default if its spec cannot be read, which must fail the job too."""
    try:
        return jobs.open(job).spec.request.options.max_attempts
    except MRCeleryError:
        return JobOptions().max_attempts


def _crashed(jobs: OpenJobs, e: Exception, generation: int, *, job: str, step: int, kind: str, task: int = -1) -> None:
    """Fail a job for an error of mrcelery's own, and say that it is one."""
    _check_generation(jobs.store.fields(job), job, generation)
    error = MRCeleryError(f"mrcelery itself failed ({described(e)}); the worker's log has the traceback")
    fail_job(jobs.store, failure(error, job=job, step=step, kind=kind, task=task))


def open_jobs(app: Celery) -> OpenJobs:
    """Return this process's open jobs for an app; their job store is beside the app's queues."""
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
def _import_storage(**_: Any) -> None:
    """Import what the storage needs once, before the worker forks: boto3 takes a quarter of a second."""
    if scheme_of(Config.load({}).storage) == "s3":
        import mrcelery.storage.s3  # noqa: F401, PLC0415 - boto3 takes a quarter of a second


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _fresh_process(**_: Any) -> None:
    """Forget what the parent process opened, in a child."""
    global _processes
    _open_jobs.clear()
    _processes = None
