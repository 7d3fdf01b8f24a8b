"""The output committer: a job's part files go to OUTPUT, whole, by one job at a time, ``_SUCCESS`` last.

Any step may be run again, or by two workers at once, since a message can be delivered twice; and a worker may be
suspended at any point and resume much later, when its job has ended and OUTPUT belongs to another job. So each run of
the last step places its own claim, ``_PUBLISHING.<job>/<run>/``, lists all other claims, and changes OUTPUT only
through its claim (:class:`mrcelery.storage.base.Claim`). The latest run of a job revokes the claims of earlier runs. Of
two jobs with the same OUTPUT at most one continues; the claims of a job that has ended are revoked with
``--overwrite``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import crc32

from msgspec.structs import replace

from mrcelery.errors import (
    CorruptDataError,
    DamagedPartError,
    JobStoppedError,
    MRCeleryError,
    OutputExistsError,
    VersionError,
)
from mrcelery.jobstore.base import JobStore, generation_of
from mrcelery.reporting.report import Report, put_report, remove_report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import decode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import Part
from mrcelery.shuffle.damage import damage
from mrcelery.storage import open_storage
from mrcelery.storage.base import Claim, RevokedError, Source, Storage
from mrcelery.storage.claims import claim, revoke
from mrcelery.storage.transfers import carried

THREADS = 16
"""Part files copied at the same time."""


def check_free(uri: str) -> None:
    """Raise :class:`OutputExistsError` if OUTPUT contains anything: before a job's work, not after it."""
    if next(open_storage(uri).list(), None) is not None:
        raise _exists(uri)


def publish(
    store: JobStore,
    storage: Storage,
    seal: JobSeal,
    uri: str,
    copies: Mapping[str, Part],
    report: Callable[[], Report],
    *,
    overwrite: bool,
) -> None:
    """Copy committed parts to OUTPUT, or to the job's own storage if ``uri`` is "", and mark them complete.

    ``seal``: the job's. ``copies``: the parts by the names of their copies. ``report`` is called when all are copied.
    Raises :class:`OutputExistsError` if something else occupies OUTPUT, unless ``overwrite``, and if another job
    publishes to it; :class:`JobStoppedError` if the job has ended meanwhile, or another run continues;
    :class:`DamagedPartError` if a part differs from its commit.
    """
    job = seal.job
    copies = _verified(store, storage, job, copies)  # before anything at OUTPUT is touched
    if not uri:
        prefix = object_keys.output(job)
        _copy_all(store, job, copies, lambda name, part: storage.copy(part.key, storage, prefix + name))
        put_report(storage, report(), seal)
        return
    output = open_storage(uri)
    free = next(output.list(), None) is None
    mine = _claim(store, output, seal, free=free, overwrite=overwrite)
    try:
        there = _mark(output, seal)
        # Else an earlier run published all of it, and died before it ended the job.
        if there is None or (there.job, there.generation) != (job, generation_of(store.fields(job))):
            if not free:  # its contents are ours, or must be overwritten
                _remove(output, mine, kept=copies)
            mine.announce(copies)
            _copy_all(
                store, job, copies, lambda name, part: mine.copy(Source(storage, part.key, part.bytes, part.tag), name)
            )
            written = report()
            put_report(storage, written, seal)
            mine.write(object_keys.SUCCESS, _success(written, seal))
        mine.release()
    except RevokedError:
        raise JobStoppedError(
            f"another run of the last step of job {job} is still running, or the job has ended"
        ) from None


def _copy_all(store: JobStore, job: str, copies: Mapping[str, Part], copy: Callable[[str, Part], None]) -> None:
    def checked(name: str, part: Part) -> None:
        if store.state(job) in FINAL:
            raise JobStoppedError(f"job {job} has ended")
        with damage(part):
            copy(name, part)

    with _unless_ended(store, job):
        _in_threads(checked, copies.keys(), copies.values())


@contextmanager
def _unless_ended(store: JobStore, job: str) -> Iterator[None]:
    """Raise :class:`JobStoppedError` if a part is gone because the job has ended: another run finished it."""
    try:
        yield
    except DamagedPartError:
        if store.state(job) not in FINAL:
            raise
        raise JobStoppedError(f"job {job} has ended") from None


def _verified(store: JobStore, storage: Storage, job: str, copies: Mapping[str, Part]) -> dict[str, Part]:
    """Return the parts with the tags of their objects, after checking that the objects match the commits.

    An object with the tag of its commit has not been written since, and is not read. Any other is checked by its
    checksum.
    """
    checked: dict[str, Part] = {}

    def verify(name: str, part: Part) -> None:
        with damage(part):
            found = storage.stat(part.key)
            if found is None:
                raise FileNotFoundError(part.key)
            if part.partition >= 0 and not (part.tag and (found.size, found.tag) == (part.bytes, part.tag)):
                _check_bytes(storage, part)
            checked[name] = replace(part, bytes=found.size, tag=found.tag)

    with _unless_ended(store, job):
        _in_threads(verify, copies.keys(), copies.values())
    return {name: checked[name] for name in copies}


def _check_bytes(storage: Storage, part: Part) -> None:
    size = checksum = 0
    for chunk in storage.stream(part.key):
        size += len(chunk)
        checksum = crc32(chunk, checksum)
    if (size, checksum) != (part.bytes, part.crc32):
        raise CorruptDataError("does not match its checksum")


def _in_threads(function: Callable[..., None], *arguments: Iterable[Any]) -> None:
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        for _ in pool.map(carried(function), *arguments):
            pass


