"""The protocol of runners, which run a job for its client, and how a client connects to the configured one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from mrcelery.config import Config
from mrcelery.errors import ConfigError
from mrcelery.jobstore.base import JobStore
from mrcelery.runners.fleet import FleetRunner
from mrcelery.storage.addresses import STORAGE, parse

if TYPE_CHECKING:
    from mrcelery.schema.structs import Request


class Runner(Protocol):
    """Runs jobs: in this process, on a local cluster, or on a fleet (:mod:`mrcelery.runners`)."""

    @property
    def store(self) -> JobStore:
        """Return the job store of its jobs."""
        ...

    @property
    def storage(self) -> str:
        """Return the address of its storage; "" for a fleet, whose storage is configured."""
        ...

    @property
    def patience(self) -> float:
        """Return the seconds without an answer from the job store after which a wait gives up."""
        ...

    def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
        """Register a job with its code and small inputs (by SHA-256), and start it."""
        ...

    def start(self, job: str, queue: str, generation: int = 0) -> None:
        """Start or resume a job that is registered in the job store."""
        ...

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        """Register the job again if ``fields``, as just polled, show that the job store has lost it; return whether."""
        ...

    def check(self) -> None:
        """Raise :class:`mrcelery.errors.MRCeleryError` if the processes that run the job have died."""
        ...

    def close(self) -> None:
        """Release connections, and stop the processes started for this runner."""
        ...


def storage_root(config: Config) -> str:
    """Return the configured storage in its canonical spelling, a folder as an absolute path; "" if none is configured.

    Raises :class:`ConfigError` for an invalid address.
    """
    if not config.storage:
        return ""
    return str(parse(config.storage, STORAGE)).rstrip("/") or "/"


def own_settings(config: Config) -> Config:
    """Return the settings for submitting a job: a fleet's storage and queue do not apply to a job that runs here.

    So a job on this machine leaves nothing in a storage that was not named for it: one from the environment or a file
    counts only if no broker is configured with it and the runner is not given on the command line.
    """
    here = (config.runner or ("celery" if config.broker else "local")) != "celery"
    config = replace(config, queue="celery") if here else config  # the queue of an embedded worker
    given = config.origins.get("storage", "").startswith("--")
    fleets = config.broker or config.origins.get("runner", "").startswith("--")
    return replace(config, storage="") if here and fleets and not given else config


def connect(config: Config) -> Runner | None:
    """Connect to the configured fleet; None if only a storage is configured.

    Raises :class:`ConfigError` if neither is configured.
    """
    if config.broker and config.runner in (None, "celery"):
        return FleetRunner(config.broker, config.result_backend or None)
    if not config.storage:
        raise ConfigError(
            "no fleet is configured: give --broker (or MRCELERY_BROKER, CELERY_BROKER_URL), "
            "or --storage for jobs that have ended (a local job leaves its report only if submitted with --storage)"
        )
    return None
