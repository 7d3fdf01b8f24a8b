"""Which of a storage's uploaded inputs are used, and by which jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from mrcelery.errors import CorruptDataError, VersionError
from mrcelery.jobstore.base import JobStore
from mrcelery.schema import object_keys
from mrcelery.schema.signing import unseal
from mrcelery.schema.structs import JobSpec, Request
from mrcelery.storage.base import ObjectInfo, Storage

THREADS = 16
PAGE = 100


class UploadedInputs:
    """The inputs that clients have uploaded to a storage, by key, and the jobs that read each.

    Considers jobs with a spec in the storage, and jobs known to the job store; their specs are read only if there are
    such inputs. If one of them cannot be read, its inputs are unknown: then every input counts as used.
    """

    def __init__(self, storage: Storage, store: JobStore | None) -> None:
        self._storage = storage
        self.found = {info.key: info for info in storage.list(object_keys.INPUTS)}
        self.unreadable: list[str] = []
        """Jobs whose spec or request cannot be read."""
        self._users: defaultdict[str, set[str]] = defaultdict(set)
        if self.found:
            for job, request in self._requests(store):
                for reference in self._references(request):
                    self._users[reference].add(job)

    def release(self, job: str) -> list[ObjectInfo]:
        """Forget a job that is removed, and return the inputs that no other job uses."""
        used = [info for info in self.found.values() if job in self._jobs(info.key)]
        self.unreadable = [other for other in self.unreadable if other != job]
        for jobs in self._users.values():
            jobs.discard(job)
        return self._take([] if self.unreadable else [info for info in used if not self._jobs(info.key)])

    def unused(self, before: float) -> list[ObjectInfo]:
        """Return the inputs that no job uses and that were last written ``before`` (epoch seconds)."""
        old = [info for info in self.found.values() if info.modified <= before and not self._jobs(info.key)]
        return self._take([] if self.unreadable else old)

    def _take(self, infos: list[ObjectInfo]) -> list[ObjectInfo]:
        for info in infos:
            del self.found[info.key]
        return infos

    def _jobs(self, key: str) -> set[str]:
        """Return the jobs that read an input: by its key, or by a folder or glob that contains it."""
        folder = key.rpartition("/")[0]
        return set().union(*(self._users.get(name, ()) for name in (key, folder, folder.partition("/")[0])))

    def _requests(self, store: JobStore | None) -> Iterator[tuple[str, Request]]:
        with ThreadPoolExecutor(THREADS) as pool:
            for job, request in pool.map(self._of_storage, list(self._storage.folders(object_keys.JOBS))):
                if request is not None:
                    yield job, request
        skip = 0
        while store is not None and (page := store.jobs(PAGE, skip)):
            skip += len(page)
            for job in page:
                if (data := store.request(job)) is not None:
                    try:
                        yield job, unseal(data, Request, None, job)
                    except (CorruptDataError, VersionError):
                        if store.fields(job).get("storage", "").rstrip("/") == self._storage.uri.rstrip("/"):
                            self.unreadable.append(job)

    def _of_storage(self, job: str) -> tuple[str, Request | None]:
        key = object_keys.spec(job)
        try:
            return job, unseal(self._storage.read(key), JobSpec, None, key).request
        except FileNotFoundError:  # the job store has its request, or it was never started
            pass
        except (CorruptDataError, VersionError):
            self.unreadable.append(job)
        return job, None

    def _references(self, request: Request) -> Iterator[str]:
        """Yield the keys, or the folders of ``inputs/``, that a request names."""
        for uri in request.inputs:
            # By the client's name for the storage, or by ours.
            for root in {request.storage.rstrip("/"), self._storage.uri}:
                rest = uri.removeprefix(f"{root}/")
                if rest != uri and f"{rest}/".startswith(object_keys.INPUTS):
                    parts = rest.rstrip("/").split("/", 2)
                    plain = parts[: next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), 3)]
                    # A glob over names counts as the folder that it searches; a file name may contain these characters,
                    # too.
                    yield "/".join(plain)
                    yield "/".join(parts)
