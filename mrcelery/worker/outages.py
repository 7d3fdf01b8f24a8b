"""Tasks that a storage outage ends: they are retried until the storage answers, or until they have waited too long.

A message carries how long its task has waited so far, ``awaited``, and how many of its retries were due to an outage,
``outages``: these do not count as attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mrcelery.errors import StorageOutageError
from mrcelery.schema.backoff import pause
from mrcelery.storage.patience import limit

FIRST, LONGEST = 1.0, 30.0
"""Seconds until a task is retried, the first times and later."""


class Again(NamedTuple):
    """In how many seconds a task is retried, and with which arguments."""

    countdown: float
    kwargs: dict[str, Any]


def again(kwargs: Mapping[str, Any], error: StorageOutageError, patience: float, *, stranger: bool = False) -> Again:
    """Decide when to retry a task; ``stranger``: its job has not started, so its storage may never have been reached.

    Raises :class:`StorageOutageError` if the task has waited for ``patience`` seconds.
    """
    longest = limit(error, patience) if stranger else patience
    awaited, outages = float(kwargs.get("awaited", 0)) + error.seconds, int(kwargs.get("outages", 0))
    if awaited >= longest:
        raise StorageOutageError(
            f"the storage did not recover within {longest:g} s (--storage-patience); once it is back, `mrcelery "
            f"retry` resumes the job: {error}",
            seconds=error.seconds,
            met=error.met,
        )
    countdown = min(pause(outages, FIRST, LONGEST), longest - awaited)
    more = {"awaited": round(awaited + countdown, 3), "outages": outages + 1}
    return Again(countdown, {**kwargs, **more})


def counted(kwargs: Mapping[str, Any], retries: int) -> int:
    """Return how many of a message's retries were for attempts that count."""
    return retries - int(kwargs.get("outages", 0))
