"""One attempt at a task, from its first mark in the job store to its commit."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial

from mrcelery import journal, layout, marks, watch
from mrcelery.badrecords import GROUP, BadRecords, killers, losses, too_many
from mrcelery.badrecords import Mark as RecordMark
from mrcelery.capture import captured, own_environment
from mrcelery.ceiling import ceiling
from mrcelery.commit import commit, committed
from mrcelery.config import show_size
from mrcelery.encoding import decode, encode
from mrcelery.ending import take_back
from mrcelery.errors import (
    AttemptsLostError,
    CorruptDataError,
    DamagedPartError,
    JobStoppedError,
    MRCeleryError,
    SupersededError,
    TaskError,
    UnreachableError,
)
from mrcelery.formats.source import in_turn
from mrcelery.hooks import hooks
from mrcelery.jobstore.base import JobStore
from mrcelery.mapper import run_map
from mrcelery.partitioners import with_partitioner
from mrcelery.progress import HUNG, Mark, mark_path
from mrcelery.protocols import pickle_allowed
from mrcelery.records import BadRecord, Commit, Failure, Kind, Losses, ShuffleInput, Split, add_counters
from mrcelery.reducer import run_reduce
from mrcelery.repair import MOST, mended, repaired, writer
from mrcelery.runtime import ActiveJob, Runtime
from mrcelery.states import FINAL, Outcome
from mrcelery.storage import scheme_of
from mrcelery.storage.transfers import Transfers, transfers
from mrcelery.task import Task
from mrcelery.watch import collector_off, poller

BAD_RECORD = 1 << 18
"""Bytes that one bad record is written down in, at most: its traceback and repr are cut."""
LATE_SECONDS = 1.0
"""An attempt that took so long looks whether its job goes on when it has committed; no lease is shorter."""


def run_attempt(
    runtime: Runtime,
    job: str,
    step: int,
    kind: Kind,
    number: int,
    *,
    capture: bool = True,
    worker: str = "",
    alone: bool = False,
) -> Commit:
    """Run a task and return the commit that counts, this attempt's or another one's.

    ``capture``: keep what user code prints and logs in storage instead of letting it through. ``worker``: the
    name of this worker, so that a backup of the task can be sent to another. ``alone``: this process runs nothing
    else meanwhile and is one of a pool, so it may have a memory ceiling, and another process sees to it when it dies.
    Raises :class:`JobStoppedError` where the job has ended, and any other
    :class:`mrcelery.errors.MRCeleryError` for what made the attempt fail.
    """
    with transfers(behind=True) as moved:
        where = journal.of_process(worker or socket.gethostname(), os.getpid())
        return _attempt(runtime, moved, job, step, kind, number, capture=capture, worker=where, alone=alone)


def _attempt(
    runtime: Runtime,
    moved: Transfers,
    job: str,
    step: int,
    kind: Kind,
    number: int,
    *,
    capture: bool,
    worker: str,
    alone: bool,
) -> Commit:
    store = runtime.store
    if store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    active = runtime.job(job)
    token = secrets.token_hex(3)
    count = journal.begin(store, job, step, kind, number, token, worker)
    attempt = f"{count}-{token}"
    with _journaled(store, job, step, kind, number, attempt, worker) as tell:
        try:
            winner = _first_commit(
                runtime, moved, active, step, kind, number, count, attempt, capture=capture, worker=worker, alone=alone
            )
        except JobStoppedError:
            moved.drop()
            with suppress(UnreachableError):  # else it is found by `clean`
                take_back(runtime, active, step, kind, number, attempt)
            raise
        if winner.attempt != attempt:
            tell("superseded")
    return winner


@contextmanager
def _journaled(
    store: JobStore, job: str, step: int, kind: Kind, number: int, attempt: str, worker: str
) -> Iterator[Callable[..., None]]:
    """Write down how an attempt ends that has no commit of its own."""
    began = time.monotonic()

    def tell(outcome: Outcome, error: str = "") -> None:
        seconds = time.monotonic() - began
        with suppress(UnreachableError):  # what went wrong, if anything did, is worth more
            journal.ended(store, job, step, kind, number, attempt, outcome, worker=worker, seconds=seconds, error=error)

    try:
        yield tell
    except JobStoppedError:
        tell("cancelled")
        raise
    except Exception as e:
        tell("failed", str(e) if isinstance(e, MRCeleryError) else f"{type(e).__name__}: {e}")
        raise


def _first_commit(
    runtime: Runtime,
    moved: Transfers,
    active: ActiveJob,
    step: int,
    kind: Kind,
    number: int,
    count: int,
    attempt: str,
    *,
    capture: bool,
    worker: str,
    alone: bool,
) -> Commit:
    """Run a task, unless it has been committed; the first commit of it."""
    store, job, began = runtime.store, active.id, time.monotonic()
    lost = Losses()
    if count > 1:
        earlier = committed(active.storage, job, step, kind, number)
        if earlier is not None:
            return _remember(runtime, active, earlier)
        lost = losses(store, job, step, kind, number)
        # Records that are skipped for killing their process took two attempts each to find.
        most = active.spec.request.options.max_attempts + 2 * len(killers(lost))
        if count > most and count > most + marks.not_failed(store, job, step, kind, number):
            raise _never_ended(kind, number, most, lost)
    try:
        with collector_off():
            run = partial(_run, runtime, active, moved, capture=capture, worker=worker, alone=alone)
            mine = _on_whole_parts(runtime, active, step, kind, number, attempt, lost, run)
    except MRCeleryError as e:
        if (other := _superseded(runtime, active, step, kind, number, e)) is not None:
            return other
        e.attempt = attempt
        raise
    except MemoryError as e:
        raise _too_little_memory(e, active.spec.request.options.memory, attempt) from None
    except OSError as e:
        _check_goes_on(store, job)
        raise _of_the_machine(e, attempt) from e
    winner = commit(active.storage, mine)
    if time.monotonic() - began >= LATE_SECONDS:
        _check_goes_on(store, job)  # not before the commit: it could stand still between the two
    _remember(runtime, active, winner)
    if active.spec.request.options.speculative:
        marks.tell_rate(store, winner)
    return winner


def _check_goes_on(store: JobStore, job: str) -> None:
    """Raise where the job has ended: an attempt that stood still comes back to what has been cleaned up."""
    if store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")


def _superseded(
    runtime: Runtime, active: ActiveJob, step: int, kind: Kind, number: int, error: MRCeleryError
) -> Commit | None:
    """The commit of another attempt, where there is one: then what went wrong with this one is nobody's concern.

    Raises :class:`JobStoppedError` where the job has ended and its commits are gone.
    """
    if isinstance(error, JobStoppedError) or not runtime.store.look(active.id, step, kind, number)[1]:
        return None
    other = committed(active.storage, active.id, step, kind, number)
    if other is None and isinstance(error, SupersededError):
        raise JobStoppedError(f"job {active.id} has ended")
    return other


def _on_whole_parts(
    runtime: Runtime,
    active: ActiveJob,
    step: int,
    kind: Kind,
    number: int,
    attempt: str,
    lost: Losses,
    run: Callable[..., Commit],
    within: tuple[int, Kind, int] | None = None,
) -> Commit:
    """Run the attempt; where a part of its input is damaged, once more, and then with the part made anew."""
    met: Counter[str] = Counter()
    split: Split | None = None
    while True:
        try:
            return run(step, kind, number, attempt, lost=lost, within=within, split=split)
        except DamagedPartError as e:
            key = e.part.key
            met[key] += 1
            if met[key] > 2 or len(met) > MOST:
                raise
            if met[key] == 2:
                wrote = writer(e.part)
                old = committed(active.storage, active.id, *wrote)
                if old is None:
                    raise
                known = losses(runtime.store, active.id, *wrote)
                # Its input may be damaged in its turn.
                mine, named = within or (step, kind, number), f"{attempt}-for-{number}"
                new = _on_whole_parts(runtime, active, *wrote, named, known, run, mine)
                if kind == "map":
                    split = mended(split or runtime.split(active, step, number), active.storage.uri, key, new)
                    continue
                told = layout.shuffle_input(active.id, step, number)
                whole = repaired(decode(active.storage.read(told), ShuffleInput, told), key, old, new)
                active.storage.write(told, encode(whole))


def _remember(runtime: Runtime, active: ActiveJob, winner: Commit) -> Commit:
    """Tell the job store of a commit that counts. Raises where the job has skipped too many records with it."""
    task = (active.id, winner.step, winner.kind, winner.task)
    note, sums = journal.committed(winner)
    runtime.store.add_commit(*task, encode(winner), note=note, add=sums)
    if winner.bad_records:
        limit = active.spec.request.options.max_bad_records
        if runtime.store.note_bad(*task, winner.bad_records) > limit:
            first = active.storage.read(winner.bad_key, 0, BAD_RECORD).partition(b"\n")[0]
            raise too_many(limit, decode(first, BadRecord, winner.bad_key))
    return winner


def _never_ended(kind: Kind, number: int, most: int, lost: Losses) -> AttemptsLostError:
    reason = lost.reason or "its process died or was killed each time, by a crash in its code or for want of memory"
    remedy = "correct what crashes in the job's code, or raise --memory"
    if HUNG in reason:
        remedy = f"have code that takes long say that it goes on (set_status), or raise {HUNG} on the workers"
    times = f"{most} time{'s' if most > 1 else ''}"
    return AttemptsLostError(
        f"{kind} task {number} was started {times} and never came to an end: {reason}; {remedy}; "
        "`mrcelery logs` and the workers' logs may have more"
    )


def _too_little_memory(e: MemoryError, memory: int, attempt: str) -> TaskError:
    error = TaskError(
        f"{type(e).__name__}: the task needs more memory than its ceiling allows: raise --memory from "
        f"{show_size(memory)}"
    )
    error.attempt = attempt
    return error


def _of_the_machine(e: OSError, attempt: str) -> TaskError:
    """What the worker's own disk, or a file that should be there, made go wrong; user code's is wrapped already."""
    error: TaskError
    if isinstance(e, FileNotFoundError):
        error = CorruptDataError(f"{e.filename or e} is gone, which the job still needs: submit it again")
    else:
        error = TaskError(
            f"{e.filename or 'scratch'}: {e.strerror or e}: make room on the worker, or set MRCELERY_SCRATCH to a "
            "folder that has it"
        )
        error.retryable = True  # by a worker that has room
    error.attempt = attempt
    return error


def _run(
    runtime: Runtime,
    active: ActiveJob,
    moved: Transfers,
    step: int,
    kind: Kind,
    number: int,
    attempt: str,
    *,
    capture: bool,
    worker: str,
    alone: bool,
    lost: Losses,
    within: tuple[int, Kind, int] | None = None,
    split: Split | None = None,
) -> Commit:
    """Run user code and write the parts, which nobody knows of before the commit is made.

    ``within``: the task within whose attempt this one runs again. That is the one that others watch, and
    may commit before us; what kills the process is not told as its records. ``split``: what a map task reads, where
    that is not what its plan says.
    """
    watched = within or (step, kind, number)
    request, storage = active.spec.request, active.storage
    moved.memory = min(moved.memory, request.options.memory // 8)
    # The process's number in the name: where it dies, another removes what it leaves.
    name = f"{active.id}-{step}-{kind}-{number}-{attempt}.{os.getpid()}"
    scratch = os.path.join(runtime.scratch, "tasks", name)
    began, since = time.monotonic(), time.time()
    keeper = os.getppid() if alone else os.getpid()
    mark = Mark(mark_path(runtime.scratch, active.id, *watched, os.getpid()), keeper)
    allowed = pickle_allowed.set(request.options.allow_pickle)

    def alive(text: str) -> None:
        mark.touch()
        runtime.store.update(active.id, {"status": text})

    bad: BadRecords | None = None
    limited = ceiling(request.options.memory) if alone else nullcontext()
    try:
        code = runtime.code(active)
        if (limit := request.options.max_bad_records) > 0:
            in_hand = RecordMark(runtime.scratch) if alone and within is None else None
            bad = BadRecords(
                active.id, step, kind, number, attempt, limit=limit, scratch=scratch, lost=lost, mark=in_hand
            )  # fmt: skip
        with (
            limited,
            captured(storage, layout.log(active.id, step, kind, number, attempt)) if capture else nullcontext() as log,
            own_environment(),
            code.activate(),
        ):
            job = code.job(list(request.args))
            job.status_hook = alive
            task = Task(
                job_id=active.id,
                step=step,
                kind=kind,
                number=number,
                attempt=attempt,
                options=request.options,
                reducers=active.spec.steps[step].reducers,
                last_step=step == len(active.spec.steps) - 1,
                storage=storage,
                job=job,
                hooks=with_partitioner(hooks(job, step), active.spec.steps[step]),
                scratch=scratch,
                poll=poller(
                    runtime.store,
                    active.id,
                    *watched,
                    attempt=attempt,
                    worker=worker,
                    mark=mark,
                    records=lambda: task.records_in,
                    share=log.share if log is not None else None,
                ),
                bad=bad,
            )
            if kind == "map":
                split = split or runtime.split(active, step, number)
                with in_turn(split.extents):
                    parts = run_map(task, split)
            else:
                key = layout.shuffle_input(active.id, step, number)
                parts = run_reduce(task, decode(storage.read(key), ShuffleInput, key))
            # Only plain data may go on: a counter name could be any object of the user's.
            counters = {
                str(group): {str(name): int(amount) for name, amount in names.items()}
                for group, names in job.counters.items()
            }
        bad_key = ""
        if bad is not None and bad.count:
            add_counters(counters, {GROUP: {f"step {step}, {kind}": bad.count}})
            bad_key = bad.write(storage)
        moved.flush()  # a commit must name nothing that is not there
    except TaskError:
        if bad is not None:
            # What was skipped until then helps to see why; what went wrong now is worth more.
            with suppress(UnreachableError), transfers():
                bad.write(storage)
        raise
    finally:
        mark.close()
        if bad is not None:
            bad.close()
        pickle_allowed.reset(allowed)
        shutil.rmtree(scratch, ignore_errors=True)
        if time.monotonic() - began >= watch.TELL_SECONDS:
            with suppress(UnreachableError):
                marks.tell_ended(runtime.store, active.id, *watched, attempt)
    if scheme_of(storage.uri) == "s3":
        moved.count("PUT")  # the commit's own, which is about to be made
    return Commit(
        job=active.id,
        step=step,
        kind=kind,
        task=number,
        attempt=attempt,
        parts=parts,
        counters=counters,
        records_in=task.records_in,
        records_out=task.records_out,
        bytes_in=task.bytes_in,
        bytes_out=sum(part.bytes for part in parts),
        seconds=round(time.monotonic() - began, 6),
        host=socket.gethostname(),
        began=round(since, 3),
        worker=worker,
        requests=dict(moved.requests),
        bad_records=bad.count if bad is not None else 0,
        bad_key=bad_key,
    )


def failure(error: MRCeleryError, *, job: str, step: int = -1, kind: str = "", task: int = -1) -> Failure:
    """What the job's record says of an error."""
    return Failure(
        error=type(error).__name__,
        message=str(error),
        exit_code=error.exit_code,
        traceback=getattr(error, "traceback", ""),
        job=job,
        step=step,
        kind=kind,
        task=task,
        attempt=error.attempt,
        file=getattr(error, "file", ""),
        offset=-1 if (offset := getattr(error, "offset", None)) is None else offset,
        record=getattr(error, "record", ""),
    )


def fail_job(runtime: Runtime, failed: Failure) -> bool:
    """End a job as failed; the first failure stays."""
    return runtime.store.move(failed.job, "failed", {"failure": encode(failed).decode(), "finished": repr(time.time())})
