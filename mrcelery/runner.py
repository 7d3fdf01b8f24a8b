"""Where a job runs, as its client sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mrcelery.addresses import is_remote, local
from mrcelery.config import Config
from mrcelery.errors import ConfigError
from mrcelery.jobstore.base import JobStore

if TYPE_CHECKING:
    from mrcelery.records import Request


class Runner(Protocol):
    """Where a job runs; see :mod:`mrcelery.executor`."""

    @property
    def store(self) -> JobStore: ...
    @property
    def storage(self) -> str: ...
    @property
    def patience(self) -> float:
        """Seconds for which a wait bears that the job store does not answer."""
        ...

    def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None: ...
    def start(self, job: str, queue: str, run: int = 0) -> None:
        """Start a job that is in the job store, or have it go on."""
        ...

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        """Called at each look of a wait with the job's fields, none where the store has lost it.

        True where it was entered again.
        """
        ...

    def check(self) -> None: ...
    def close(self) -> None: ...


def storage_root(config: Config) -> str:
    """The configured storage, a folder as an absolute path; "" where none is configured."""
    uri = config.storage.rstrip("/")
    return uri if not uri or is_remote(uri) else local(uri)


def connect(config: Config) -> Runner | None:
    """The fleet of the configuration, or None where only a storage is configured."""
    if config.broker and config.runner in (None, "celery"):
        from mrcelery.executor.fleet import FleetRunner

        return FleetRunner(config.broker, config.result_backend or None)
    if not config.storage:
        raise ConfigError(
            "no fleet is configured: give --broker (or MRCELERY_BROKER, CELERY_BROKER_URL), "
            "or --storage to look at jobs that have ended"
        )
    return None
