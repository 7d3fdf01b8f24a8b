"""The coordinator: what happens between the stages of a job.

It has no process of its own: :func:`start`, :func:`barrier` and :func:`finish` are short tasks that any
worker runs (the inline runner calls them). Each reads the spec, the commits and the job store, and
returns the :class:`Stage` to run next. All may run twice: what they write is the same each time.

::

    start -> Stage(map) -> barrier -> Stage(reduce) -> finish -> Stage(map) of the next step, or the end
                     \\______ map-only step ________/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import replace as replace_stage
from hashlib import sha256
from itertools import islice

from msgspec.structs import replace

from mrcelery import layout, marks
from mrcelery.commit import committed
from mrcelery.committer import check_free, publish, withdraw
from mrcelery.errors import CorruptDataError, DamagedPartError, JobStoppedError, TaskError, UnsignedError
from mrcelery.formats import input_format
from mrcelery.index import encode_key
from mrcelery.jobstore.base import FINAL
from mrcelery.output import output_suffix
from mrcelery.overview import overview
from mrcelery.partlists import PartLists
from mrcelery.plan import cut, fitted, list_inputs, write_plan
from mrcelery.ranges import Ranges
from mrcelery.reconcile import Repair
from mrcelery.records import (
    Commit,
    Counters,
    Extent,
    JobSpec,
    Kind,
    Part,
    PlanSummary,
    Request,
    Requests,
    Split,
    StageSummary,
    StepSpec,
    Totals,
    add_coordinator_requests,
    add_counters,
    add_requests,
    decode,
    encode,
    requests_field,
)
from mrcelery.recovery import standing
from mrcelery.report import Report, read_report, remove_report
from mrcelery.runtime import ActiveJob, Runtime
from mrcelery.signing import seal
from mrcelery.skew import Skew
from mrcelery.storage import check, open_storage
from mrcelery.storage.base import Storage
from mrcelery.storage.transfers import Transfers, carried, transfers

REDUCER_BYTES = 32 << 20
"""Input bytes per reduce task where the job does not say R."""
MOST_AGAIN = 2
"""Times that a map task runs again since what it wrote reads wrong."""

MOST_REDUCERS = 64
"""R at most where the job does not say it."""

SMALL_RESULTS = 64 << 10
"""Bytes of output that go to the client through the job store, if it wants to print them."""

THREADS = 16
"""Requests to storage at the same time, for commits and part files."""


@dataclass(frozen=True)
class Stage:
    """Tasks to run at the same time, and the step of the coordinator that follows them."""

    job: str
    step: int
    kind: Kind
    tasks: int
    then: str
    """``barrier`` or ``finish``."""
    queue: str
    missing: tuple[int, ...] | None = None
    """The tasks to publish, of a stage that goes on where it was; None: all."""

    @property
    def published(self) -> str:
        """The job's field that says when all of them were on the queue."""
        return f"published.{self.step}.{self.kind}"


def stage_of(request: Request, fields: Mapping[str, str], step: int, kind: Kind) -> Stage:
    """A stage that has been entered, as the job's fields tell of it."""
    then = "barrier" if kind == "map" and request.steps[step].has_reducer else "finish"
    return Stage(request.job, step, kind, int(fields[f"total.{step}.{kind}"]), then, request.options.queue)


def has_gone_on(fields: Mapping[str, str], what: str, step: int = 0) -> bool:
    """Whether the stage that follows a step of the coordinator is on the queue: then another delivery of it is late."""
    after = {"start": (0, "map"), "barrier": (step, "reduce"), "finish": (step + 1, "map")}[what]
    return "published.{}.{}".format(*after) in fields


