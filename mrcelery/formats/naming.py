"""Names of formats with their arguments, in the form in which a job's options carry them to its tasks.

``--input-format csv -D csv.header=false`` is settled once, on the client, as ``csv:header=false``: the coordinator and
all tasks make the same format from that text alone. A custom format becomes ``own:...`` with the properties that the
coordinator needs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from mrcelery.errors import JobLoadError, UsageError
from mrcelery.formats.custom import load, made

INPUTS = ("text", "lines", "jsonl", "whole-file", "csv", "tsv", "parquet", "records:N", "lines:N")
OUTPUTS = ("json", "text", "jsonl", "none", "csv", "tsv", "parquet", "records")

_INPUT_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "csv": ("header", "delimiter", "quote", "multiline"),
    "tsv": ("header", "quote", "multiline"),
    "parquet": ("columns",),
    "records": ("", "key"),
    "lines": ("",),
    "own": ("class", "splittable"),
}
_OUTPUT_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "csv": ("header", "delimiter", "quote", "columns"),
    "tsv": ("header", "quote", "columns"),
    "parquet": ("schema", "compression"),
    "own": ("class", "suffix"),
}

_PARAMETERS = frozenset(
    f"{base}.{key}"
    for base in ("csv", "parquet", "records")
    for arguments in (_INPUT_ARGUMENTS, _OUTPUT_ARGUMENTS)
    for key in arguments.get(base, ())
    if key
)
"""Arguments of formats, by their names in a job's configuration."""


@dataclass(frozen=True)
class Name:
    """A format's name and its arguments; an unnamed argument is under ""."""

    base: str
    arguments: Mapping[str, str]

    def __str__(self) -> str:
        pairs = sorted((key, quote(value, safe="")) for key, value in self.arguments.items())
        text = ",".join(f"{key}={value}" if key else value for key, value in pairs)
        return f"{self.base}:{text}" if text else self.base

    @classmethod
    def of(cls, text: str) -> Name:
        """Parse the output of ``str()``, or a user's text without quoting."""
        base, colon, rest = text.partition(":")
        arguments: dict[str, str] = {}
        for item in rest.split(",") if colon else ():
            key, equals, value = item.partition("=")
            arguments[key if equals else ""] = unquote(value if equals else item)
        return cls(base, arguments)

    @property
    def argument(self) -> str:
        """Return the unnamed argument: the N of ``records:N``; "" if there is none."""
        return self.get("")

    def get(self, key: str, default: str = "") -> str:
        """Return an argument as text."""
        return self.arguments.get(key, default)

    def flag(self, key: str, default: bool) -> bool:
        """Parse true/false, 1/0 or yes/no. Raises :class:`UsageError` for anything else."""
        text = self.get(key, str(default)).lower()
        if text not in ("true", "false", "1", "0", "yes", "no"):
            raise self._wrong(key, "true or false")
        return text in ("true", "1", "yes")

    def number(self) -> int:
        """Parse the unnamed argument as an int from 1 up. Raises :class:`UsageError` for anything else."""
        if not (self.argument.isascii() and self.argument.isdigit() and int(self.argument) > 0):
            raise UsageError(f"the format {self.base} needs a number from 1 up: write {self.base}:N")
        return int(self.argument)

    def extent(self, key: str, size: int) -> tuple[int, int] | None:
        """Parse a range of bytes within ``size``: ``BEGIN-END``, END excluded, or ``END`` for a range from 0.

        Returns None if the argument is not given. Raises :class:`UsageError` for an empty range or one beyond ``size``.
        """
        if key not in self.arguments:
            return None
        begin, dash, end = self.get(key).rpartition("-")
        begin = begin if dash else "0"
        numeric = all(text.isascii() and text.isdigit() for text in (begin, end))
        if not numeric or not 0 <= int(begin) < int(end) <= size:
            raise self._wrong(key, f"END or BEGIN-END, bytes of a record from 0 to {size}, such as 10 or 4-14")
        return int(begin), int(end)

    def character(self, key: str, default: str = ",") -> str:
        """Parse one character, ``\\t`` as a tab. Raises :class:`UsageError` for several characters, or a line end."""
        text = self.get(key, default)
        text = "\t" if text == "\\t" else text
        if len(text) != 1 or text in "\r\n":
            raise self._wrong(key, "one character")
        return text

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Return the argument if it is one of ``choices``, the first by default; else raise :class:`UsageError`."""
        text = self.get(key, choices[0])
        if text not in choices:
            raise self._wrong(key, f"one of {', '.join(choices)}")
        return text

    def listed(self, key: str) -> tuple[str, ...]:
        """Split a comma-separated list of names. Raises :class:`UsageError` for a name given twice."""
        names = tuple(filter(None, map(str.strip, self.get(key).split(","))))
        if len(set(names)) < len(names):
            raise self._wrong(key, "names that differ")
        return names

    def schema(self, key: str) -> tuple[tuple[str, str], ...]:
        """Parse ``NAME:TYPE,NAME:TYPE`` into pairs. Raises :class:`UsageError` for an item that lacks either."""
        pairs = [item.rpartition(":") for item in self.listed(key)]
        if not all(name and kind for name, _, kind in pairs):
            raise self._wrong(key, "NAME:TYPE,NAME:TYPE")
        if len({name.strip() for name, _, _ in pairs}) < len(pairs):
            raise self._wrong(key, "names that differ")
        return tuple((name.strip(), kind.strip()) for name, _, kind in pairs)

    def declared(self, job: Any, attribute: str) -> tuple[Any, str]:
        """Return a custom format and its display name: the class named, or else the job's attribute."""
        if name := self.get("class"):
            return load(name), name
        return getattr(job, attribute, None), f"{type(job).__name__}.{attribute}"

    def _wrong(self, key: str, wanted: str) -> UsageError:
        return UsageError(f"{self.base}.{key} is {self.get(key)!r}: give {wanted}")


