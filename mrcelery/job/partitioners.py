"""Partitioners by name: the choice of the reduce task, of R, for each key.

``hash``
    Stable hash of the key (:func:`mrcelery.records.hashing.hash_partition`). Hadoop's ``HashPartitioner``.
``range``
    Total order: the part files, one after the other, are in order of key (:mod:`mrcelery.shuffle.bounds`). Hadoop's
    ``TotalOrderPartitioner``, but without a file of partitions: the bounds come from a sample.
``field:SPEC``
    Stable hash of some fields of the key, so that keys with the same values in them go to one partition. Hadoop's
    ``KeyFieldBasedPartitioner``.

SPEC is written as for ``cut -f``: ``1``, ``2-3``, ``2-`` or several with commas. Fields, counted from 1, are the items
of a tuple or list, or the text between separators in ``str`` and ``bytes`` (a tab, or the property
``mapreduce.map.output.key.field.separator``); any other key is one field. As in Hadoop, a key with fewer fields is
hashed by those it has, and a key with none of them goes to partition 0. With Hadoop's class name the property
``mapreduce.partition.keypartitioner.options`` selects the fields, as in ``-k1,2``, and without it the whole key counts.

``field`` receives a key in the same form as ``partition()``, decoded by the job's internal protocol if it has one;
``range`` orders keys as encoded by that protocol, which is the reducers' order.

The first that is given wins: ``--partitioner``; ``mapreduce.job.partitioner.class`` with ``-D``, then in the step's
``jobconf``; the job's ``partition()``; its ``PARTITIONER`` or ``partitioner()``, then its ``JOBCONF``; the
environment and configuration files; ``hash``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from mrcelery.errors import UsageError
from mrcelery.job.step import REDUCES, StepHooks
from mrcelery.records.hashing import hash_partition
from mrcelery.records.order import Key
from mrcelery.schema.structs import Partitioner, StepSpec

CLASS = ("mapreduce.job.partitioner.class", "mapred.partitioner.class")
SEPARATOR = ("mapreduce.map.output.key.field.separator", "map.output.key.field.separator")
OPTIONS = ("mapreduce.partition.keypartitioner.options", "mapred.text.key.partitioner.options")
# Each property also has its old name, as in Hadoop.

HEEDED = (*REDUCES, *CLASS, *SEPARATOR, *OPTIONS)
"""Hadoop's properties that have an effect here; a job may read any other one from its environment."""

SIMILAR = 0.9
"""Similarity (difflib) of a misspelling to a known name; Hadoop's, like mapreduce.job.reduce.class, have less."""

_HADOOP = {
    "HashPartitioner": "hash",
    "KeyFieldBasedPartitioner": "field",
    "TotalOrderPartitioner": "range",
}
_RANGE = re.compile(r"(\d+)(?:(-)(\d*))?")
_KEY_OPTION = re.compile(r"(\d+)[nr]*(?:,(\d+)[nr]*)?")


