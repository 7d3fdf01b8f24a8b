"""What can go wrong between a worker and its broker, as kombu, redis-py and Celery say it: one classification.

Whatever the broker does, the rest of mrcelery sees :class:`mrcelery.errors.BrokerUnreachableError`, which the
connections of :mod:`mrcelery.jobstore.connection` raise by themselves. A fault of the caller, such as a value that
cannot be sent, is none of these.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from celery.exceptions import BackendError
from kombu import exceptions as kombu_errors
from redis import exceptions as redis_errors

from mrcelery.errors import BrokerUnreachableError

REFUSALS: tuple[type[Exception], ...] = (
    redis_errors.ResponseError,  # READONLY, MISCONF, NOREPLICAS, OOM, NOPERM, UNBLOCKED, EXECABORT ...
    redis_errors.InvalidResponse,  # what answers does not speak Redis's protocol
    redis_errors.PubSubError,
    redis_errors.WatchError,
    redis_errors.LockError,
)
"""Redis answers, and does not do it. Not DataError: that is a value of ours which redis-py cannot send."""

BROKER_ERRORS: tuple[type[Exception], ...] = (
    BrokerUnreachableError,
    *REFUSALS,
    redis_errors.ConnectionError,  # LOADING, NOAUTH, WRONGPASS and "max number of clients" among them
    redis_errors.TimeoutError,
    kombu_errors.OperationalError,
    kombu_errors.LimitExceeded,
    kombu_errors.ConnectionError,  # and kombu's InconsistencyError
    kombu_errors.ChannelError,
    # kombu 5.7's, when a connection breaks in a batch: it is not known what of the batch has arrived.
    getattr(kombu_errors, "BatchPublishError", kombu_errors.OperationalError),
    BackendError,
)
"""What kombu, redis-py and Celery's result backend raise if the broker does not answer, or refuses; and our own."""

_IN_PUBLISHING: tuple[type[Exception], ...] = (*BROKER_ERRORS, OSError)

DELIVERY_ERRORS: tuple[type[Exception], ...] = (*BROKER_ERRORS, OSError, MemoryError)
"""What ends the delivery of a message through no fault of the message."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise :class:`BrokerUnreachableError` for anything that the broker does to what is ``doing``."""
    try:
        yield
    except _IN_PUBLISHING as e:
        cause = e.__cause__ if type(e).__name__ == "BatchPublishError" and e.__cause__ else e
        raise BrokerUnreachableError(f"the broker failed while {doing} ({cause}): it is tried again") from e


class Trouble:
    """Says once that something is awaited, and once that it is over."""

    def __init__(self, logger: logging.Logger, begins: str, ends: str) -> None:
        self._logger, self._begins, self._ends = logger, begins, ends
        self._reported = False

    def met(self, error: Exception) -> None:
        """Report the first of several errors in a row."""
        if not self._reported:
            self._logger.warning(self._begins, error)
        self._reported = True

    def over(self) -> None:
        """Report the end of what was reported."""
        if self._reported:
            self._logger.warning(self._ends)
        self._reported = False
