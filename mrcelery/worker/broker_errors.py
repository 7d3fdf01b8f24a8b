"""One classification of what can go wrong between a worker and its broker, as kombu, redis-py and Celery report it.

Whatever the broker does, the rest of mrcelery sees :class:`mrcelery.errors.BrokerUnreachableError`, which the
connections of :mod:`mrcelery.jobstore.connection` raise themselves. A caller's mistake, such as a value that cannot be
sent, is not among these errors.
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
    redis_errors.InvalidResponse,  # the server does not speak Redis's protocol
    redis_errors.PubSubError,
    redis_errors.WatchError,
    redis_errors.LockError,
)
"""Redis answers but refuses. DataError is not included: it means that redis-py cannot send a value of ours."""

BROKER_ERRORS: tuple[type[Exception], ...] = (
    BrokerUnreachableError,
    *REFUSALS,
    redis_errors.ConnectionError,  # LOADING, NOAUTH, WRONGPASS and "max number of clients" among them
    redis_errors.TimeoutError,
    kombu_errors.OperationalError,
    kombu_errors.LimitExceeded,
    kombu_errors.ConnectionError,  # and kombu's InconsistencyError
    kombu_errors.ChannelError,
    kombu_errors.BatchPublishError,  # a connection broke during a batch: how much of the batch arrived is unknown
    BackendError,
)
"""Raised by kombu, redis-py and Celery's result backend if the broker does not answer or refuses; and our own error."""

_IN_PUBLISHING: tuple[type[Exception], ...] = (*BROKER_ERRORS, OSError)

DELIVERY_ERRORS: tuple[type[Exception], ...] = (*BROKER_ERRORS, OSError, MemoryError)
"""Errors that end the delivery of a message through no fault of the message."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise :class:`BrokerUnreachableError` for any broker error during ``doing``, which the message names."""
    try:
        yield
    except _IN_PUBLISHING as e:
        cause = e.__cause__ if isinstance(e, kombu_errors.BatchPublishError) and e.__cause__ else e
        raise BrokerUnreachableError(f"the broker failed while {doing} ({cause}): it will be retried") from e


class Trouble:
    """Logs the start of a period of trouble once, and its end once."""

    def __init__(self, logger: logging.Logger, begins: str, ends: str) -> None:
        self._logger, self._begins, self._ends = logger, begins, ends
        self._reported = False

    def met(self, error: Exception) -> None:
        """Report the first of several errors in a row."""
        if not self._reported:
            self._logger.warning(self._begins, error)
        self._reported = True

    def over(self) -> None:
        """Report the end of the trouble, if its start was reported."""
        if self._reported:
            self._logger.warning(self._ends)
        self._reported = False
