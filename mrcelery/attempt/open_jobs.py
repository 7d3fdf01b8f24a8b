"""What a process that runs tasks holds: its job store, its settings, and the jobs it has seen."""

from __future__ import annotations

import os
import stat
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from mrcelery.attempt.failure import refused
from mrcelery.errors import (
    CorruptDataError,
    JobStoppedError,
    SickMachineError,
    StorageRefusedError,
    TaskError,
    UnsignedError,
)
from mrcelery.jobstore.base import JobStore
from mrcelery.jobstore.requests import check_identity, read_request, storage_of
from mrcelery.planning.splits import LAST, find_split, page_of
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import damaged, decode
from mrcelery.schema.signing import JobSeal, unseal
from mrcelery.schema.structs import JobOptions, JobSpec, PlanPage, Request, Split
from mrcelery.shipping.workspace import LoadedBundle, Workspace
from mrcelery.storage import inherit, open_storage
from mrcelery.storage.base import Storage

JOBS_KEPT = 8
"""Jobs whose specs and plan pages a process caches."""
PAGES_KEPT = 4


@dataclass
class OpenJob:
    """A job's spec, verified, and its storage."""

    spec: JobSpec
    storage: Storage
    seal: JobSeal
    pages: OrderedDict[tuple[int, int], PlanPage] = field(default_factory=OrderedDict)

    @property
    def id(self) -> str:
        """Return the job's id."""
        return self.spec.request.job


class OpenJobs:
    """The jobs that a process has open, and the settings used to open them.

    ``storage`` is searched for a job's spec if the job store has forgotten its request; ``scratch`` is a local folder
    for spills and unpacked code; with a ``signing_key``, records not signed with it are refused.
    """

    def __init__(
        self, store: JobStore, *, storage: str = "", scratch: str | None = None, signing_key: str | None = None
    ) -> None:
        self.store = store
        self.signing_key = signing_key
        self._storage = storage
        self.scratch_path = scratch or os.path.join(_temporary(), f"mrcelery-{os.getuid()}")
        """Where the scratch folder is or will be: for code that only reads there, or removes files."""
        self._own_scratch = bool(scratch)
        self._made = False
        self._jobs: OrderedDict[str, OpenJob] = OrderedDict()
        self._workspace = Workspace(Path(self.scratch_path) / "code")

    @property
    def scratch(self) -> str:
        """Return the folder for spills and code; it exists. Raises :class:`SickMachineError` if it cannot be made."""
        if not self._made:
            self.make_scratch()
        return self.scratch_path

    def make_scratch(self) -> None:
        """Make the scratch folder if it does not exist; raise :class:`SickMachineError` if that is refused."""
        try:
            # Nobody else may read spills and code.
            os.makedirs(self.scratch_path, mode=0o700, exist_ok=True)
        except OSError as e:
            raise SickMachineError(refused(e, self.scratch_path)) from e
        if not self._own_scratch:
            _check_private(self.scratch_path)
        self._made = True

    def request(self, job: str) -> Request:
        """Return the job's request as its client sent it, verified.

        Raises :class:`JobStoppedError` if the job store no longer knows the job.
        """
        request = read_request(self.store, job, self.signing_key)
        if request is None:
            raise JobStoppedError(f"job {job} is no longer known")
        return request

    def seal(self, job: str) -> JobSeal:
        """Return the seal that signs and checks a job's records."""
        return JobSeal(job, self.signing_key)

    def open(self, job: str) -> OpenJob:
        """Return the job's spec and storage, which are read and verified once."""
        active = self._jobs.get(job)
        if active is None:
            fields = self.store.fields(job)
            root = storage_of(self.store, job, fields, self.signing_key) or self._storage
            if not root:
                raise StorageRefusedError(f"the storage of job {job} is unknown: set MRCELERY_STORAGE on the workers")
            storage = open_storage(root)
            key = object_keys.spec(job)
            if "started" in fields:
                storage.expect()
            try:
                data = storage.read(key)
            except FileNotFoundError:
                raise CorruptDataError(f"{root}/{key} is gone, so job {job} cannot continue: submit it again") from None
            return self.keep(self.verified(data, job), storage)
        self._jobs.move_to_end(job)
        return active

    def options(self, job: str) -> JobOptions:
        """Return the job's options from memory or the job store, never from storage, which may be away.

        Returns the defaults for a job whose request is gone, or cannot be trusted.
        """
        active = self._jobs.get(job)
        try:
            return (active.spec.request if active is not None else self.request(job)).options
        except (JobStoppedError, TaskError):
            return JobOptions()

    def verified(self, data: bytes, job: str) -> JobSpec:
        """Decode a job's spec from its bytes in storage, and check its signature if that is required."""
        key = object_keys.spec(job)
        spec = unseal(data, JobSpec, self.signing_key, key)
        check_identity(spec.request, job, key)
        return spec

    def keep(self, spec: JobSpec, storage: Storage) -> OpenJob:
        """Keep a verified spec open."""
        active = self._jobs[spec.request.job] = OpenJob(spec, storage, self.seal(spec.request.job))
        while len(self._jobs) > JOBS_KEPT:
            self._jobs.popitem(last=False)
        return active

    def split(self, active: OpenJob, step: int, task: int) -> Split:
        """Return the split of a map task."""
        number = page_of(task)
        page = active.pages.get((step, number))
        if page is None:
            page = active.pages[step, number] = _read_page(active, step, number)
            while len(active.pages) > PAGES_KEPT:
                active.pages.popitem(last=False)
        return find_split(page, task)

    def code(self, active: OpenJob) -> LoadedBundle:
        """Return the job's code, unpacked on this machine; its checksum must match the verified spec."""
        bundle = active.spec.request.bundle
        self.make_scratch()  # some systems clean their temporary folders
        return self._workspace.open(bundle, lambda: active.storage.read(object_keys.code(active.id)))

    def loaded(self, job: str) -> LoadedBundle | None:
        """Return the code of an open job if this process has it loaded."""
        active = self._jobs.get(job)
        return self._workspace.loaded(active.spec.request.bundle) if active is not None else None

    def close(self, *, spared: str = "") -> None:
        """Close all code, and remove this process's files on this machine, except the folder ``spared``."""
        self._workspace.close(spared=spared)

    def adopt(self) -> None:
        """Take over the open jobs in a forked process; the process that opened them does not run them meanwhile."""
        self._workspace.adopt()
        inherit()

    def forget(self, job: str) -> None:
        """Close a job."""
        self._jobs.pop(job, None)


