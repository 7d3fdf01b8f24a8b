"""One step of a job: which functions map, combine and reduce."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mrcelery.config import MANY_REDUCERS, MOST_REDUCE_TASKS
from mrcelery.errors import UsageError
from mrcelery.ops import Op
from mrcelery.protocols import LineProtocol

HOOKS = (
    "mapper_init",
    "mapper",
    "mapper_final",
    "mapper_batch",
    "combiner_init",
    "combiner",
    "combiner_final",
    "reducer_init",
    "reducer",
    "reducer_final",
)
UNSUPPORTED = (
    "mapper_cmd",
    "mapper_pre_filter",
    "mapper_raw",
    "combiner_cmd",
    "combiner_pre_filter",
    "reducer_cmd",
    "reducer_pre_filter",
    "spark",
)
"""What mrjob also has, and mrcelery does not run yet."""

PORTING = "`mrcelery help port-from-mrjob`"
"""The page for users of mrjob, as errors name it."""

Hook = Callable[..., Any]


class MRStep:
    """A step, as ``steps()`` of a job returns it.

    Keywords are the hooks of :class:`mrcelery.MRJob`: ``mapper``, ``combiner``, ``reducer``, each with
    ``_init`` and ``_final``, and ``mapper_batch``. Each is None or a function; ``reducer`` and ``combiner`` may be
    a declared reducer of :mod:`mrcelery.ops`. ``jobconf`` maps Hadoop properties, of which
    ``mapreduce.job.reduces`` and those of :mod:`mrcelery.job.partitioners` have an effect.

    Raises ``TypeError`` for another keyword or a value that cannot be called, ``ValueError`` for a step without any
    hook, and :class:`UsageError` for hooks that cannot run.
    """

    def __init__(self, *, jobconf: Mapping[str, Any] | None = None, **hooks: Any) -> None:
        self.jobconf = dict(jobconf or {})
        self.hooks: dict[str, Any] = {}
        for name, hook in hooks.items():
            if name not in HOOKS and name not in UNSUPPORTED:
                raise TypeError(f"MRStep() got an unexpected keyword argument {name!r}: it takes {', '.join(HOOKS)}")
            if hook is None:
                continue
            if name in UNSUPPORTED:
                raise UsageError(f"{name} is not supported yet: write it in Python, see {PORTING}")
            self.hooks[name] = _checked(name, hook)
        if not self.hooks:
            raise ValueError("MRStep() has no mapper and no reducer: give it at least one")
        _check_combination(self.hooks)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MRStep) and (self.hooks, self.jobconf) == (other.hooks, other.jobconf)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        given = {**self.hooks, **({"jobconf": self.jobconf} if self.jobconf else {})}
        return f"MRStep({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    @property
    def has_mapper(self) -> bool:
        """Whether a mapper, its batch form, or a hook around it is set."""
        return self._has("mapper")

    @property
    def has_combiner(self) -> bool:
        """Whether a combiner, or a hook around it, is set."""
        return self._has("combiner")

    @property
    def has_reducer(self) -> bool:
        """Whether a reducer, or a hook around it, is set."""
        return self._has("reducer")

    def _has(self, kind: str) -> bool:
        return any(name.startswith(kind) for name in self.hooks)

    @property
    def reducers(self) -> int | None:
        """R if the step's own jobconf sets it."""
        return reducers_in(self.jobconf)


class StepHooks(NamedTuple):
    """The functions and settings of one step, bound to a job instance.

    ``mapper`` is None for an identity mapper, unless ``mapper_batch`` is set. If ``reduce_op`` is set,
    ``reducer`` is None, and ``combine_op`` is the same op. ``combine_op`` without ``reduce_op`` is closed: what
    it leaves are plain values for ``reducer``. A step may have a combiner without a reducer, as in mrjob.

    ``batch`` is what ``mapper_batch`` is given, ``"list"`` or ``"table"``, or ``""`` for what the format has.

    Protocols are None if the job keeps Python's types. ``input_protocol`` is set for the first step
    only, ``output_protocol`` for the last only; ``internal_protocol`` holds between mapper and reducer,
    and between this step and its neighbors.
    """

    mapper_init: Hook | None
    mapper: Hook | None
    mapper_final: Hook | None
    mapper_batch: Hook | None
    combiner_init: Hook | None
    combiner: Hook | None
    combiner_final: Hook | None
    reducer_init: Hook | None
    reducer: Hook | None
    reducer_final: Hook | None
    reduce_op: Op | None
    combine_op: Op | None
    has_mapper: bool
    has_reducer: bool
    batch: str
    partition: Callable[[Any, int], int] | None
    sort_values: bool
    input_protocol: LineProtocol | None
    internal_protocol: LineProtocol | None
    output_protocol: LineProtocol | None
    total_order: bool = False
    """Map tasks write one run each, which the barrier divides; ``partition`` is None."""


def identity_reducer(key: Any, values: Any) -> Any:
    """Yield each value as it came: the reducer or combiner of a step that has only its ``_init`` or ``_final``."""
    for value in values:
        yield key, value


REDUCES = ("mapreduce.job.reduces", "mapred.reduce.tasks")


def reducers_in(jobconf: Mapping[str, Any]) -> int | None:
    """Return R from Hadoop's properties, or None. Raises :class:`UsageError` for anything but a number."""
    for name in REDUCES:
        if jobconf.get(name) is not None:
            try:
                reducers = int(jobconf[name])
            except (TypeError, ValueError):
                reducers = 0
            if not 1 <= reducers <= MOST_REDUCE_TASKS:
                raise UsageError(
                    f"jobconf {name} is {jobconf[name]!r}: give a whole number from 1 to {MOST_REDUCE_TASKS:,}, as "
                    f"{MANY_REDUCERS}"
                )
            return reducers
    return None


def _checked(name: str, hook: Any) -> Any:
    if isinstance(hook, type) and issubclass(hook, Op):
        raise UsageError(f"{name} = {hook.__name__}: declare an instance, ops.{hook.__name__}(...)")
    if isinstance(hook, Op):
        if name not in ("reducer", "combiner"):
            raise UsageError(f"{name} cannot be {hook!r}: only a reducer or a combiner can be declared")
        if name == "combiner" and not hook.closed:
            raise UsageError(
                f"combiner cannot be {hook!r}, as its results are not values for the reducer: "
                "declare it as the reducer, which does its own combining"
            )
    elif not callable(hook):
        raise TypeError(f"{name} must be a function, not {hook!r}")
    return hook


def _check_combination(hooks: Mapping[str, Any]) -> None:
    if "mapper" in hooks and "mapper_batch" in hooks:
        raise UsageError("mapper and mapper_batch cannot both map one step: leave one out")
    for kind in ("reducer", "combiner"):
        around = [name for name in (f"{kind}_init", f"{kind}_final") if name in hooks]
        if isinstance(hooks.get(kind), Op) and around:
            raise UsageError(f"{hooks[kind]!r} cannot run with {around[0]}: write the {kind} as a method")
    reducer = hooks.get("reducer")
    if isinstance(reducer, Op) and hooks.get("combiner", reducer) != reducer:
        raise UsageError(f"reducer {reducer!r} does its own combining: leave the combiner out")
