"""mrjob's modules, as far as a job file needs them: ``from mrjob.job import MRJob`` gives our class.

:func:`mrjob_alias` replaces ``mrjob``, installed or not, while a job file is loaded and run. Its ``MRJob`` has mrjob's
default protocols, so that such a job gets the same data as from mrjob.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import IO, Any

from mrcelery import protocols
from mrcelery.job import base
from mrcelery.job.step import PORTING, MRStep


class MRJob(base.MRJob):
    """``mrjob.job.MRJob``: lines in, JSON between the steps and out."""

    INPUT_PROTOCOL = protocols.RawValueProtocol
    INTERNAL_PROTOCOL = protocols.JSONProtocol
    OUTPUT_PROTOCOL = protocols.JSONProtocol

    def increment_counter(self, group: Any, counter: Any, amount: int = 1) -> None:
        """Count under mrjob's names: Hadoop does not allow commas, so they become semicolons."""
        super().increment_counter(str(group).replace(",", ";"), str(counter).replace(",", ";"), amount)

    def parse_output(self, chunks: Iterable[bytes]) -> Iterator[tuple[Any, Any]]:
        """Read (key, value) pairs from the bytes of the job's output, with arbitrary piece boundaries."""
        read = self.output_protocol().read
        return (read(line.rstrip(b"\r\n")) for line in to_lines(chunks))


def to_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, with their newlines, from pieces of bytes with arbitrary boundaries."""
    rest: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        for other in others:
            rest.append(first)
            yield b"".join(rest) + b"\n"
            rest.clear()
            first = other
        if first:
            rest.append(first)
    if rest:
        yield b"".join(rest)


def log_to_stream(
    name: str | None = None,
    stream: IO[str] | None = None,
    format: str | None = None,
    level: int | None = None,
    debug: bool = False,
) -> None:
    """Log to ``stream`` (stderr), at INFO, or at DEBUG if ``debug``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(format or "%(message)s"))
    handler.setLevel(level or (logging.DEBUG if debug else logging.INFO))
    logger = logging.getLogger(name)
    logger.setLevel(handler.level)
    logger.addHandler(handler)


# The properties that mappers read, with their old and new names.
_RENAMED = {
    "map.input.file": "mapreduce.map.input.file",
    "map.input.start": "mapreduce.map.input.start",
    "map.input.length": "mapreduce.map.input.length",
    "mapred.task.id": "mapreduce.task.attempt.id",
    "mapred.task.partition": "mapreduce.task.partition",
    "mapred.job.id": "mapreduce.job.id",
    "mapred.reduce.tasks": "mapreduce.job.reduces",
    "mapred.map.tasks": "mapreduce.job.maps",
}
_OTHER_NAME = _RENAMED | {new: old for old, new in _RENAMED.items()}


def jobconf_from_env(variable: str, default: Any = None) -> Any:
    """Return a Hadoop property from the task's environment (with underscores for dots), by its old or new name."""
    for name in (variable, _OTHER_NAME.get(variable)):
        if name is not None and name.replace(".", "_") in os.environ:
            return os.environ[name.replace(".", "_")]
    return default


def jobconf_from_dict(jobconf: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return a Hadoop property from a jobconf, by its old or new name."""
    return jobconf.get(name, jobconf.get(_OTHER_NAME.get(name, name), default))


_PROTOCOLS = {name: value for name, value in vars(protocols).items() if name.endswith("Protocol") and name[0] != "_"}
_PROTOCOLS.pop("LineProtocol")
_CONTENTS: dict[str, dict[str, Any]] = {
    "mrjob": {"__version__": "0.7.4"},
    "mrjob.job": {"MRJob": MRJob, "MRStep": MRStep},
    "mrjob.step": {"MRStep": MRStep},
    "mrjob.protocol": _PROTOCOLS,
    "mrjob.util": {"to_lines": to_lines, "log_to_stream": log_to_stream},
    "mrjob.compat": {"jobconf_from_env": jobconf_from_env, "jobconf_from_dict": jobconf_from_dict},
}


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system reads these
            raise AttributeError(name)
        raise ImportError(
            f"mrcelery does not provide {self.__name__}.{name}; of mrjob it has "
            + ", ".join(f"{m}.{a}" for m, names in _CONTENTS.items() for a in names if m != "mrjob")
            + f": see {PORTING}"
        )


def _modules() -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {}
    for name, contents in _CONTENTS.items():
        modules[name] = module = _Module(name, "Provided by mrcelery.")
        module.__dict__.update(contents)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, module)
    modules["mrjob"].__path__ = []
    return modules


_MODULES = _modules()


class _Finder:
    """Rejects those modules of mrjob that we do not provide, with a message."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        if name.startswith("mrjob."):
            raise ModuleNotFoundError(
                f"mrcelery does not provide {name}; of mrjob it has {', '.join(_MODULES)}: see {PORTING}", name=name
            )


_depth = 0


@contextmanager
def mrjob_alias() -> Iterator[None]:
    """Replace ``mrjob`` and its modules by ours inside the block. Applies to the whole process; nests."""
    global _depth
    _depth += 1
    try:
        if _depth > 1:
            yield
            return
        theirs = take_modules({"mrjob"})
        sys.modules.update(_MODULES)
        sys.meta_path.insert(0, _Finder)
        try:
            yield
        finally:
            sys.meta_path.remove(_Finder)
            for name in _MODULES:  # there are no others: _Finder rejects them
                sys.modules.pop(name, None)
            sys.modules.update(theirs)
    finally:
        _depth -= 1


def take_modules(tops: Iterable[str]) -> dict[str, ModuleType]:
    """Remove modules with these top-level names, and their submodules, from ``sys.modules`` and return them."""
    # Each task calls this: scan all modules only if one of these is loaded.
    loaded = {top for top in tops if top in sys.modules}
    names = [name for name in sys.modules if name.partition(".")[0] in loaded] if loaded else []
    return {name: sys.modules.pop(name) for name in names}