def _read_page(active: OpenJob, step: int, number: int) -> PlanPage:
    """Read a page of a step's plan. Later steps' pages are signed; the spec's signature covers the first step's."""
    key = object_keys.plan_page(active.id, step, number)
    data = active.storage.read(key)
    if step:
        page = active.seal.decode(data, PlanPage, key, ("", LAST))
        _check_extents(active, page, step, key)
        return page
    if sha256(data).hexdigest() != active.spec.plan.pages[number]:
        error = UnsignedError if active.seal.signs else CorruptDataError
        raise error(f"{key} is not what the job's spec names: it was altered; submit the job again")
    return decode(data, PlanPage, key)


def _check_extents(active: OpenJob, page: PlanPage, step: int, key: str) -> None:
    """Check that a later step reads only the output of the step before it, and no other file on this worker."""
    root = f"{active.storage.uri}/{object_keys.step_root(active.id, step - 1)}"
    for split in page.splits:
        for extent in split.extents:
            if not extent.block or not object_keys.lies_below(extent.uri, root):
                raise damaged(
                    f"{key} names {extent.uri}, which the step before did not write: it was altered; "
                    "submit the job again"
                )


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # no folder is writable
        return "/tmp"


def _check_private(folder: str) -> None:
    """Check the default scratch folder, which lies where everyone may create folders."""
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SickMachineError(
            f"the scratch folder {folder} is not this user's alone, so others could change the code in it: "
            "remove it, or set MRCELERY_SCRATCH to a folder of your own"
        )