def _remove(output: Storage, mine: Claim, kept: Collection[str] = ()) -> None:
    """Remove what jobs have published at OUTPUT, the success marker first."""
    if output.stat(object_keys.SUCCESS) is not None:
        mine.remove(object_keys.SUCCESS)
    names = [name for name in _published(output) if name not in kept]
    mine.announce(names)
    _in_threads(mine.remove, names)


def withdraw(storage: Storage, job: str, uri: str, ended: Callable[[], bool] = lambda: True) -> None:
    """Withdraw what a failed or cancelled job has published, all or in part, but no other job's output.

    ``ended`` is called once nobody else can publish for the job any more, to check that it has not been retried.
    """
    storage.delete([o.key for o in storage.list(object_keys.output(job))])
    remove_report(storage, job)
    if not uri:
        return
    output = open_storage(uri)
    if not any(other.job == job for other in _claims(output)) and _publisher(output) != job:
        return
    run, mine = _lay(output, job)
    try:
        others = [other for other in _claims(output) if other != run]
        if not any(other.job != job or other.run > run.run for other in others) and ended():
            _revoke(output, others)
            # A job that overwrites removes the previous success marker before anything else.
            if _publisher(output) == job or output.stat(object_keys.SUCCESS) is None:
                _remove(output, mine)
        mine.release()
    except RevokedError:
        pass  # the remaining files are for another job to replace


def _success(report: Report, seal: JobSeal) -> bytes:
    """Encode a report for OUTPUT's ``_SUCCESS``, without the history of its attempts."""
    return seal.encode(replace(report, overview=None), _success_of(report.job))


def _success_of(job: str) -> str:
    return f"the {object_keys.SUCCESS} of job {job}"


def _published(output: Storage) -> list[str]:
    """List what jobs have published at OUTPUT: part files and bad records."""
    parts = [o.key for o in output.list("part-") if object_keys.PART_NAME.fullmatch(o.key)]
    return [*parts, *(o.key for o in output.list(object_keys.BAD_RECORDS))]


class _Run(NamedTuple):
    """A run of a job's last step, identified by its claim."""

    job: str
    run: str
    """Its number and a random part; a later run has a greater one."""

    @property
    def key(self) -> str:
        """Return the key of the claim's object."""
        return object_keys.claim(self.job, self.run)


def _claims(output: Storage) -> list[_Run]:
    """List the claims at OUTPUT."""
    names = (info.key.removeprefix(object_keys.CLAIM) for info in output.list(object_keys.CLAIM))
    return sorted({_Run(*f"{name}/".split("/")[:2]) for name in names})


def _lay(output: Storage, job: str) -> tuple[_Run, Claim]:
    """Place a claim as the latest run of the job."""
    before = [int(other.run.partition("-")[0] or 0) for other in _claims(output) if other.job == job]
    run = _Run(job, f"{max(before, default=0) + 1:06d}-{secrets.token_hex(4)}")
    mine = claim(output, run.key)
    mine.take()
    return run, mine


def _claim(store: JobStore, output: Storage, seal: JobSeal, *, free: bool, overwrite: bool) -> Claim:
    job = seal.job
    # The contents may be ours: an earlier run's claim, or the success marker that replaces the claim.
    held = not (free or overwrite)
    if held and not any(other.job == job for other in _claims(output)) and _publisher(output, seal) != job:
        raise _exists(output.uri)
    run, mine = _lay(output, job)
    try:
        _check(store, output, run, overwrite=overwrite)
    except MRCeleryError:
        mine.release()
        raise
    return mine


def _check(store: JobStore, output: Storage, run: _Run, *, overwrite: bool) -> None:
    """Revoke the claims of others, or raise if OUTPUT belongs to them."""
    others = [other for other in _claims(output) if other != run]
    # Checked after the claim was placed: from now on, any run that takes over from an ended job revokes it.
    if store.state(run.job) in ("", *FINAL):
        raise JobStoppedError(f"job {run.job} has ended")
    for other in others:
        if other.job == run.job and other.run > run.run:
            raise JobStoppedError(f"another run of the last step of job {run.job} is still running")
        if other.job != run.job and (not overwrite or store.state(other.job) not in ("", *FINAL)):
            raise OutputExistsError(
                f"job {other.job} publishes to the output {output.uri} at the same time: choose another for each job"
            )
    _revoke(output, others)


def _revoke(output: Storage, others: Iterable[_Run]) -> None:
    for other in others:
        if other.run:
            revoke(output, other.key)
        else:  # not a claim that any run could still publish with
            output.delete([other.key])


def _mark(output: Storage, seal: JobSeal | None = None) -> Report | None:
    """Read the ``_SUCCESS`` at OUTPUT; None if there is none of ours. ``seal`` checks the one of its own job."""
    try:
        data = output.read(object_keys.SUCCESS)
        found = decode(data, Report)
    except (FileNotFoundError, CorruptDataError, VersionError):
        return None
    if seal is not None and found.job == seal.job:
        return seal.decode(data, Report, _success_of(seal.job))
    return found


def _publisher(output: Storage, seal: JobSeal | None = None) -> str:
    """Return the job whose ``_SUCCESS`` is at OUTPUT, "" if there is none of ours."""
    found = _mark(output, seal)
    return "" if found is None else found.job


def _exists(uri: str) -> OutputExistsError:
    return OutputExistsError(f"the output {uri} exists: choose another, or give --overwrite")
