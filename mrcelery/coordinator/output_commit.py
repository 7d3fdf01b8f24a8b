"""The output committer: a job's part files go to OUTPUT, whole, by one job at a time, ``_SUCCESS`` last.

Any step may be run again, or by two workers at once, since a message can be delivered twice. A job first
lays its claim, ``_PUBLISHING.<job>``, and then checks for others' claims: of two jobs with one OUTPUT at most one
continues. That needs no conditional write, which the file system or bucket of an OUTPUT may not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from mrcelery.errors import CorruptDataError, JobStoppedError, OutputExistsError, VersionError
from mrcelery.jobstore.base import JobStore
from mrcelery.reporting.report import Report, put_report, read_report, remove_report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode, encode
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import Part
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage
from mrcelery.storage.transfers import carried

THREADS = 16
"""Part files copied at the same time."""


def check_free(uri: str) -> None:
    """Raise :class:`OutputExistsError` if OUTPUT holds anything: before a job's work, not after it."""
    if next(open_storage(uri).list(), None) is not None:
        raise _exists(uri)


def publish(
    store: JobStore,
    storage: Storage,
    job: str,
    uri: str,
    copies: Mapping[str, Part],
    report: Callable[[], Report],
    *,
    overwrite: bool,
) -> None:
    """Copy committed parts to OUTPUT, or to the job's own storage if ``uri`` is "", and mark them complete.

    ``copies``: the parts by the names of their copies. ``report`` is called when all are copied.
    Raises :class:`OutputExistsError` for an OUTPUT that something else holds, unless ``overwrite``, and for
    one that another job publishes to; :class:`JobStoppedError` if the job has ended meanwhile.
    """
    output, prefix = (open_storage(uri), "") if uri else (storage, object_keys.output(job))
    if uri:
        _claim(store, output, job, overwrite=overwrite)
        if _publisher(output) == job:  # by an earlier run, which did not come to the job's end
            output.delete([_claim_of(job)])
            return
        if overwrite:
            # Only what no run of this job writes: another one may be further than this.
            output.delete([object_keys.SUCCESS, *(name for name in _published(output) if name not in copies)])

    def copy(name: str, part: Part) -> None:
        if store.state(job) in FINAL:
            raise JobStoppedError(f"job {job} has ended")
        storage.copy(part.key, output, prefix + name)

    try:
        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for _ in pool.map(carried(copy), copies.keys(), copies.values()):
                pass
    except (FileNotFoundError, JobStoppedError):
        if store.state(job) != "succeeded":
            raise
        # Another run has come to the end, and the parts may be gone. Its mark may be what we removed.
        if uri and (written := read_report(storage, job)) is not None:
            output.write(object_keys.SUCCESS, _success(written))
            output.delete([_claim_of(job)])
        raise JobStoppedError(f"job {job} has ended") from None
    written = report()
    put_report(storage, written)
    if uri:
        output.write(object_keys.SUCCESS, _success(written))
        output.delete([_claim_of(job)])


def withdraw(storage: Storage, job: str, uri: str) -> None:
    """Take back what a failed or cancelled job has published, all or in part; no other job's output."""
    storage.delete([o.key for o in storage.list(object_keys.output(job))])
    remove_report(storage, job)
    if not uri:
        return
    output = open_storage(uri)
    if output.stat(_claim_of(job)) is not None or _publisher(output) == job:
        output.delete([object_keys.SUCCESS, *_published(output), _claim_of(job)])


def _success(report: Report) -> bytes:
    """Encode a report for OUTPUT's ``_SUCCESS``, without the history of its attempts."""
    return encode(replace(report, overview=None))


def _published(output: Storage) -> list[str]:
    """List what jobs have put at OUTPUT: part files and bad records."""
    parts = [o.key for o in output.list("part-") if object_keys.PART_NAME.fullmatch(o.key)]
    return [*parts, *(o.key for o in output.list(object_keys.BAD_RECORDS))]


def _claim_of(job: str) -> str:
    return f"{object_keys.CLAIM}{job}"


def _claim(store: JobStore, output: Storage, job: str, *, overwrite: bool) -> None:
    mine = _claim_of(job)
    if output.stat(mine) is None:  # else what lies there is what an earlier run of this job left
        held = not overwrite and next(output.list(), None) is not None
        # What is there now may be ours: another run's claim, or the mark that takes the claim's place.
        if held and output.stat(mine) is None and _publisher(output) != job:
            raise _exists(output.uri)
        output.write(mine, b"")
    others = [o.key for o in output.list(object_keys.CLAIM) if o.key != mine]
    for claim in others:
        other = claim.removeprefix(object_keys.CLAIM)
        if not overwrite or store.state(other) not in ("", *FINAL):
            output.delete([mine])
            raise OutputExistsError(
                f"job {other} publishes to the output {output.uri} at the same time: choose another for each job"
            )
    if others:  # of jobs that were killed as they published
        output.delete(others)


def _publisher(output: Storage) -> str:
    """Return the job whose ``_SUCCESS`` is at OUTPUT, "" if there is none of ours."""
    try:
        return decode(output.read(object_keys.SUCCESS), Report).job
    except (FileNotFoundError, CorruptDataError, VersionError):
        return ""


def _exists(uri: str) -> OutputExistsError:
    return OutputExistsError(f"the output {uri} exists: choose another, or give --overwrite")
