"""Records as JSON bytes, and back: a reader rejects an unknown version."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mrcelery.errors import CorruptDataError, UsageError, VersionError, safe_repr
from mrcelery.schema.decoders import decoder
from mrcelery.schema.structs import VERSION, Record

R = TypeVar("R", bound=Record)


def encode(record: msgspec.Struct) -> bytes:
    """Encode a record as JSON bytes. Raises :class:`UsageError` for a string in it that is not UTF-8."""
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError as e:
        # Escaping would change a file name or an argument; strings that are only displayed are escaped before.
        text = safe_repr(e.object, 300)
        raise UsageError(f"{text} is not UTF-8: rename the file, or give the argument or setting in UTF-8") from None


def decode(data: bytes, kind: type[R], where: str = "") -> R:
    """Decode a record of class ``kind``; ``where`` names the object in messages.

    Raises :class:`VersionError` if another version wrote it, :class:`CorruptDataError` if the bytes are not such a
    record.
    """
    at = f" at {where}" if where else ""
    try:
        version = decoder(_Version)(data).v
        if version != VERSION:
            raise VersionError(
                f"{kind.__name__} record{at} has version {version}, this mrcelery reads version {VERSION}: "
                "run the same mrcelery version on the client and on all workers"
            )
        return decoder(kind)(data)
    except msgspec.MsgspecError as e:
        raise damaged(f"the {kind.__name__} record{at} is damaged ({e}): submit the job again") from None


def damaged(message: str) -> CorruptDataError:
    """Make the error for a record that does not decode; not retryable, as another attempt would read the same."""
    error = CorruptDataError(message)
    error.retryable = False
    return error


class _Version(msgspec.Struct):
    v: int
