"""Records as JSON bytes, and back: a reader refuses a version that it does not know."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mrcelery.errors import CorruptDataError, VersionError
from mrcelery.records import VERSION, Record

R = TypeVar("R", bound=Record)


def encode(record: msgspec.Struct) -> bytes:
    """A record as JSON bytes."""
    return msgspec.json.encode(record)


def decode(data: bytes, kind: type[R], where: str = "") -> R:
    """Read a record back.

    Raises :class:`VersionError` where another version wrote it, :class:`CorruptDataError` where the
    bytes are no such record; ``where`` names the object in the message.
    """
    at = f" at {where}" if where else ""
    try:
        version = msgspec.json.decode(data, type=_Version).v
        if version != VERSION:
            raise VersionError(
                f"{kind.__name__} record{at} has version {version}, this mrcelery reads version {VERSION}: "
                "run the same mrcelery version on the client and on all workers"
            )
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as e:
        raise damaged(f"the {kind.__name__} record{at} is damaged ({e}): submit the job again") from None


def damaged(message: str) -> CorruptDataError:
    """The error for a record that reads wrong; another attempt would read the same."""
    error = CorruptDataError(message)
    error.retryable = False
    return error


class _Version(msgspec.Struct):
    v: int