def parse(text: str, names: Sequence[str]) -> Name:
    """Parse ``text``, whose name must be one of ``names``: :data:`INPUTS` or :data:`OUTPUTS`.

    Raises :class:`UsageError` for another name, or for arguments that the format does not accept.
    """
    name = Name.of(text)
    base, arguments = name.base, name.arguments
    known = {name.partition(":")[0] for name in names}
    if base not in known and base != "own":
        raise _unknown(text, names)
    taken = (_INPUT_ARGUMENTS if names is INPUTS else _OUTPUT_ARGUMENTS).get(base, ())
    for key in arguments:
        if key not in taken:
            raise UsageError(
                f"the format {base} has no argument {key or text!r}: "
                + (f"it takes {', '.join(key or 'a number' for key in taken)}" if taken else "it takes none")
            )
    if f"{base}:N" in names and base not in names and not arguments:
        raise UsageError(f"the format {base} needs a number from 1 up: write {base}:N")
    return name


def keyed(text: str) -> bool:
    """Check whether an input format's tables are its keys and values, which an identity mapper passes on unchanged."""
    name = Name.of(text)
    return name.base == "records" and "key" in name.arguments


def _unknown(text: str, names: Sequence[str]) -> UsageError:
    kind = "input" if names is INPUTS else "output"
    return UsageError(f"unknown {kind} format {text!r}: use one of {', '.join(names)}, or pkg.module:Class")


