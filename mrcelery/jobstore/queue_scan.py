"""Queued and leased messages, of one job or of all: the server scans them, in pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

from kombu.transport.redis import PRIORITY_STEPS, Channel

from mrcelery.jobstore.redis import RedisJobStore

SEPARATOR = Channel.sep
"""Separates a queue's name from a priority: kombu has a list for each."""

PIECE = 500
"""Messages that the server scans at once; all its other clients wait for that long."""

_QUEUED = """
local messages = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local found = {#messages}
for _, message in ipairs(messages) do
    local at = string.find(message, ARGV[3], 1, true)
    if at then found[#found + 1] = string.match(message, '[^"]+', at + 7) end
end
return found
"""

_LEASED = """
local answer = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local found = {answer[1]}
for at = 2, #answer[2], 2 do
    local id = string.find(answer[2][at], ARGV[3], 1, true)
    if id then found[#found + 1] = string.match(answer[2][at], '[^"]+', id + 7) end
end
return found
"""

# A leased message is stored as [message, exchange, routing key], and the routing key is its queue. Only its end is
# searched, because the server would try the pattern at each quotation mark of the message.
_LEASED_OF = """
local answer = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local counts = {}
for at = 2, #answer[2], 2 do
    local queue = string.match(string.sub(answer[2][at], -256), '"([^"]*)"%]$') or ''
    counts[queue] = (counts[queue] or 0) + 1
end
local found = {answer[1]}
for queue, count in pairs(counts) do
    found[#found + 1] = queue
    found[#found + 1] = count
end
return found
"""


def in_flight(store: RedisJobStore, job: str, queue: str) -> set[str]:
    """Return the ids of the job's queued or leased messages, without the job's own id at their start."""
    found: set[bytes] = set()
    answer: Any
    for key in (queue, *(f"{queue}{SEPARATOR}{step}" for step in PRIORITY_STEPS if step)):
        start = 0
        while True:
            (answer,) = store.call(("EVAL", _QUEUED, 1, key, start, start + PIECE - 1, _needle(job)))
            found.update(answer[1:])
            start += PIECE
            if answer[0] < PIECE:
                break
    return _shortened(job, found) | leased(store, job)


def leased(store: RedisJobStore, job: str) -> set[str]:
    """Return the ids, in that form, of the messages that workers hold, or held when they vanished."""
    found: set[bytes] = set()
    answer: Any
    cursor = b"0"
    while True:
        (answer,) = store.call(("EVAL", _LEASED, 1, "unacked", cursor, PIECE, _needle(job)))
        found.update(answer[1:])
        cursor = answer[0]
        if cursor == b"0":
            return _shortened(job, found)


def leased_by_queue(store: RedisJobStore) -> Counter[str]:
    """Count the messages that workers hold, or held when they vanished, by queue; of all apps at the broker.

    The work grows with the number of messages that workers can hold, not with the number of queued ones.
    """
    found: Counter[str] = Counter()
    answer: Any
    cursor = b"0"
    while True:
        (answer,) = store.call(("EVAL", _LEASED_OF, 1, "unacked", cursor, PIECE))
        cursor, *counts = answer
        for queue, count in zip(counts[::2], counts[1::2], strict=True):
            found[queue.decode()] += count
        if cursor == b"0":
            return found


def has_attempts(ids: Collection[str]) -> bool:
    """Check whether any of these ids is a map or reduce task's."""
    return any(".map." in identity or ".reduce." in identity for identity in ids)


def _needle(job: str) -> str:
    return f'"id": "{job}.'


def _shortened(job: str, ids: Collection[bytes]) -> set[str]:
    return {identity.decode()[len(job) + 1 :] for identity in ids}
