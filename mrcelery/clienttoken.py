"""What a client token stands for: the same token gives the same job, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mrcelery.errors import UsageError

if TYPE_CHECKING:
    from mrcelery.records import Request


def digests(aspects: Mapping[str, object]) -> dict[str, str]:
    """A digest of each aspect of what is asked for, by how an error calls one that differs."""
    import msgspec

    return {
        aspect: hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
        for aspect, value in aspects.items()
    }


def check_given(token: str, request: Request, given: Mapping[str, str]) -> None:
    """Refuse, by a :class:`UsageError`, a token that stands for a request of something else."""
    # Of another version's request nothing may be told.
    differ = [aspect for aspect, digest in request.given.items() if given.get(aspect, digest) != digest]
    if differ:
        raise UsageError(
            f"the client token {token!r} stands for job {request.job}, which was submitted with {_listed(differ)}: "
            "give another token for another job, or the same arguments"
        )


def _listed(aspects: Sequence[str]) -> str:
    *first, last = aspects
    return f"{', '.join(first)} and {last}" if first else last
