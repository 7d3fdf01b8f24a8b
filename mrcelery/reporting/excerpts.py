"""Excerpts from storage shown with a job: its attempts' logs, and skipped records."""

from __future__ import annotations

from itertools import islice

from mrcelery.errors import CorruptDataError, VersionError
from mrcelery.jobstore.journal import Entry
from mrcelery.reporting.overview import Overview, StageView
from mrcelery.reporting.page import Evidence
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import BadRecord
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.base import Storage

LOGS = 20
"""Most logs of failed attempts in a report."""
LOG_BYTES = 32 << 10
"""Bytes shown of a log, from its end."""
BAD_RECORDS = 50
"""Bad records shown."""
BAD_FILES = 20
"""Files of bad records read."""
BAD_BYTES = 256 << 10
"""Bytes read of such a file."""


def gather(storage: Storage, found: Overview) -> Evidence:
    """Collect the logs of failed attempts, the failure's first, and some bad records.

    Raises :class:`mrcelery.errors.StorageUnreachableError`.
    """
    logs = {}
    for stage, one in islice(_wrong(found), LOGS):
        if text := log(storage, TaskId(found.job, stage.step, stage.kind, one.task), one.attempt):
            logs[f"{stage.step}.{stage.kind}.{one.task}.{one.attempt}"] = text
    records, more = bad_records(storage, found.job) if any(s.sums.bad_records for s in found.stages) else ((), 0)
    return Evidence(logs=logs, bad_records=records, more_bad_records=more)


def _wrong(found: Overview) -> list[tuple[StageView, Entry]]:
    cause = found.failure
    wrong = [(stage, one) for stage in found.stages for one in stage.attempts if one.outcome == "failed"]
    if cause is not None:
        at = (cause.step, cause.kind, cause.task)
        wrong.sort(key=lambda pair: (pair[0].step, pair[0].kind, pair[1].task) != at)
    return wrong


def log(storage: Storage, task: TaskId, attempt: str) -> str:
    """Read the end of an attempt's output; "" if none of it is kept.

    ``attempt`` is as in its :class:`mrcelery.jobstore.journal.Entry`, which may only contain its random part.
    """
    prefix = object_keys.log(task, "")
    if "/" in attempt:
        return ""  # not a name that we assign: it would lead to another key
    if attempt.startswith("-"):
        keys = [info.key for info in storage.list(prefix) if info.key.endswith(attempt)]
        if not keys:
            return ""
        key = keys[0]
    else:
        key = prefix + attempt
    info = storage.stat(key)
    if info is None:
        return ""
    try:
        text = storage.read(key, max(0, info.size - LOG_BYTES)).decode("utf-8", "replace")
    except FileNotFoundError:  # removed since it was listed
        return ""
    return f"[...]\n{text}" if info.size > LOG_BYTES else text


def bad_records(storage: Storage, job: str) -> tuple[tuple[BadRecord, ...], int]:
    """Read some of the records that a job skipped; the second value is 1 if there are more, else 0."""
    found: list[BadRecord] = []
    for number, info in enumerate(storage.list(object_keys.bad_records_root(job))):
        if number >= BAD_FILES or len(found) >= BAD_RECORDS:
            return tuple(found), 1
        try:
            data = storage.read(info.key, 0, min(info.size, BAD_BYTES))
        except FileNotFoundError:  # of an attempt that does not count
            continue
        lines = data.split(b"\n")[:-1]
        # A damaged line is skipped: it must not keep a job from succeeding.
        found += [one for line in lines[: BAD_RECORDS + 1 - len(found)] if (one := _record(line))]
    return tuple(found[:BAD_RECORDS]), int(len(found) > BAD_RECORDS)


def _record(line: bytes) -> BadRecord | None:
    try:
        return decode(line, BadRecord)
    except (CorruptDataError, VersionError):
        return None
