"""The job API: mrjob's, so that a job file needs no porting, with a few additions.

A job is a class; what the engine asks of it is in :mod:`mrcelery.job.hooks`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.step import HOOKS, MRStep

shipped_files: ContextVar[Mapping[str, str] | None] = ContextVar("shipped_files", default=None)
"""In a task: file arguments as the client gave them, mapped to where they lie here; None on the client."""

_importing: ContextVar[bool] = ContextVar("importing", default=False)


@contextmanager
def importing() -> Iterator[None]:
    """Mark that a job file is being imported: ``run()`` at its top level would submit the job without end."""
    token = _importing.set(True)
    try:
        yield
    finally:
        _importing.reset(token)


class _ArgumentParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")


class MRJob:
    """The base of all jobs.

    Define ``mapper(self, key, value)``, ``combiner(self, key, values)`` and ``reducer(self, key, values)``
    as generators of (key, value) pairs, each with ``_init(self)`` and ``_final(self)`` before and after
    its task's records; or ``steps()`` for several steps. Each is optional, one is needed.

    - ``mapper_batch(self, batch)`` replaces ``mapper``: one call per block of records, a list of values or a
      ``pyarrow.Table``. ``BATCH = "list"`` or ``"table"`` says which. By default it is a table from formats that have
      columns, such as parquet, and a list from others.
    - A table of text has one column ``line``; of csv, a column of strings per field; of jsonl, a column per field. A
      table of ``records:N`` has a column ``record``, or ``key`` and ``value`` if the format names a key. A table of an
      earlier step's output has ``key`` and ``value``.
    - ``reducer = ops.Sum()`` declares a reducer, which is also the combiner (:mod:`mrcelery.ops`).
    - ``partition(self, key, n)`` returns the partition of a key, 0 to n - 1; or ``PARTITIONER`` names one:
      ``"hash"``, ``"range"``, ``"field:1"`` (:mod:`mrcelery.job.partitioners`).
    - ``SORT_VALUES = True`` brings each key's values to the reducer in order.
    - ``KEEP_MODULES = True`` lets a worker's process run the job's tasks one after the other. They keep what earlier
      ones left in its modules, such as a model that was loaded once. Without it each attempt starts from freshly
      imported modules.
    - ``INPUT`` and ``OUTPUT`` are the formats, by name or custom (:mod:`mrcelery.formats.custom`), if the
      command line names none.

    Keys and values keep their Python types between the steps; setting ``INPUT_PROTOCOL``,
    ``INTERNAL_PROTOCOL`` or ``OUTPUT_PROTOCOL`` to a class of :mod:`mrcelery.protocols` makes the job read
    and write lines there, as mrjob does. A task makes one instance and calls the hooks on it.
    """

    # Any: a hook may be a method or, in two cases, a declared reducer.
    mapper_init: Any = None
    mapper: Any = None
    mapper_final: Any = None
    mapper_batch: Any = None
    combiner_init: Any = None
    combiner: Any = None
    combiner_final: Any = None
    reducer_init: Any = None
    reducer: Any = None
    reducer_final: Any = None
    partition: Any = None

    INPUT_PROTOCOL: ClassVar[Any] = None
    INTERNAL_PROTOCOL: ClassVar[Any] = None
    OUTPUT_PROTOCOL: ClassVar[Any] = None
    INPUT: ClassVar[Any] = None
    OUTPUT: ClassVar[Any] = None
    BATCH: ClassVar[str | None] = None
    SORT_VALUES: ClassVar[bool | None] = None
    PARTITIONER: ClassVar[str | None] = None
    JOBCONF: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    FILES: ClassVar[Sequence[str]] = ()
    DIRS: ClassVar[Sequence[str]] = ()
    ARCHIVES: ClassVar[Sequence[str]] = ()
    KEEP_MODULES: ClassVar[bool] = False

    options: argparse.Namespace
    counters: dict[str, dict[str, int]]
    status_hook: Callable[[str], None] | None

    def __init__(self, args: Sequence[str] | None = None) -> None:
        """Parse ``args``, the job's own arguments only; None means none (``sys.argv`` is not read).

        Raises :class:`UsageError` with argparse's message if they do not parse.
        """
        self.counters = {}
        self.status_hook = None
        self._task_files = shipped_files.get()
        self._declare_args()
        self.load_args(list(args or ()))

    # Arguments

    @classmethod
    def argument_parser(cls) -> argparse.ArgumentParser:
        """Return the parser of the job's own arguments, without making an instance.

        An instance needs the required arguments, and a command line must be taken apart, and its help shown, before
        they are there.
        """
        job = cls.__new__(cls)
        job._declare_args()
        return job.arg_parser

    def _declare_args(self) -> None:
        self._file_dests: dict[str, Any] = {}
        self._file_args: dict[str, list[str]] = {}
        self.arg_parser: argparse.ArgumentParser = _ArgumentParser(prog=type(self).__name__, add_help=False)
        self.configure_args()

    def configure_args(self) -> None:
        """Redefine to call ``add_passthru_arg`` and ``add_file_arg``, after ``super().configure_args()``."""

    def add_passthru_arg(self, *args: Any, **kwargs: Any) -> None:
        """Add an option of the job, as ``argparse`` takes it; its value is in ``self.options`` everywhere."""
        self.arg_parser.add_argument(*args, **kwargs)

    def add_file_arg(self, *args: Any, **kwargs: Any) -> None:
        """Add an option whose value is a file to ship; in a task ``self.options`` holds its path there.

        Raises ``argparse.ArgumentTypeError`` for a type other than str, or an action other than store
        and append.
        """
        if kwargs.get("type") not in (None, str):
            raise argparse.ArgumentTypeError("a file argument is a str: leave type out")
        if kwargs.get("action") not in (None, "store", "append"):
            raise argparse.ArgumentTypeError("a file argument has action store or append")
        action = self.arg_parser.add_argument(*args, **kwargs)
        self._file_dests[action.dest] = action.default

    def pass_arg_through(self, opt_str: str) -> None:
        """Accept what mrjob accepts and do nothing: all arguments of the job reach its tasks anyway.

        Raises ``ValueError`` for an option that the job does not define.
        """
        if not any(opt_str in a.option_strings or opt_str == a.dest for a in self.arg_parser._actions):
            raise ValueError(f"unknown arg: {opt_str}")

    def load_args(self, args: list[str]) -> None:
        """Parse ``args`` into ``self.options``; redefine to work on the options after ``super().load_args(args)``."""
        self.options = self.arg_parser.parse_args(args)
        for dest, default in self._file_dests.items():
            value = getattr(self.options, dest)
            paths = value if isinstance(value, list) else [] if value is None else [value]
            # A default is shipped if the client has such a file, and is a plain value elsewhere.
            defaults = default if isinstance(default, list) else [default]
            self._file_args[dest] = [p for p in paths if p not in defaults or Path(p).is_file()]
            if self._task_files is not None:
                local = [self._task_files.get(p, p) for p in paths]
                setattr(self.options, dest, local if isinstance(value, list) else local[0] if local else None)

    def file_args(self) -> dict[str, list[str]]:
        """Return the files to ship, as given, by destination in ``self.options``."""
        return dict(self._file_args)

    def is_task(self) -> bool:
        """Return True in a map or reduce task, False on the client."""
        return self._task_files is not None

    # What a task reports

    def increment_counter(self, group: Any, counter: Any, amount: int = 1) -> None:
        """Add to a counter. Counters of attempts that do not commit never show.

        Raises ``TypeError`` for an amount that is not an int.
        """
        if not isinstance(amount, int):
            raise TypeError(f"amount must be an integer, not {amount!r}")
        names = self.counters.setdefault(group if isinstance(group, str) else str(group), {})
        name = counter if isinstance(counter, str) else str(counter)
        names[name] = names.get(name, 0) + amount

    def set_status(self, msg: Any) -> None:
        """Show a short text as the job's status, and report that a slow task is alive."""
        if self.status_hook is not None:
            self.status_hook(str(msg))

    # What a job may redefine instead of setting the attribute

    def steps(self) -> list[MRStep]:
        """Return the steps; by default one, of the hooks that the class defines."""
        own = {name: getattr(self, name) for name in HOOKS if getattr(self, name) is not None}
        return [MRStep(**own)] if own else []

    def input_protocol(self) -> Any:
        """Return an instance of ``INPUT_PROTOCOL``, or None: the first step reads what the input format gives."""
        return _protocol(self, "INPUT_PROTOCOL")

    def internal_protocol(self) -> Any:
        """Return an instance of ``INTERNAL_PROTOCOL``, or None: keys and values keep their types between steps."""
        return _protocol(self, "INTERNAL_PROTOCOL")

    def output_protocol(self) -> Any:
        """Return an instance of ``OUTPUT_PROTOCOL``, or None: the last step writes the output format."""
        return _protocol(self, "OUTPUT_PROTOCOL")

    def sort_values(self) -> bool | None:
        """Return ``SORT_VALUES``: whether a key's values reach the reducer in order."""
        return self.SORT_VALUES

    def partitioner(self) -> str | None:
        """Return ``PARTITIONER``: the name of the job's partitioner, or None."""
        return self.PARTITIONER

    def jobconf(self) -> dict[str, Any]:
        """Return a copy of ``JOBCONF``, Hadoop properties by name. Raises :class:`UsageError` if it is not a dict."""
        if not isinstance(self.JOBCONF, Mapping):
            raise UsageError(f"{type(self).__name__}.JOBCONF is {self.JOBCONF!r}: make it a dict of names and values")
        return dict(self.JOBCONF)

    def files(self) -> list[str]:
        """List the files to ship, ``PATH`` or ``PATH#NAME``; those of ``FILES`` are relative to the job's file."""
        return self._beside_job("FILES")

    def dirs(self) -> list[str]:
        """List the folders to ship, as ``files()`` does."""
        return self._beside_job("DIRS")

    def archives(self) -> list[str]:
        """List the archives to ship and unpack, as ``files()`` does."""
        return self._beside_job("ARCHIVES")

    def _beside_job(self, name: str) -> list[str]:
        paths = getattr(self, name)
        if isinstance(paths, str):
            raise UsageError(f"{type(self).__name__}.{name} is one string: make it a list of paths")
        folder = Path(self.mr_job_script() or ".").parent
        return [str(folder / Path(path).expanduser()) for path in paths]

    @classmethod
    def mr_job_script(cls) -> str | None:
        """Return the path of the file that defines the class, or None."""
        return getattr(sys.modules.get(cls.__module__), "__file__", None)

    @classmethod
    def run(cls, argv: Sequence[str] | None = None) -> None:
        """Run the job's own command line; call it under ``if __name__ == "__main__"``.

        Raises :class:`JobLoadError` if it is called while the job's file is being imported.
        """
        if _importing.get():
            raise JobLoadError(
                f'{cls.__name__}.run() is called while its file is imported: put it under if __name__ == "__main__":'
            )
        # The one reference upwards: the command line imports jobs, so a job finds the command line by its name.
        command_line = import_module("mrcelery.cli.main")
        command_line.run_job_class(cls, list(sys.argv[1:] if argv is None else argv))

    def make_runner(self) -> NoReturn:
        """Raise :class:`UsageError`: mrjob's way to run a job from Python is :func:`mrcelery.run` here."""
        raise UsageError(f"make_runner() is not supported: call mrcelery.run({type(self).__name__}, inputs)")


def check_attributes(job_class: type[MRJob]) -> None:
    """Raise :class:`UsageError` for an attribute that is all but one of those of :class:`MRJob`."""
    known = {name for name in vars(MRJob) if name.isupper()}
    own = {name for base in job_class.__mro__ if not issubclass(MRJob, base) for name in vars(base)}
    for name in sorted(own - known):
        if not name.isupper() or name.startswith("_"):
            continue
        if name in _CALLED_OTHERWISE:
            meant = _CALLED_OTHERWISE[name]
        else:
            import difflib  # noqa: PLC0415 - few jobs have constants

            meant = next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.85)), "")
        if meant:
            raise UsageError(f"{job_class.__name__}.{name} does nothing: did you mean {meant}?")


_CALLED_OTHERWISE = {"INPUT_FORMAT": "INPUT", "OUTPUT_FORMAT": "OUTPUT", "JOB_CONF": "JOBCONF"}


def _protocol(job: MRJob, name: str) -> Any:
    protocol = getattr(job, name)
    if protocol is None:
        return None
    if not isinstance(protocol, type):
        raise UsageError(f"{type(job).__name__}.{name} is {protocol!r}: set it to a protocol class")
    return protocol()
