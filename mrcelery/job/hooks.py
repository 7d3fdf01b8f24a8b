"""The engine's view of a job: its checked steps, their description for the coordinator, and the hooks of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.base import MRJob
from mrcelery.job.partitioners import check_names, declared_name, named, partitioner_of
from mrcelery.job.raised import described, passes
from mrcelery.job.step import HOOKS, PORTING, UNSUPPORTED, MRStep, StepHooks, identity_reducer, reducers_in
from mrcelery.job.tracebacks import user_traceback
from mrcelery.ops import Identity, Op
from mrcelery.schema.structs import StepSpec


def steps_of(job: MRJob) -> list[MRStep]:
    """Return the job's steps, checked.

    Raises :class:`UsageError` for a job that cannot run, and :class:`JobLoadError` with the user's traceback if
    ``steps()`` raises.
    """
    name = type(job).__name__
    _check_supported(job)
    try:
        steps = job.steps()
    except BaseException as e:
        if passes(e):
            raise
        raise JobLoadError(f"{name}.steps() raised {described(e)}", user_traceback(e)) from e
    if not steps:
        raise UsageError(f"{name} does nothing: define a mapper, a combiner or a reducer, or steps()")
    for step in steps:
        if not isinstance(step, MRStep):
            raise UsageError(f"{name}.steps() returned {step!r}: return a list of MRStep(...)")
    return list(steps)


_MEANT = {"map": "mapper", "combine": "combiner", "reduce": "reducer"}
"""What users of other frameworks call the hooks."""


def _check_supported(job: MRJob) -> None:
    name = type(job).__name__
    if job.BATCH not in (None, "list", "table"):
        raise UsageError(f'{name}.BATCH is {job.BATCH!r}: set it to "list" or "table", or leave it out')
    for attribute in (*UNSUPPORTED, "pick_protocols"):
        if hasattr(job, attribute):
            raise UsageError(
                f"{name}.{attribute} is not supported yet: write it as a Python mapper or reducer, see {PORTING}"
            )
    for attribute in ("HADOOP_INPUT_FORMAT", "HADOOP_OUTPUT_FORMAT", "LIBJARS"):
        if getattr(job, attribute, None):
            raise UsageError(
                f"{name}.{attribute} names Java classes, which cannot run here: leave it out, see {PORTING}"
            )
    if type(job).steps is MRJob.steps:  # else they may be the job's own, for its steps
        for wrong, right in _MEANT.items():
            if hasattr(job, wrong) and getattr(job, right) is None and (right != "mapper" or job.mapper_batch is None):
                raise UsageError(f"{name}.{wrong}() does nothing: did you mean {right}()?")
    if partitioner := declared_name(job.partitioner(), job.jobconf()):
        named(partitioner, job.jobconf())
        if job.partition is not None:
            raise UsageError(f"{name} has both partition() and PARTITIONER {partitioner}: leave one of the two out")


def step_specs(
    job: MRJob,
    reducers_default: int,
    *,
    reducers: int | None = None,
    partitioner: str = "",
    partitioner_default: str = "",
    define: Mapping[str, Any] | None = None,
) -> tuple[StepSpec, ...]:
    """Describe each step for the coordinator, which does not have the user's code.

    R is the value in the step's ``jobconf``, else ``reducers`` (the user's explicit choice), else the value in the
    job's ``jobconf()``, else ``reducers_default``; 0 for a step without a reducer. ``partitioner`` is from the command
    line, ``partitioner_default`` from the environment or the files, ``define`` from ``-D``
    (:func:`mrcelery.job.partitioners.partitioner_of`). Raises the errors of :func:`steps_of`.
    """
    check_names(define or {})
    check_names(job.jobconf())
    of_job = reducers or reducers_in(job.jobconf()) or reducers_default

    def spec(step: MRStep) -> StepSpec:
        check_names(step.jobconf)
        found = partitioner_of(
            job.partition,
            job.partitioner(),
            job.jobconf(),
            step.jobconf,
            flag=partitioner,
            default=partitioner_default,
            define=define or {},
        )
        if not step.has_reducer:
            return StepSpec(has_reducer=False, reducers=0)
        return StepSpec(has_reducer=True, reducers=step.reducers or of_job, partitioner=found)

    return tuple(map(spec, steps_of(job)))


def hooks(job: MRJob, step_index: int) -> StepHooks:
    """Return the hooks of this instance for a step (counted from 0). Raises the errors of :func:`steps_of`."""
    steps = steps_of(job)
    step = steps[step_index]
    given: dict[str, Any] = dict.fromkeys(HOOKS) | step.hooks
    reduce_op = combine_op = None
    if isinstance(given["combiner"], Op):
        combine_op, given["combiner"] = given["combiner"], None
    elif given["combiner"] is None and step.has_combiner:
        given["combiner"] = identity_reducer
    if isinstance(given["reducer"], Identity):
        given["reducer"] = identity_reducer
    if isinstance(given["reducer"], Op):
        reduce_op = combine_op = given["reducer"]
        given["reducer"] = None
    elif given["reducer"] is None and step.has_reducer:
        given["reducer"] = identity_reducer
    return StepHooks(
        **given,
        reduce_op=reduce_op,
        combine_op=combine_op,
        has_mapper=step.has_mapper,
        has_reducer=step.has_reducer,
        batch=job.BATCH or "",
        partition=job.partition,
        sort_values=bool(job.sort_values()),
        input_protocol=job.input_protocol() if step_index == 0 else None,
        internal_protocol=job.internal_protocol(),
        output_protocol=job.output_protocol() if step_index == len(steps) - 1 else None,
    )