def check_names(jobconf: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for a name in Hadoop's namespaces that is almost one of :data:`HEEDED`."""
    for name in jobconf:
        if name in HEEDED or not str(name).startswith(("mapreduce.", "mapred.", "map.")):
            continue
        import difflib  # noqa: PLC0415 - only Hadoop's other properties need it

        near = difflib.get_close_matches(str(name), HEEDED, n=1, cutoff=SIMILAR)
        if near:
            raise UsageError(f"jobconf {name} does nothing: did you mean {near[0]}?")


def named(name: str, jobconf: Mapping[str, Any]) -> Partitioner:
    """Make the partitioner called ``name``, ours or Hadoop's, with the fields given in ``jobconf``.

    Raises :class:`UsageError` for another name, or invalid fields.
    """
    short = str(name).rpartition(".")[2]
    base, colon, spec = str(name).partition(":")
    if short in _HADOOP:
        base = _HADOOP[short]
        fields = _key_options(_property(jobconf, OPTIONS)) if base == "field" else ()
        if base == "field" and not fields:
            base = "hash"  # of the whole key
    elif base == "field":
        fields = tuple(map(_field_range, spec.split(",")))
    elif base in ("hash", "range") and not colon:
        fields = ()
    else:
        raise UsageError(
            f"partitioner {name} is not supported: use hash, range or field:SPEC, such as field:1, or define "
            "partition(self, key, n)"
        )
    if base != "field":
        return Partitioner("range" if base == "range" else "hash")
    separator = _property(jobconf, SEPARATOR).replace("\\t", "\t")
    return Partitioner("field", fields, separator or "\t")


def partitioner_of(
    own: Callable[[Any, int], int] | None,
    declared: str | None,
    job_conf: Mapping[str, Any],
    step_conf: Mapping[str, Any],
    *,
    flag: str = "",
    default: str = "",
    define: Mapping[str, Any],
) -> Partitioner:
    """Choose a step's partitioner, by the order of precedence above.

    ``own`` is the job's ``partition``, ``declared`` its ``partitioner()``, ``define`` the ``-D`` options, and
    ``default`` the name in the environment or a configuration file. Raises the errors of :func:`named`.
    """
    jobconf = {**job_conf, **step_conf, **define}
    for name in (flag, _property(define, CLASS), _property(step_conf, CLASS)):
        if name:
            return named(name, jobconf)
    if own is not None:
        return Partitioner()
    name = declared_name(declared, job_conf) or default
    return named(name, jobconf) if name else Partitioner()


def declared_name(declared: str | None, job_conf: Mapping[str, Any]) -> str:
    """Return the partitioner named by a job itself: ``PARTITIONER``, else in its ``JOBCONF``; "" for none."""
    return str(declared) if declared else _property(job_conf, CLASS)


def _property(jobconf: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(jobconf[name]) for name in names if jobconf.get(name) is not None), "")


def _field_range(text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text.strip())
    first, last = (int(match[1]), int(match[3] or 0) if match[2] else int(match[1])) if match else (0, 0)
    if first < 1 or 0 < last < first or (match and match[3] == "0"):
        raise UsageError(f"{text!r} is not a field spec: write field:1, field:2-3 or field:1,3- (from 1)")
    return first, last


def _key_options(text: str) -> tuple[tuple[int, int], ...]:
    """Parse the fields of Hadoop's ``-k1,2 -k4,4``; ``-k2`` extends to the key's end. Sort options are ignored."""
    fields = []
    words = iter(re.sub(r"-k\s+", "-k", text).split())
    for word in words:
        if word in ("-n", "-r", "-nr"):
            continue
        match = _KEY_OPTION.fullmatch(word.removeprefix("-k"))
        first, last = (int(match[1]), int(match[2] or 0)) if match and word.startswith("-k") else (0, 0)
        if first < 1 or 0 < last < first:
            raise UsageError(
                f"{OPTIONS[0]} has {word!r}, which is not supported: write whole fields, such as -k1,1 or -k2,3"
            )
        fields.append((first, last))
    return tuple(fields)


class FieldPartitioner:
    """Partitions keys by some of their fields; called as a job's ``partition()``."""

    def __init__(self, partitioner: Partitioner) -> None:
        self._fields = partitioner.fields
        self._separator = partitioner.separator
        self._encoded = partitioner.separator.encode()

    def __call__(self, key: Key, n: int) -> int:
        """Hash the chosen fields of a tuple, list or string; any other key is one field. Return 0 if it has none of
        them.
        """
        if isinstance(key, (tuple, list)):
            items = key
        elif isinstance(key, str):
            items = key.split(self._separator)
        elif isinstance(key, bytes):
            items = key.split(self._encoded)
        else:
            items = (key,)
        found = [item for first, last in self._fields for item in items[first - 1 : last or None]]
        if len(found) == 1:
            return hash_partition(found[0], n)  # like a key that is this field alone: jobs to be joined may rely on it
        return hash_partition(tuple(found), n) if found else 0


def with_partitioner(hooks: StepHooks, step: StepSpec) -> StepHooks:
    """Return the hooks with their step's partitioner set."""
    if step.partitioner.kind == "own":
        return hooks
    partition = FieldPartitioner(step.partitioner) if step.partitioner.kind == "field" else None
    return hooks._replace(partition=partition, total_order=step.total_order)
