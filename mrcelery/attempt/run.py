"""One attempt at a task, from its registration in the job store to its commit."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

from msgspec.structs import replace as with_fields

from mrcelery.attempt import heartbeat
from mrcelery.attempt.begin import begin
from mrcelery.attempt.cleanup import take_back
from mrcelery.attempt.commit import commit, committed
from mrcelery.attempt.failure import never_ended, too_little_memory
from mrcelery.attempt.heartbeat import collector_off, poller
from mrcelery.attempt.machine import of_the_machine, sickness
from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.attempt.orders import Begun
from mrcelery.attempt.output_capture import Log, Said, captured, own_environment
from mrcelery.attempt.progress_file import ProgressFile, progress_path
from mrcelery.attempt.repair import MOST, mended, repaired
from mrcelery.errors import (
    ChangedInputError,
    DamagedPartError,
    JobStoppedError,
    MRCeleryError,
    StorageOutageError,
    SupersededError,
    TaskError,
    UnreachableError,
    mask,
    writable,
)
from mrcelery.formats.source import in_turn
from mrcelery.job.hooks import hooks
from mrcelery.job.partitioners import with_partitioner
from mrcelery.job.raised import blamed, described, watching
from mrcelery.jobstore import journal, stage_marks
from mrcelery.protocols import pickle_allowed
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import damaged, decode
from mrcelery.schema.states import FINAL, Outcome
from mrcelery.schema.structs import BadRecord, Commit, Counters, Losses, Part, ShuffleInput, Split, add_counters
from mrcelery.schema.task_id import TaskId
from mrcelery.shipping.workspace import LoadedBundle
from mrcelery.shuffle.damage import writer
from mrcelery.storage import scheme_of
from mrcelery.storage.transfers import Transfers, transfers
from mrcelery.task.bad_records import GROUP, BadRecords, RecordMarker, killers, losses, note_loss, too_many
from mrcelery.task.context import Task
from mrcelery.task.mapper import run_map
from mrcelery.task.memory_limit import HELD_TOO_MUCH, ceiling
from mrcelery.task.reducer import run_reduce

BAD_RECORD = 1 << 18
"""Largest size in bytes of one bad record's description: its traceback and repr are cut."""
LATE_SECONDS = 1.0
"""An attempt that took this long checks after its commit that its job has not ended; no lease is shorter."""


def run_attempt(jobs: OpenJobs, task: TaskId, *, capture: bool = True, worker: str = "", alone: bool = False) -> Commit:
    """Run a task in this process and return the commit that counts: this attempt's or another one's.

    ``capture``: keep what user code prints and logs in storage instead of letting it through. ``worker`` and ``alone``
    are passed to :func:`begin` and :func:`run`. Raises :class:`JobStoppedError` if the job has ended, and any other
    :class:`mrcelery.errors.MRCeleryError` for the attempt's failure.
    """
    return run(jobs, begin(jobs, task, worker, alone=alone), said=Said() if capture else None, alone=alone)


def run(jobs: OpenJobs, begun: Begun, *, said: Said | None, alone: bool) -> Commit:
    """Run an attempt that has begun; see :func:`run_attempt`.

    ``said`` takes what user code prints and logs. ``alone``: this process runs nothing else meanwhile, so it may have
    a memory ceiling.
    """
    with transfers(behind=True) as moved:
        moved.requests.update(begun.requests)
        attempt = Attempt(jobs, jobs.open(begun.job), begun.task_id, begun.name, begun, moved, said=said, alone=alone)
        with watching():
            return attempt.run()


class _Began(NamedTuple):
    """When an attempt began: by the monotonic clock, and in epoch seconds."""

    monotonic: float
    epoch: float