def start(runtime: Runtime, job: str) -> Stage | None:
    """Plan a submitted job, ship its code to storage and write its spec.

    A job that has a spec goes on from what storage holds of it, as after ``retry`` or where Redis lost its data.

    Raises :class:`mrcelery.errors.UsageError`, :class:`mrcelery.errors.UnreachableError` or
    :class:`mrcelery.errors.UnsignedError` for a job that cannot start.
    """
    if runtime.store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    request = runtime.request(job)
    storage = open_storage(request.storage)
    with _counted(runtime, job, "start"):
        check(storage)
        key = layout.spec(job)
        try:
            spec = runtime.verified(storage.read(key), job)
        except FileNotFoundError:
            spec = _plan(runtime, request, storage)
            runtime.keep(spec, storage)
            first = _map_stage(spec, 0, spec.plan.splits)
            _enter(runtime, spec, first, {"started": repr(time.time())})
        else:
            first = _resume(runtime, runtime.keep(spec, storage))
    # They are in storage with the spec: what came through the job store takes its memory for nothing.
    runtime.store.drop_blobs(job, [request.bundle.sha256, *request.blobs])
    return first


def _resume(runtime: Runtime, active: ActiveJob) -> Stage:
    """Enter the stage that a job is in by its commits; the tasks to publish are those without one."""
    job, store = active.id, runtime.store
    now = standing(active.storage, active.spec)
    earlier = read_report(active.storage, job)
    if earlier is not None and earlier.state != "succeeded":
        remove_report(active.storage, job)  # it tells of a run before this one
    elif earlier is not None and len(now.committed) < now.tasks:
        # It had come to its end, and its commits are being removed: only the job store had forgotten.
        store.move(job, "succeeded", {"finished": repr(time.time()), "stage": "finish"})
        raise JobStoppedError(f"job {job} has ended")
    if now.step == 0:
        _restore_plan(active)
    for step in range(now.step, len(active.spec.steps)):
        for kind in ("map", "reduce"):
            known = now.committed if (step, kind) == (now.step, now.kind) else frozenset()
            if (step, kind) >= (now.step, now.kind) and not store.done_tasks(job, step, kind) <= known:
                store.forget_stage(job, step, kind)  # what it remembers was removed from storage
    for task in now.committed:
        store.add_commit(job, now.step, now.kind, task, b"")
    started = store.fields(job).get("started") or repr(active.spec.request.created)
    totals = {f"total.{step}.{kind}": str(tasks) for (step, kind), tasks in now.totals.items()}
    if now.kind == "map":
        stage = _map_stage(active.spec, now.step, now.tasks)
    else:
        stage = Stage(job, now.step, "reduce", now.tasks, "finish", active.spec.request.options.queue)
    stage = replace_stage(stage, missing=tuple(task for task in range(now.tasks) if task not in now.committed))
    _enter(runtime, active.spec, stage, {**totals, "started": started})
    return stage


@contextmanager
def _counted(runtime: Runtime, job: str, what: str) -> Iterator[Transfers]:
    """Keep in the job's fields what the coordinator asks of S3 in this block; once, also where it runs twice."""
    with transfers() as moved:
        yield moved
    if moved.requests:
        runtime.store.update(job, requests_field(what, moved.requests))


def _plan(runtime: Runtime, request: Request, storage: Storage) -> JobSpec:
    job = request.job
    if request.output and not request.options.overwrite:
        check_free(request.output)
    code = runtime.store.get_blob(job, request.bundle.sha256)
    if code is not None:
        _check_digest(code, request.bundle.sha256, f"the code of job {job}")
        storage.write(layout.code(job), code)
    elif storage.stat(layout.code(job)) is None:
        raise CorruptDataError(f"the code that was sent with job {job} is gone: submit it again")
    for digest, name in request.blobs.items():
        blob = runtime.store.get_blob(job, digest)
        if blob is None and storage.stat(layout.shared_input(digest, name)) is not None:
            continue  # another delivery was quicker
        if blob is None:
            raise CorruptDataError(f"the input {name} that was sent with job {job} is gone: submit it again")
        _check_digest(blob, digest, f"the input {name} of job {job}")
        storage.write(layout.shared_input(digest, name), blob)
    plan = _write_plan(request, storage)
    spec = JobSpec(request=request, plan=plan, steps=tuple(with_reducers(s, plan) for s in request.steps))
    key = layout.spec(job)
    if not storage.create(key, seal(spec, runtime.signing_key)):
        return runtime.verified(storage.read(key), job)
    return spec


def _write_plan(request: Request, storage: Storage) -> PlanSummary:
    options = request.options
    files = list_inputs(request.inputs, input_format(options.input_format))
    splits = cut(*fitted(files, options.split_size, options.workers))
    return write_plan(splits, lambda page, data: storage.write(layout.plan_page(request.job, 0, page), data))


