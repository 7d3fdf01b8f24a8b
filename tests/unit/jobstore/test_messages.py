"""The message that starts a job, read by kombu as a worker reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kombu.transport.virtual import Channel, Message

from mrcelery.jobstore.messages import start_message


def received(data: bytes) -> Message:
    channel = object.__new__(Channel)  # only its decoding of bodies is of use here
    return Message(json.loads(data), channel=channel)


@pytest.mark.parametrize(("generation", "more"), [(0, {}), (2, {"generation": 2})])
def test_a_worker_finds_the_task_and_its_arguments(generation: int, more: dict[str, Any]) -> None:
    message = received(start_message("job-1", "queue", generation))
    args, kwargs, embedded = message.payload
    assert (args, kwargs) == ([], {"job": "job-1", **more})
    assert set(embedded.values()) == {None}
    assert (message.headers["task"], message.headers["root_id"]) == ("mrcelery.start", "job-1")
    assert message.headers["id"] == message.properties["correlation_id"]
    assert message.delivery_info["routing_key"] == "queue"


def test_two_messages_are_told_apart_by_their_tags() -> None:
    first, second = (received(start_message("job-1", "queue")) for _ in range(2))
    assert first.delivery_tag != second.delivery_tag
    assert first.headers["id"] == second.headers["id"]
