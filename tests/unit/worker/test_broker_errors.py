"""What the broker's libraries raise is one error; a fault of the caller is not."""

from __future__ import annotations

import logging

import pytest
from kombu import exceptions as kombu_errors
from redis import exceptions as redis_errors

from mrcelery.errors import BrokerUnreachableError
from mrcelery.worker.broker_errors import Trouble, translated

BROKER_FAULTS = [
    redis_errors.ReadOnlyError("READONLY"),
    redis_errors.OutOfMemoryError("OOM"),
    redis_errors.ResponseError("MISCONF"),
    redis_errors.BusyLoadingError("LOADING"),
    redis_errors.AuthenticationError("NOAUTH"),
    redis_errors.TimeoutError("timed out"),
    redis_errors.InvalidResponse("HTTP"),
    kombu_errors.OperationalError("gone"),
    kombu_errors.InconsistencyError("cut"),
    kombu_errors.ConnectionLimitExceeded("too many"),
    BrokenPipeError("pipe"),
]


@pytest.mark.parametrize("fault", BROKER_FAULTS, ids=lambda fault: type(fault).__name__)
def test_the_brokers_faults(fault: Exception) -> None:
    with (
        pytest.raises(BrokerUnreachableError, match=f"while it was published \\(.*{fault}"),
        translated("it was published"),
    ):
        raise fault


def test_a_batch_names_its_cause() -> None:
    with pytest.raises(BrokerUnreachableError, match="reset by peer"), translated("it was published"):
        raise kombu_errors.BatchPublishError("uncertain") from ConnectionResetError("reset by peer")


@pytest.mark.parametrize("fault", [redis_errors.DataError("a set"), kombu_errors.EncodeError("a set"), KeyError("x")])
def test_faults_of_the_caller(fault: Exception) -> None:
    with pytest.raises(type(fault)), translated("it was published"):
        raise fault


def test_trouble_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    trouble = Trouble(logging.getLogger("test"), "waits: %s", "is back")
    trouble.over()
    for _ in range(2):
        trouble.met(ValueError("a"))
        trouble.met(ValueError("b"))
        trouble.over()
        trouble.over()
    assert caplog.messages == ["waits: a", "is back"] * 2