def with_reducers(step: StepSpec, plan: PlanSummary) -> StepSpec:
    if not step.has_reducer:
        return replace(step, reducers=0)
    if step.reducers > 0:
        return step
    return replace(step, reducers=min(MOST_REDUCERS, max(1, -(-plan.bytes // REDUCER_BYTES))))


def _restore_plan(active: ActiveJob) -> None:
    """Plan a job's first step again where the plan was removed, as a cancelled job's is."""
    spec, storage = active.spec, active.storage
    if not spec.plan.splits or storage.stat(layout.plan_page(active.id, 0, 0)) is not None:
        return
    if _write_plan(spec.request, storage) != spec.plan:
        raise CorruptDataError(f"the inputs of job {active.id} have changed since it was planned: submit it again")


def _check_digest(data: bytes, digest: str, what: str) -> None:
    """What came through the job store must be what the request, signed or not, names."""
    if sha256(data).hexdigest() != digest:
        raise UnsignedError(f"{what} is not what its request names: it was altered on the way; submit it again")


def _map_stage(spec: JobSpec, step: int, tasks: int) -> Stage:
    then = "barrier" if spec.steps[step].reducers else "finish"
    return Stage(spec.request.job, step, "map", tasks, then, spec.request.options.queue)


def _enter(runtime: Runtime, spec: JobSpec, stage: Stage, more: Mapping[str, str] | None = None) -> None:
    """Put a stage into the job's fields; raises where the job has ended meanwhile."""
    fields = {
        "step": str(stage.step),
        "stage": stage.kind,
        f"total.{stage.step}.{stage.kind}": str(stage.tasks),
        f"entered.{stage.step}.{stage.kind}": f"{time.time():.3f}",
    }
    fields.update(more or {})
    if not runtime.store.move(stage.job, "running", fields):
        raise JobStoppedError(f"job {stage.job} has ended")


def barrier(runtime: Runtime, job: str, step: int) -> Stage:
    """After all map tasks: tell each reduce task what to read.

    In total order that takes the index of each map task's run: where one is damaged, its task runs again.
    """
    active = _active(runtime, job)
    try:
        return _shuffle(runtime, active, step)
    except DamagedPartError as e:
        return _again(runtime, active, step, e)


def _again(runtime: Runtime, active: ActiveJob, step: int, error: DamagedPartError) -> Stage:
    """Forget the commit of the map task whose run is damaged, which no reduce task has been told of, and run that."""
    job, store, tasks = active.id, runtime.store, _tasks(runtime, active, step)
    roots = (layout.task_root(job, step, "map", task) for task in range(tasks))
    damaged = next(task for task, root in enumerate(roots) if error.part.key.startswith(root))
    before = marks.repairs(store, job, step, "barrier").get(str(damaged), Repair(0, 0.0))
    if before.times >= MOST_AGAIN:
        error.retryable = False
        raise error
    marks.tell_repair(store, job, step, "barrier", str(damaged), Repair(before.times + 1, time.time()))
    active.storage.delete([layout.commit(job, step, "map", damaged)])
    known = store.done_tasks(job, step, "map")
    store.forget_stage(job, step, "map")
    for task in known - {damaged}:
        store.add_commit(job, step, "map", task, b"")  # to be read from storage
    stage = replace_stage(_map_stage(active.spec, step, tasks), missing=(damaged,))
    _enter(runtime, active.spec, stage)
    return stage


def _shuffle(runtime: Runtime, active: ActiveJob, step: int) -> Stage:
    job = active.id
    _check_all_committed(runtime, active, step, "map", _tasks(runtime, active, step))
    reducers = active.spec.steps[step].reducers
    skew = Skew(reducers)
    bounds: list[bytes | None] = [None] * (reducers + 1)
    with _counted(runtime, job, f"barrier.{step}"), PartLists(runtime.scratch) as lists:

        def gather() -> Iterator[Commit]:
            commits = _commits(runtime, active, step, "map", _tasks(runtime, active, step))
            if active.spec.steps[step].total_order:
                with Ranges(runtime.scratch) as ranges:
                    yield from ranges.gather(active.storage, commits)
                    cuts = ranges.divide(reducers, lists, skew)
                bounds[1 : len(cuts) + 1] = map(encode_key, cuts)
                return
            for commit in commits:
                for part in commit.parts:
                    lists.add(part)
                    skew.add(part.partition, part.records, part.bytes)
                yield commit

        _summarise(runtime, active, step, "map", gather(), skew.counters)

        def tell(partition: int) -> None:
            record = lists.encoded(partition, bounds[partition], bounds[partition + 1])
            active.storage.write(layout.shuffle_input(job, step, partition), record)

        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for _ in pool.map(carried(tell), range(reducers)):
                pass
    stage = Stage(job, step, "reduce", reducers, "finish", active.spec.request.options.queue)
    _enter(runtime, active.spec, stage)
    return stage


def _active(runtime: Runtime, job: str) -> ActiveJob:
    if runtime.store.state(job) in FINAL:
        raise JobStoppedError(f"job {job} has ended")
    return runtime.job(job)


def _tasks(runtime: Runtime, active: ActiveJob, step: int) -> int:
    """M of a step."""
    if step == 0:
        return active.spec.plan.splits
    return int(runtime.store.fields(active.id)[f"total.{step}.map"])


def _check_all_committed(runtime: Runtime, active: ActiveJob, step: int, kind: Kind, tasks: int) -> None:
    """Raise where a task has no commit yet: a count that started anew, in a Redis that had lost it, may be wrong."""
    if runtime.store.done(active.id, step, kind) >= tasks:
        return
    known = runtime.store.done_tasks(active.id, step, kind)
    for task in range(tasks):
        if task not in known:
            if committed(active.storage, active.id, step, kind, task) is None:
                raise JobStoppedError(f"{kind} task {task} of job {active.id} has no commit yet: this comes too early")
            runtime.store.add_commit(active.id, step, kind, task, b"")


def _commits(runtime: Runtime, active: ActiveJob, step: int, kind: Kind, tasks: int) -> Iterator[Commit]:
    """The commits of a stage in order of task: from the job store, else from storage."""
    kept = runtime.store.commits(active.id, step, kind)

    def find(task: int) -> Commit:
        data = kept.pop(task, None)
        if data is not None:
            return decode(data, Commit)
        commit = committed(active.storage, active.id, step, kind, task)
        if commit is None:
            raise TaskError(f"{kind} task {task} of step {step} has no commit, though it was reported done")
        return commit

    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        numbers = iter(range(tasks))
        # In portions: results that wait for their turn must not grow with the number of tasks.
        while portion := list(islice(numbers, THREADS * 64)):
            missing = [task for task in portion if task not in kept]
            read = dict(zip(missing, pool.map(carried(find), missing), strict=True))
            for task in portion:
                yield read[task] if task in read else find(task)


def _summarise(
    runtime: Runtime,
    active: ActiveJob,
    step: int,
    kind: Kind,
    commits: Iterable[Commit],
    skew: Callable[[], dict[str, int]] = dict,
) -> StageSummary:
    """Sum a stage's commits up, and keep the sums in storage and, for those who look on, in the job store.

    ``skew`` is called when all commits have been taken.
    """
    counters: Counters = {}
    requests: Requests = {}
    tasks = records_in = records_out = bytes_in = bytes_out = bad_records = 0
    bad_keys: list[str] = []
    for commit in commits:
        add_counters(counters, commit.counters)
        add_requests(requests, commit.requests)
        tasks += 1
        records_in += commit.records_in
        records_out += commit.records_out
        bytes_in += commit.bytes_in
        bytes_out += commit.bytes_out
        bad_records += commit.bad_records
        bad_keys += [commit.bad_key] if commit.bad_key else []
    shuffled = bytes_out if kind == "map" and active.spec.steps[step].reducers else 0
    summary = StageSummary(
        counters=counters,
        totals=Totals(
            records_in=records_in,
            records_out=records_out,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            shuffle_bytes=shuffled,
            tasks=tasks,
            requests=requests,
        ),
        skew=skew(),
        bad_records=bad_records,
        bad_keys=tuple(bad_keys),
    )
    data = encode(summary)
    active.storage.write(layout.stage_summary(active.id, step, kind), data)
    ended = f"{time.time():.3f}"
    runtime.store.update(active.id, {f"summary.{step}.{kind}": data.decode(), f"ended.{step}.{kind}": ended})
    return summary


def finish(runtime: Runtime, job: str, step: int) -> Stage | None:
    """After a step's last stage: start the next step, or publish OUTPUT and end the job (None)."""
    withdraw_output(runtime, job)  # a run that was killed may have left something
    active = _active(runtime, job)
    spec = active.spec
    reducers = spec.steps[step].reducers
    kind: Kind = "reduce" if reducers else "map"
    _check_all_committed(runtime, active, step, kind, reducers or _tasks(runtime, active, step))
    parts: list[Part] = []

    def gather() -> Iterator[Commit]:
        for commit in _commits(runtime, active, step, kind, reducers or _tasks(runtime, active, step)):
            parts.extend(commit.parts)
            yield commit

    with _counted(runtime, job, f"finish.{step}") as moved:
        _summarise(runtime, active, step, kind, gather())
        if step + 1 < len(spec.steps):
            return _next_step(runtime, active, step, parts)
        _publish(runtime, active, parts, moved)
    return None


def _next_step(runtime: Runtime, active: ActiveJob, step: int, parts: list[Part]) -> Stage:
    """Each part with a record is a split of the next step."""
    job, storage = active.id, active.storage
    extents = (Extent(f"{storage.uri}/{p.key}", 0, p.bytes, p.bytes, True) for p in parts if p.records)
    splits = (Split(i, (extent,)) for i, extent in enumerate(extents))
    plan = write_plan(
        splits, lambda page, data: storage.write(layout.plan_page(job, step + 1, page), data)
    )
    stage = _map_stage(active.spec, step + 1, plan.splits)
    _enter(runtime, active.spec, stage)
    for kind in ("map", "reduce"):
        runtime.store.forget_stage(job, step, kind)
    return stage


def _publish(runtime: Runtime, active: ActiveJob, parts: list[Part], moved: Transfers) -> None:
    """Publish the committed parts and end the job."""
    request, storage, job = active.spec.request, active.storage, active.id
    suffix = output_suffix(request.options)
    names = [] if request.options.output_format == "none" else [layout.part_name(p.partition, suffix) for p in parts]
    finished = time.time()

    def report() -> Report:
        return _report(runtime, active, tuple(names), finished, moved.requests)

    copies = dict(zip(names, parts, strict=False))
    if request.options.max_bad_records:
        copies.update(_bad_records(runtime, active))
    try:
        publish(
            runtime.store, storage, job, request.output, list(copies.values()), list(copies), report,
            overwrite=request.options.overwrite,
        )  # fmt: skip
    except JobStoppedError:
        withdraw_output(runtime, job)
        raise
    if request.small_results and names and sum(p.bytes for p in parts) <= SMALL_RESULTS and not suffix:
        runtime.store.put_blob(job, "results", b"".join(storage.read(p.key) for p in parts))
    if not runtime.store.move(job, "succeeded", {"finished": repr(finished), "stage": "finish"}):
        withdraw_output(runtime, job)


def _bad_records(runtime: Runtime, active: ActiveJob) -> dict[str, Part]:
    """What OUTPUT gets of the records that were skipped; those of attempts that do not count are removed."""
    storage, root = active.storage, layout.job_root(active.id)
    counted = {key for _, _, summary in _summaries(runtime, active) for key in summary.bad_keys}
    storage.delete([o.key for o in storage.list(layout.bad_records_root(active.id)) if o.key not in counted])
    if not active.spec.request.output:
        return {}  # they lie where the results do
    return {key.removeprefix(root): Part(-1, key, 0, 0, 0) for key in sorted(counted)}


def _summaries(runtime: Runtime, active: ActiveJob) -> Iterator[tuple[int, str, StageSummary]]:
    """The summaries of a job's stages, each with its step and kind."""
    fields = runtime.store.fields(active.id)
    for number, step in enumerate(active.spec.steps):
        for kind in ("map", "reduce") if step.reducers else ("map",):
            key = layout.stage_summary(active.id, number, kind)
            kept = fields.get(f"summary.{number}.{kind}")
            yield number, kind, decode(kept.encode() if kept else active.storage.read(key), StageSummary, key)


def withdraw_output(runtime: Runtime, job: str) -> None:
    """After a job has failed or was cancelled: take back what it had published. Harmless for any other."""
    if runtime.store.state(job) in ("failed", "cancelled"):
        active = runtime.job(job)
        withdraw(active.storage, job, active.spec.request.output)


def _report(
    runtime: Runtime, active: ActiveJob, names: tuple[str, ...], finished: float, publishing: Mapping[str, int]
) -> Report:
    job, spec = active.id, active.spec
    fields = runtime.store.fields(job)
    counters: Counters = {}
    totals = Totals()
    requests = dict(publishing)
    add_coordinator_requests(requests, fields)
    bad_records = 0
    for number, kind, summary in _summaries(runtime, active):
        add_counters(counters, summary.all_counters(number))
        bad_records += summary.bad_records
        ends = number == len(spec.steps) - 1
        first, last = number == 0 and kind == "map", ends and (kind != "map" or not spec.steps[number].reducers)
        stage = summary.totals
        totals = Totals(
            records_in=totals.records_in + (stage.records_in if first else 0),
            bytes_in=totals.bytes_in + (stage.bytes_in if first else 0),
            records_out=totals.records_out + (stage.records_out if last else 0),
            bytes_out=totals.bytes_out + (stage.bytes_out if last else 0),
            shuffle_bytes=totals.shuffle_bytes + stage.shuffle_bytes,
            tasks=totals.tasks + stage.tasks,
        )
        add_requests(requests, stage.requests)
    started = float(fields.get("started") or finished)
    return Report(
        job=job,
        name=spec.request.name,
        state="succeeded",
        counters=counters,
        totals=replace(totals, requests=requests),
        started=started,
        finished=finished,
        seconds=round(finished - started, 6),
        output=spec.request.output,
        parts=names,
        bad_records=bad_records,
        overview=overview(runtime.store, job, finished, state="succeeded"),
    )


def clean_up(runtime: Runtime, job: str) -> None:
    """Remove what an ended job no longer needs, intermediate data and plans; not its spec, code, logs or results.

    Called after the job has ended, so that nobody waits for it. A failed job keeps all for ``retry``; a cancelled
    one the plan of its first step, so that it can be run anew.
    """
    state = runtime.store.state(job)
    if state not in ("succeeded", "cancelled"):
        return
    active = runtime.job(job)
    if active.spec.request.options.keep:
        return
    storage = active.storage
    kept = _kept if state == "succeeded" else _kept_of_cancelled
    # Attempts that still run lose their race against a commit that is gone; their job has ended, and
    # they look for that before they start. What they leave is found by `clean`.
    for step in range(len(active.spec.steps)):
        root = layout.step_root(job, step)
        storage.delete(o.key for o in storage.list(root) if not kept(o.key))
        for kind in ("map", "reduce"):
            runtime.store.forget_stage(job, step, kind)
    storage.sweep(layout.job_root(job))


def take_back(runtime: Runtime, active: ActiveJob, step: int, kind: Kind, number: int, attempt: str) -> None:
    """Remove what an attempt has written that came too late: of a job that succeeded and may be cleaned up already.

    Harmless for any other.
    """
    job, storage = active.id, active.storage
    if active.spec.request.options.keep or runtime.store.state(job) != "succeeded":
        return
    root = layout.task_root(job, step, kind, number)
    storage.delete([o.key for o in storage.list(root) if not _kept(o.key)])
    storage.delete([layout.bad_records(job, step, kind, number, attempt)])
    storage.sweep(root)


def _kept(key: str) -> bool:
    name = key.rsplit("/", 1)[-1]
    return name.startswith("log.") or name in ("map.json", "reduce.json")


def _kept_of_cancelled(key: str) -> bool:
    # Not the summaries: they would tell of commits that are gone.
    name = key.rsplit("/", 1)[-1]
    return name.startswith("log.") or "/step-0/plan-" in key
