"""Records that an attempt skips (the paper's section 4.6), and the known facts about records that kill its process.

A skipped record is written with its traceback to an object that the commit names: so only attempts that count are
counted. A record that kills its process leaves its number in a :class:`RecordMarker`, a file that outlives the process;
the parent process finds it there and adds it to the job's :class:`mrcelery.schema.structs.Losses`. As in the paper, one
death may be chance: a record at which a process dies a second time is skipped.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import BinaryIO

from mrcelery.errors import TaskError, UserCodeError, mask, writable
from mrcelery.jobstore.base import JobStore
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import BadRecord, Losses
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.base import Storage

GROUP = "mrcelery bad records"
"""Counter group of the skipped records, by step and kind of task."""

CHUNK = 1 << 20

_MARKER = struct.Struct("<qq")


class RecordMarker:
    """A file that names the records being processed by user code, for the main process if this process dies.

    ``pid``: the process known to the main process, if not this one.
    """

    def __init__(self, scratch: str, pid: int = 0) -> None:
        self._path = marker_path(scratch, pid or os.getpid())
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with open(self._path, "w+b") as file:
            file.truncate(_MARKER.size)
            self._map = mmap.mmap(file.fileno(), _MARKER.size)

    def set(self, first: int, count: int) -> None:
        """Record that user code is given ``count`` records (0: none), starting with this record number in its task."""
        _MARKER.pack_into(self._map, 0, first, count)

    def close(self) -> None:
        """Remove the file."""
        self._map.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def marker_path(scratch: str, pid: int) -> str:
    """Return the path of the marker of a process."""
    return os.path.join(scratch, "marks", str(pid))


def take_marker(scratch: str, pid: int) -> tuple[int, int] | None:
    """Remove a dead process's marker, and return the records in hand: the first one's number and their count."""
    path = marker_path(scratch, pid)
    try:
        with open(path, "rb") as file:
            data = file.read()
        os.unlink(path)
    except OSError:
        return None
    if len(data) != _MARKER.size:
        return None
    first, count = _MARKER.unpack(data)
    return (first, count) if count else None


def losses(store: JobStore, task: TaskId, seal: JobSeal) -> Losses:
    """Return the record of a task's attempts whose process died; it determines which records are skipped."""
    data = store.get_blob(task.job, _losses_name(task))
    return Losses() if data is None else seal.decode(data, Losses, object_keys.losses(task))


def note_loss(store: JobStore, task: TaskId, reason: str, in_hand: tuple[int, int] | None, seal: JobSeal) -> None:
    """Record that a process died in an attempt at a task, and which records it was processing."""
    deaths = losses(store, task, seal).deaths + (() if in_hand is None else (in_hand,))
    lost = Losses(reason=reason, deaths=deaths)
    store.put_blob(task.job, _losses_name(task), seal.encode(lost, object_keys.losses(task)))


def _losses_name(task: TaskId) -> str:
    return f"losses.{task.name}"


def killers(lost: Losses) -> frozenset[int]:
    """Return the records at which a process has died twice."""
    deaths = Counter(first for first, count in lost.deaths if count == 1)
    return frozenset(first for first, times in deaths.items() if times > 1)


class BadRecords:
    """The records that one attempt has skipped, at most ``limit``; they are written to a scratch file one by one.

    ``marker`` is None if nobody would read it: in a pool of threads, and when the attempt runs in this process.
    """

    def __init__(
        self,
        task: TaskId,
        attempt: str,
        *,
        limit: int,
        scratch: str,
        lost: Losses,
        marker: RecordMarker | None = None,
    ) -> None:
        self.count = 0
        self._task = task
        self._attempt = attempt
        self._key = object_keys.bad_records(task, attempt)
        self._limit = limit
        self._path = os.path.join(scratch, "bad-records")
        self._file: BinaryIO | None = None
        self._marker = marker
        self._reason = lost.reason
        self._suspects = [death for death in lost.deaths if death[1] > 1]
        self.killers: Collection[int] = killers(lost)

    def begin(self, first: int, count: int = 1) -> None:
        """Mark records as being processed, before user code is given them."""
        if self._marker is not None:
            self._marker.set(first, count)

    def end(self) -> None:
        """Mark no record as being processed, after user code has returned."""
        if self._marker is not None:
            self._marker.set(0, 0)

    def suspect(self, first: int, stop: int) -> bool:
        """Check whether a process has died while processing some of the records ``[first, stop)`` with others."""
        if any(first <= killer < stop for killer in self.killers):
            return True
        return any(begin < stop and first < begin + count for begin, count in self._suspects)

    def killed(self) -> TaskError:
        """Make the error with which a record that killed its process is skipped."""
        return UserCodeError(f"the record killed its process twice: {self._reason}")

    def skip(self, error: TaskError) -> None:
        """Skip a record. Raises a :class:`TaskError` that names it if the limit is exceeded."""
        self.end()
        self.count += 1
        record = BadRecord(
            **self._task._asdict(),
            attempt=self._attempt,
            file=mask(writable(error.file)),
            offset=-1 if error.offset is None else error.offset,
            record=mask(error.record),
            error=str(error),
            traceback=error.traceback,
        )
        if self._file is None:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            self._file = open(self._path, "w+b")  # noqa: SIM115  # open until close()
        self._file.write(encode(record) + b"\n")
        if self.count > self._limit:
            raise too_many(self._limit, record)

    def write(self, storage: Storage) -> str:
        """Write the skipped records to storage and return their key; "" if there are none."""
        if self._file is None:
            return ""
        self._file.seek(0)
        with storage.writer(self._key) as out:
            while chunk := self._file.read(CHUNK):
                out.write(chunk)
        return self._key

    def close(self) -> None:
        """Remove the scratch file and the marker."""
        if self._file is not None:
            self._file.close()
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        if self._marker is not None:
            self._marker.close()


def too_many(limit: int, one: BadRecord) -> TaskError:
    """Make the error that ends a job with more bad records than allowed; ``one`` is an example."""
    return UserCodeError(
        f"more than {limit} bad record{'' if limit == 1 else 's'}: correct the job or its input, or raise "
        f"--max-bad-records; the last one: {one.error}",
        file=one.file,
        offset=None if one.offset < 0 else one.offset,
        record=one.record,
        traceback=one.traceback,
    )
