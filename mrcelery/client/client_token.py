"""Client tokens: the same token returns the same job, and is refused for any other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mrcelery.errors import UsageError

if TYPE_CHECKING:
    from mrcelery.schema.structs import Request


def digests(aspects: Mapping[str, object]) -> dict[str, str]:
    """Digest each aspect of a submission; the keys name an aspect as an error does that finds it different."""
    import msgspec  # noqa: PLC0415 - job files import this package

    return {
        aspect: hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
        for aspect, value in aspects.items()
    }


def check_given(token: str, request: Request, given: Mapping[str, str]) -> None:
    """Raise :class:`UsageError` if the token's job was submitted with something other than ``given``."""
    # A request of another version may lack an aspect: that aspect cannot differ.
    differ = [aspect for aspect, digest in request.given.items() if given.get(aspect, digest) != digest]
    if differ:
        raise UsageError(
            f"the client token {token!r} belongs to job {request.job}, which was submitted with {_listed(differ)}: "
            "give another token for another job, or the same arguments"
        )


def _listed(aspects: Sequence[str]) -> str:
    *first, last = aspects
    return f"{', '.join(first)} and {last}" if first else last