def settle(given: Any, jobconf: Mapping[str, Any], attribute: str) -> str:
    """Convert a format given by a user to the text carried in the job's options.

    A user gives a name, with arguments from ``jobconf`` (``csv.header`` and the like); ``pkg.module:Class``; or a
    custom object or class, which is the job's ``attribute``, ``INPUT`` or ``OUTPUT``. Raises :class:`UsageError` for
    anything else.
    """
    names, taken = (INPUTS, _INPUT_ARGUMENTS) if attribute == "INPUT" else (OUTPUTS, _OUTPUT_ARGUMENTS)
    named = isinstance(given, str)
    if named and (given.partition(":")[0] in {n.partition(":")[0] for n in names} or ":" not in given):
        name = parse(given, names)
        if name.base == "own":
            raise UsageError(f"{given!r} names no format: use pkg.module:Class, or set {attribute} on the job")
        conf = _prefix(name.base)
        given_there = {key: f"{conf}.{key}" for key in taken.get(name.base, ()) if f"{conf}.{key}" in jobconf}
        arguments = {key: str(jobconf[there]) for key, there in given_there.items()}
        return str(Name(name.base, {**arguments, **name.arguments}))
    try:
        made_from = load(given) if named else given
    except JobLoadError as e:
        if isinstance(e.__cause__, ModuleNotFoundError) and e.__cause__.name == given.partition(":")[0]:
            raise _unknown(given, names) from None
        raise
    arguments = {"class": given} if named else {}
    if attribute == "INPUT":
        reader = made(made_from, given if named else attribute, "read")
        arguments["splittable"] = "true" if getattr(reader, "splittable", False) else "false"
    else:
        writer = made(made_from, given if named else attribute, "encode")
        arguments["suffix"] = str(getattr(writer, "suffix", ""))
    return str(Name("own", arguments))


def check_jobconf(jobconf: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for an unknown format argument, such as ``csv.haeder`` or ``CSV.header``."""
    for name in jobconf:
        if name.partition(".")[0] == "tsv":
            raise UsageError(f"jobconf {name} does nothing: call it csv.{name.partition('.')[2]}, for tsv too")
        spelt = name.lower().replace("-", ".").replace("_", ".")
        if name != spelt and spelt in _PARAMETERS:
            raise UsageError(f"jobconf {name} does nothing: did you mean {spelt}?")
        base, dot, key = name.partition(".")
        taken = {k for arguments in (_INPUT_ARGUMENTS, _OUTPUT_ARGUMENTS) for k in arguments.get(base, ())}
        if dot and base in ("csv", "parquet", "records") and key not in taken:
            raise UsageError(f"jobconf {name} is unknown: {base} has {', '.join(sorted(filter(None, taken)))}")


def check_used(given: Mapping[str, Any], input_name: str, output_name: str) -> None:
    """Raise :class:`UsageError` for an argument of a format that this job neither reads nor writes.

    ``given``: the configuration given with this one job; its class's may serve others, too.
    """
    reads, writes = Name.of(input_name).base, Name.of(output_name).base
    taken = ((_INPUT_ARGUMENTS, reads, "--input-format"), (_OUTPUT_ARGUMENTS, writes, "--output-format"))
    used = {f"{_prefix(base)}.{key}" for arguments, base, _ in taken for key in arguments.get(base, ())}
    for name in given:
        base, _, key = name.partition(".")
        if name in _PARAMETERS and name not in used:
            options = " or ".join(option for arguments, _, option in taken if key in arguments.get(base, ()))
            raise UsageError(
                f"-D {name} does nothing: this job reads {reads} and writes {writes}, so give {options} {base}, or "
                "leave it out"
            )


def _prefix(base: str) -> str:
    """Return the prefix of a format's arguments in a job's configuration: a tsv is a csv with tabs."""
    return "csv" if base == "tsv" else base


def to_ship(text: str, job_class: type) -> tuple[str, ...]:
    """Return the paths to ship for a settled format: the file or folder of the module or package it names.

    Nothing if that is the job's own module, or an installed one.
    """
    top = Name.of(text).get("class").partition(":")[0].partition(".")[0]
    if top in ("", "mrcelery", job_class.__module__.partition(".")[0]):
        return ()
    module = sys.modules[top]
    path = Path(module.__path__[0] if hasattr(module, "__path__") else module.__file__ or "")
    return () if {"site-packages", "dist-packages"} & set(path.parts) else (str(path),)
