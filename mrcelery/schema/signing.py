"""Records sealed by a shared secret: HMAC-SHA256 over their exact bytes and their kind.

A request and a spec are stored in an envelope (:func:`seal`). Records that a job's workers write for each other are
signed with the job's key, derived from the secret, and bound to their location (:class:`JobSeal`).
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import msgspec

from mrcelery.errors import ConfigError, UnsignedError
from mrcelery.schema.decoders import decoder
from mrcelery.schema.encoding import damaged, decode, encode
from mrcelery.schema.structs import Envelope, Record

R = TypeVar("R", bound=Record)


def sign(data: bytes, key: str | bytes) -> str:
    """Return the HMAC-SHA256 of ``data`` as 64 hex digits. Raises :class:`ConfigError` for an empty key."""
    if not key:
        raise ConfigError("the signing key is empty: set MRCELERY_SIGNING_KEY to a secret, or unset it")
    return hmac.new(key.encode() if isinstance(key, str) else key, data, hashlib.sha256).hexdigest()


def _domain(kind: type[Record], body: bytes) -> bytes:
    # The kind is signed, too, so that a signed record of one kind never passes for another.
    return kind.__name__.encode() + b"\0" + body


def seal(record: Record, key: str | bytes | None) -> bytes:
    """Wrap the record in an :class:`Envelope`, as JSON; signed unless ``key`` is None."""
    body = encode(record)
    signature = "" if key is None else sign(_domain(type(record), body), key)
    return encode(Envelope(body=msgspec.Raw(body), signature=signature))


def unseal(data: bytes, kind: type[R], key: str | bytes | None, where: str) -> R:
    """Unwrap the record of an envelope; ``where`` names the object in messages.

    With a ``key`` a missing or wrong signature raises :class:`UnsignedError`, before any of the body is read; without
    one signatures are ignored. Raises :class:`CorruptDataError` and :class:`mrcelery.errors.VersionError` like
    :func:`mrcelery.schema.encoding.decode`.
    """
    try:
        envelope = decoder(Envelope)(data)
    except msgspec.MsgspecError as e:
        raise damaged(f"the envelope at {where} is damaged ({e}): submit the job again") from None
    body = bytes(envelope.body)
    if key is not None:
        if not envelope.signature:
            raise UnsignedError(
                f"{where} is not signed, and this worker requires it (MRCELERY_SIGNING_KEY): give the client and all "
                "workers the same key"
            )
        if not hmac.compare_digest(envelope.signature.encode(), sign(_domain(kind, body), key).encode()):
            raise UnsignedError(
                f"the signature of {where} does not match: it was altered, or the client's MRCELERY_SIGNING_KEY "
                "is not the worker's"
            )
    return decode(body, kind, where)


def is_signed(envelope: bytes) -> bool:
    """Check whether an envelope contains a signature, right or wrong; False if it is damaged."""
    try:
        return bool(decoder(Envelope)(envelope).signature)
    except msgspec.MsgspecError:
        return False


_HEAD, _TAIL = b',"sig":"', b'"}'
_DIGITS = 22
"""Base64 digits of the first 128 bits of an HMAC-SHA256."""
_LENGTH = len(_HEAD) + _DIGITS + len(_TAIL)


@lru_cache(maxsize=256)
def _job_key(secret: str | bytes, job: str) -> bytes:
    # No kind of record has this name: signatures of requests and specs never reveal a job's key.
    return bytes.fromhex(sign(b"key of job\0" + job.encode(), secret))


class JobSeal:
    """Signs the records that one job's workers write for each other, and checks those they read, if there is a secret.

    A signature covers the record's bytes, its kind, and its location, which is its key in storage, even for a record in
    the job store: so it is valid for one job, step, task, page or generation only. It is the last member, ``sig``, of
    the record's JSON, which readers without the secret ignore.
    """

    __slots__ = ("_key", "job")

    def __init__(self, job: str, secret: str | bytes | None = None) -> None:
        self.job = job
        self._key = None if secret is None else _job_key(secret, job)

    @property
    def signs(self) -> bool:
        """Return whether there is a secret."""
        return self._key is not None

    def encode(self, record: Record, where: str) -> bytes:
        """Encode a record as JSON, signed for the key ``where``."""
        return self.sealed(encode(record), type(record), where)

    def sealed(self, body: bytes, kind: type[Record], where: str, mark: str = "") -> bytes:
        """Sign an encoded record of a ``kind`` for the key ``where``; ``mark`` is additional signed information."""
        if self._key is None:
            return body
        return b"".join((body[:-1], _HEAD, _signature(self._key, (kind.__name__, where, mark), body), _TAIL))

    def decode(self, data: bytes, kind: type[R], where: str, marks: Sequence[str] = ("",)) -> R:
        """Check and decode the record at ``where``, which was signed with one of ``marks``.

        With a secret a missing or wrong signature raises :class:`UnsignedError`, before any of the record is read.
        Raises :class:`CorruptDataError` and :class:`mrcelery.errors.VersionError` like
        :func:`mrcelery.schema.encoding.decode`.
        """
        if self._key is not None:
            if not carries_signature(data):
                raise UnsignedError(
                    f"{where} is not signed, and this worker requires it (MRCELERY_SIGNING_KEY): it was altered, or "
                    "written without that secret; give it to all workers, and submit the job again"
                )
            body, found = data[:-_LENGTH] + b"}", data[-_LENGTH + len(_HEAD) : -len(_TAIL)]
            if not any(
                hmac.compare_digest(found, _signature(self._key, (kind.__name__, where, mark), body)) for mark in marks
            ):
                raise UnsignedError(
                    f"the signature of {where} does not match: it was altered or moved there, or a worker has another "
                    "MRCELERY_SIGNING_KEY; see who can write to the storage and the broker, and submit the job again"
                )
        return decode(data, kind, where)


def carries_signature(data: bytes) -> bool:
    """Check whether an encoded record contains a job's signature, right or wrong."""
    return data.endswith(_TAIL) and data[-_LENGTH : -_LENGTH + len(_HEAD)] == _HEAD


def _signature(key: bytes, domain: tuple[str, str, str], body: bytes) -> bytes:
    digest = hmac.digest(key, "\0".join((*domain, "")).encode() + body, "sha256")
    return urlsafe_b64encode(digest[:16])[:_DIGITS]
