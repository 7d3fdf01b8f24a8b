"""Records sealed by a shared secret: HMAC-SHA256 over their exact bytes and their kind."""

from __future__ import annotations

import hashlib
import hmac
from typing import TypeVar

import msgspec

from mrcelery.errors import ConfigError, UnsignedError
from mrcelery.schema.encoding import damaged, decode, encode
from mrcelery.schema.structs import Envelope, Record

R = TypeVar("R", bound=Record)


def sign(data: bytes, key: str | bytes) -> str:
    """Return the HMAC-SHA256 of ``data`` as 64 hex digits. Raises :class:`ConfigError` for an empty key."""
    if not key:
        raise ConfigError("the signing key is empty: set MRCELERY_SIGNING_KEY to a secret, or unset it")
    return hmac.new(key.encode() if isinstance(key, str) else key, data, hashlib.sha256).hexdigest()


def _domain(kind: type[Record], body: bytes) -> bytes:
    # The kind is signed too, so that a signed record of one kind never passes for another.
    return kind.__name__.encode() + b"\0" + body


def seal(record: Record, key: str | bytes | None) -> bytes:
    """Wrap the record in an :class:`Envelope`, as JSON; signed unless ``key`` is None."""
    body = encode(record)
    signature = "" if key is None else sign(_domain(type(record), body), key)
    return encode(Envelope(body=msgspec.Raw(body), signature=signature))


def unseal(data: bytes, kind: type[R], key: str | bytes | None, where: str) -> R:
    """Unwrap the record of an envelope; ``where`` names the object in messages.

    With a ``key`` a missing or wrong signature raises :class:`UnsignedError`, before anything of the
    body is read; without one signatures are ignored. Raises :class:`CorruptDataError` and
    :class:`mrcelery.errors.VersionError` as :func:`mrcelery.schema.encoding.decode` does.
    """
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except msgspec.MsgspecError as e:
        raise damaged(f"the envelope at {where} is damaged ({e}): submit the job again") from None
    body = bytes(envelope.body)
    if key is not None:
        if not envelope.signature:
            raise UnsignedError(
                f"{where} is not signed, and this worker requires it (MRCELERY_SIGNING_KEY): submit with the same key"
            )
        if not hmac.compare_digest(envelope.signature.encode(), sign(_domain(kind, body), key).encode()):
            raise UnsignedError(
                f"the signature of {where} does not match: it was altered, or the client's MRCELERY_SIGNING_KEY "
                "is not the worker's"
            )
    return decode(body, kind, where)