@dataclass(frozen=True)
class Attempt:
    """One attempt at a task, with the state shared by all its steps."""

    jobs: OpenJobs
    active: OpenJob
    task: TaskId
    name: str
    """Its number and a random part, as in its commit and its keys in storage."""
    begun: Begun
    moved: Transfers
    _: KW_ONLY
    said: Said | None
    alone: bool
    within: TaskId | None = None
    """The task whose attempt runs this one again, in order to rebuild a damaged part of its input."""

    @property
    def watched(self) -> TaskId:
        """Return the task whose commit by another attempt supersedes this one."""
        return self.within or self.task

    @property
    def scratch(self) -> str:
        """Return this attempt's folder for spills."""
        job, step, kind, task = self.task
        # The name contains the process id: if the process dies, another one removes the folder.
        return os.path.join(self.jobs.scratch, "tasks", f"{job}-{step}-{kind}-{task}-{self.name}.{self.begun.pid}")

    def run(self) -> Commit:
        """Run the attempt and return the commit that counts; record how the attempt ended."""
        with self._journaled() as record:
            try:
                winner = self._first_commit()
            except JobStoppedError:
                self.moved.drop()
                with suppress(UnreachableError):  # else `clean` finds it
                    take_back(self.jobs, self.active, self.task, self.name)
                raise
            if winner.attempt != self.name:
                record("superseded")
        return winner

    @contextmanager
    def _journaled(self) -> Iterator[Callable[..., None]]:
        """Record the end of an attempt that has no commit itself."""
        began = time.monotonic()

        def record(outcome: Outcome, error: str = "") -> None:
            seconds = time.monotonic() - began
            with suppress(UnreachableError):  # the attempt's own error, if any, is worth more
                journal.ended(
                    self.jobs.store,
                    self.task,
                    self.name,
                    outcome,
                    worker=self.begun.worker,
                    seconds=seconds,
                    error=error,
                )

        try:
            yield record
        except JobStoppedError:
            record("cancelled")
            raise
        except Exception as e:
            if isinstance(e, StorageOutageError):
                self.jobs.store.excuse_attempt(self.task)
            record("failed", str(e) if isinstance(e, MRCeleryError) else described(e))
            raise

    def _first_commit(self) -> Commit:
        """Run the task, unless it is committed already, and return its first commit."""
        began, lost = time.monotonic(), Losses()
        if self.begun.number > 1:
            earlier = self._committed(self.task)
            if earlier is not None:
                return self._remember(earlier)
            lost = losses(self.jobs.store, self.task, self.active.seal)
            self._check_number(lost)
        try:
            with collector_off():
                mine = self._on_whole_parts(lost)
        except MRCeleryError as e:
            if (other := self._superseded(e)) is not None:
                return other
            e.attempt = self.name
            if (sick := sickness(e, self.jobs)) is None or sick is e:
                raise
            raise sick from e
        except MemoryError as e:
            raise too_little_memory(e, self.active.spec.request.options.memory, self.name) from None
        except OSError as e:
            self._check_goes_on()
            raise of_the_machine(e, self.name, self.jobs) from e
        winner = commit(self.active.storage, mine, self.active.seal)
        if time.monotonic() - began >= LATE_SECONDS:
            self._check_goes_on()  # not before the commit: the process could be suspended between the two
        self._remember(winner)
        if self.active.spec.request.options.speculative:
            stage_marks.record_rate(self.jobs.store, winner)
        return winner

    def _committed(self, task: TaskId) -> Commit | None:
        return committed(self.active.storage, task, self.active.seal)

    def _check_number(self, lost: Losses) -> None:
        """Raise if the task was started too often or held too much; ``lost`` describes the attempts that died."""
        options = self.active.spec.request.options
        if lost.reason == HELD_TOO_MUCH and not options.max_bad_records:  # else it may be a record's fault
            # After a retry of the job, this is for the new attempt to find out.
            note_loss(self.jobs.store, self.task, "", None, self.active.seal)
            raise too_little_memory(None, options.memory, self.name)
        # A record that is skipped because it kills its process took two attempts to find.
        most = options.max_attempts + 2 * len(killers(lost))
        if self.begun.number > most and self.begun.number > most + stage_marks.not_failed(self.jobs.store, self.task):
            raise never_ended(self.task, most, lost)

    def _check_goes_on(self) -> None:
        """Raise if the job has ended: its data may have been cleaned up while this attempt was suspended."""
        if self.jobs.store.state(self.task.job) in FINAL:
            raise JobStoppedError(f"job {self.task.job} has ended")

    def _superseded(self, error: MRCeleryError) -> Commit | None:
        """Return another attempt's commit, if there is one; this attempt's error is then of no interest.

        Raises :class:`JobStoppedError` if the job has ended and its commits are gone.
        """
        if isinstance(error, JobStoppedError) or not self.jobs.store.poll(self.task)[1]:
            return None
        other = self._committed(self.task)
        if other is None and isinstance(error, SupersededError):
            raise JobStoppedError(f"job {self.task.job} has ended")
        return other

    def _remember(self, winner: Commit) -> Commit:
        """Record the commit that counts in the job store; raise if the job has now skipped too many records."""
        task, store = TaskId.of(winner), self.jobs.store
        note, sums = journal.committed(winner)
        store.add_commit(task, self.active.seal.encode(winner, object_keys.commit(task)), note=note, add=sums)
        if winner.bad_records:
            limit = self.active.spec.request.options.max_bad_records
            if store.note_bad(task, winner.bad_records) > limit:
                first = self.active.storage.read(winner.bad_key, 0, BAD_RECORD).partition(b"\n")[0]
                raise too_many(limit, decode(first, BadRecord, winner.bad_key))
        return winner

    def _on_whole_parts(self, lost: Losses) -> Commit:
        """Run the attempt; if an input part is damaged, run it once more, and then with the part rebuilt."""
        met: Counter[str] = Counter()
        split = None if self.within else self.begun.split
        while True:
            try:
                return self._run(lost, split)
            except DamagedPartError as e:
                key = e.part.key
                met[key] += 1
                if met[key] > 2 or len(met) > MOST:
                    raise
                if met[key] == 2:
                    made = self._write_again(e.part)
                    if made is None:
                        raise
                    split = self._repair(split, key, *made)

    def _write_again(self, part: Part) -> tuple[Commit, Commit] | None:
        """Run the task that wrote a damaged part again; return its old and new commit, None if it has no old one."""
        wrote = writer(part)
        old = self._committed(wrote)
        if old is None:
            return None
        known = losses(self.jobs.store, wrote, self.active.seal)
        # Its own input may be damaged, too.
        again = replace(self, task=wrote, name=f"{self.name}-for-{self.task.task}", within=self.watched)
        return old, again._on_whole_parts(known)

    def _repair(self, split: Split | None, key: str, old: Commit, new: Commit) -> Split | None:
        """Replace ``old``'s damaged ``key`` in the input by the output of ``new``; return a map task's new split."""
        storage, (job, step, kind, task) = self.active.storage, self.task
        if kind == "map":
            return mended(split or self.jobs.split(self.active, step, task), storage.uri, key, new)
        told, seal = object_keys.shuffle_input(job, step, task), self.active.seal
        given = seal.decode(storage.read(told), ShuffleInput, told)
        storage.write(told, seal.encode(repaired(given, key, old, new), told))
        return None

    def _run(self, lost: Losses, split: Split | None) -> Commit:
        """Run user code and write the parts, which are invisible to others before the commit.

        ``split``: a map task's input, if not the one in its plan.
        """
        began = _Began(time.monotonic(), time.time())
        self.moved.memory = min(self.moved.memory, self.active.spec.request.options.memory // 8)
        with self._supervised(began) as progress, self._skipping(lost) as bad:
            with self._context(progress, bad) as context, context.blamed():
                parts = self._call(context, split)
                counters = _plain_counters(context.job.counters)
            bad_key = self._collect(context, counters)
        return self._make_commit(context, parts, counters, bad_key, began)

    @contextmanager
    def _supervised(self, began: _Began) -> Iterator[ProgressFile]:
        """Keep the progress file for the worker's main process; finally remove the attempt's files on this machine."""
        progress = ProgressFile(progress_path(self.jobs.scratch, self.watched, self.begun.pid), self.begun.keeper)
        allowed = pickle_allowed.set(self.active.spec.request.options.allow_pickle)
        try:
            yield progress
        finally:
            progress.close()
            pickle_allowed.reset(allowed)
            shutil.rmtree(self.scratch, ignore_errors=True)
            if time.monotonic() - began.monotonic >= heartbeat.REPORT_SECONDS:
                with suppress(UnreachableError):
                    stage_marks.drop_running(self.jobs.store, self.watched, self.name)

    @contextmanager
    def _skipping(self, lost: Losses) -> Iterator[BadRecords | None]:
        """Collect the records to skip; None if the job may not skip any."""
        limit = self.active.spec.request.options.max_bad_records
        if limit <= 0:
            yield None
            return
        # If this runs within another task's attempt and kills the process, that task's records are not to blame.
        marker = RecordMarker(self.jobs.scratch, self.begun.pid) if self.alone and self.within is None else None
        bad = BadRecords(self.task, self.name, limit=limit, scratch=self.scratch, lost=lost, marker=marker)
        try:
            yield bad
        except TaskError:
            # The records skipped so far help to find the reason; the present error is worth more.
            with suppress(UnreachableError), transfers():
                bad.write(self.active.storage)
            raise
        finally:
            bad.close()

    @contextmanager
    def _context(self, progress: ProgressFile, bad: BadRecords | None) -> Iterator[Task]:
        """Open the environment of user code: memory ceiling, log, environment variables, and the job's modules."""
        code = self.jobs.code(self.active)
        with (
            ceiling(self.active.spec.request.options.memory) if self.alone else nullcontext(),
            captured(self.active.storage, object_keys.log(self.task, self.name), self.said)
            if self.said is not None
            else nullcontext() as log,
            own_environment(),
            code.activate(),
        ):
            yield self._task(code, progress, bad, log)

    def _task(self, code: LoadedBundle, progress: ProgressFile, bad: BadRecords | None, log: Log | None) -> Task:
        """Create the job's object, and the task that calls its hooks."""
        spec, step = self.active.spec, self.task.step

        def alive(text: str) -> None:
            progress.touch()
            self.jobs.store.update(self.task.job, {"status": mask(writable(text))})

        job = code.job(list(spec.request.args))
        job.status_hook = alive
        with blamed():
            own = with_partitioner(hooks(job, step), spec.steps[step])
        task = Task(
            id=self.task,
            attempt=self.name,
            options=spec.request.options,
            reducers=spec.steps[step].reducers,
            last_step=step == len(spec.steps) - 1,
            storage=self.active.storage,
            job=job,
            hooks=own,
            scratch=self.scratch,
            poll=poller(
                self.jobs.store,
                self.watched,
                attempt=self.name,
                worker=self.begun.worker,
                progress=progress,
                records=lambda: task.records_in,
                share=log.share if log is not None else None,
            ),
            bad=bad,
        )
        return task

    def _call(self, context: Task, split: Split | None) -> tuple[Part, ...]:
        """Map the split or reduce the partition, and return the written parts."""
        job, step, kind, task = self.task
        if kind == "map":
            split = split or self.jobs.split(self.active, step, task)
            try:
                with in_turn(split.extents):
                    return run_map(context, split)
            except ChangedInputError as e:
                raise e.in_job(job) from None
        key = object_keys.shuffle_input(job, step, task)
        given = self.active.seal.decode(self.active.storage.read(key), ShuffleInput, key)
        written_by = f"{object_keys.step_root(job, step)}map-"
        for part in given.parts:
            if not object_keys.lies_below(part.key, written_by):
                raise damaged(f"{key} names {part.key}, which no map task writes: it was altered; submit the job again")
        return run_reduce(context, given)

    def _collect(self, context: Task, counters: Counters) -> str:
        """Count and store skipped records, and wait for all writes; return the key of the skipped records, or ""."""
        bad_key = ""
        if context.bad is not None and context.bad.count:
            add_counters(counters, {GROUP: {f"step {self.task.step}, {self.task.kind}": context.bad.count}})
            bad_key = context.bad.write(self.active.storage)
        self.moved.flush()  # a commit must not name an object that does not exist
        return bad_key

    def _make_commit(
        self, context: Task, parts: tuple[Part, ...], counters: Counters, bad_key: str, began: _Began
    ) -> Commit:
        if context.last_step and (self.task.kind == "reduce" or not context.reducers):
            parts = tuple(self._tagged(part) for part in parts)
        if scheme_of(self.active.storage.uri) == "s3":
            self.moved.count("PUT")  # the request that writes the commit itself
        return Commit(
            **self.task._asdict(),
            attempt=self.name,
            parts=parts,
            counters=counters,
            records_in=context.records_in,
            records_out=context.records_out,
            bytes_in=context.bytes_in,
            bytes_out=sum(part.bytes for part in parts),
            seconds=round(time.monotonic() - began.monotonic, 6),
            host=socket.gethostname(),
            began=round(began.epoch, 3),
            worker=self.begun.worker,
            requests=dict(self.moved.requests),
            bad_records=context.bad.count if context.bad is not None else 0,
            bad_key=bad_key,
        )

    def _tagged(self, part: Part) -> Part:
        """Add the tag by which the last step recognizes the object without reading it."""
        found = self.active.storage.stat(part.key)
        return part if found is None else with_fields(part, tag=found.tag)


def _plain_counters(counters: Mapping[Any, Mapping[Any, Any]]) -> Counters:
    """Convert counters to plain data, because a counter's name could be any object of the user's."""
    plain: Counters = {}
    for group, names in counters.items():
        for name, amount in names.items():
            add_counters(plain, {writable(str(group)): {writable(str(name)): int(amount)}})
    return plain
