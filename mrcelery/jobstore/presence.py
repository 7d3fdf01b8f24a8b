"""Which workers are alive, by the presence record that each publishes at its own interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mrcelery.errors import TaskError
from mrcelery.schema.decoders import decoder
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Presence
from mrcelery.version import __version__

if TYPE_CHECKING:
    from mrcelery.jobstore.redis import RedisJobStore

SILENT = 3.0
"""Publishing intervals without a presence record after which a worker counts as lost."""

UNREAD_SECONDS = 5.0
"""Publishing interval assumed for a worker whose presence record cannot be read."""

this_worker = ""
"""Name of the worker that this process belongs to; "" elsewhere."""

Workers = Mapping[str, tuple[float, bytes]]
"""By name: seconds since a worker published its :class:`mrcelery.schema.structs.Presence`, and that record."""


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A worker by its last presence record. ``age`` and ``skew`` (its clock minus Redis's) are in seconds."""

    name: str
    host: str
    queues: tuple[str, ...]
    processes: int
    versions: dict[str, str]
    age: float
    skew: float
    silent: bool
    """Whether its next record is overdue although it has not signed off."""
    visibility: float
    arrow: bool
    signed: bool
    sick: str = ""
    """Why it takes no tasks now, if its machine makes tasks fail."""


def listening(workers: Workers, queue: str) -> frozenset[str]:
    """Return the names of the live workers that serve a queue."""
    return frozenset(alive(workers, queue))


def alive(workers: Workers, queue: str) -> dict[str, Presence]:
    """Return the live workers that serve a queue."""
    ours = of_queue(workers, queue)
    return {name: about for name, (since, about) in ours.items() if since < SILENT * about.every}


def ailing(workers: Workers, queue: str) -> dict[str, str]:
    """Return, by name, why the sick ones among the live workers that serve a queue take no tasks."""
    return {name: about.sick for name, about in sorted(alive(workers, queue).items()) if about.sick}


def of_queue(workers: Workers, queue: str) -> dict[str, tuple[float, Presence]]:
    """Return all workers of a queue whose record can be read, live or silent."""
    known = {name: (since, _presence(data)) for name, (since, data) in workers.items()}
    return {name: (since, about) for name, (since, about) in known.items() if about and queue in about.queues}


def waits_for_itself(workers: Workers, queue: str) -> bool:
    """Check whether this process is the only one that could run a queue's tasks, and so must not wait for them."""
    able = alive(workers, queue)
    return list(able) == [this_worker] and able[this_worker].processes == 1


def _presence(data: bytes) -> Presence | None:
    """Decode a worker's presence record; None if another version wrote it (its tasks will fail with VersionError)."""
    try:
        return decode(data, Presence)
    except TaskError:
        return None


def workers_seen(store: RedisJobStore) -> list[WorkerSeen]:
    """Return every worker that has published its presence, by name; for one of another version, what can be read."""
    published, now = store.workers(), server_time(store)
    found = []
    for name, (age, data) in sorted(published.items()):
        try:
            about = decoder(Presence)(data)
        except msgspec.MsgspecError:  # from a later version, as its missing versions show
            about = Presence(queues=(), processes=0, every=UNREAD_SECONDS, arrow=True)
        found.append(
            WorkerSeen(
                name=name,
                host=about.host,
                queues=about.queues,
                processes=about.processes,
                versions=about.versions,
                age=age,
                skew=about.at - (now - age) if about.at else 0.0,
                silent=age >= SILENT * about.every,
                visibility=about.visibility,
                arrow=about.arrow,
                signed=about.signed,
                sick=about.sick,
            )
        )
    return found


def server_time(store: RedisJobStore) -> float:
    """Return the time by the clock of Redis, in epoch seconds."""
    answer: Any
    (answer,) = store.call(("TIME",))
    return float(answer[0]) + float(answer[1]) / 1e6


def versions() -> dict[str, str]:
    """Return the versions of ``python``, ``mrcelery`` and ``celery`` on this machine; import none of them."""
    # Imported here: a waiting client only reads presence records, and these two imports take longer than the rest.
    import platform  # noqa: PLC0415 - clients import this module
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - clients import this module

    try:
        celery = version("celery")
    except PackageNotFoundError:  # vendored, for example
        celery = "?"
    return {"python": platform.python_version(), "mrcelery": __version__, "celery": celery}
