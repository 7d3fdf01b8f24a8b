"""The information about a file in a web server's reply: which version and which bytes of it, or its new address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from mrcelery.errors import StorageRefusedError, mask
from mrcelery.storage.base import Version

_MOVED = frozenset({301, 302, 303, 307, 308})
_RANGE = re.compile(r"\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*", re.IGNORECASE)
_PAST = re.compile(r"\s*bytes\s+\*/(\d+)\s*", re.IGNORECASE)


class Reply(NamedTuple):
    """The byte range stated by a reply with a body."""

    start: int
    """The first byte of the file in the body."""
    end: int
    """The byte after the body's last one; -1: not stated."""
    size: int
    """Bytes of the whole file; -1: not stated."""


def tag_of(headers: Mapping[str, str]) -> str:
    """Return a tag of the file's version: a strong ETag, else the date of its last change, else a weak ETag."""
    etag = _etag(headers)
    return etag if etag.startswith('"') else headers.get("Last-Modified", "").strip() or etag


def tag_like(tag: str, headers: Mapping[str, str]) -> str:
    """Return a reply's tag in the form comparable with ``tag``, an earlier reply's; "" if it has none."""
    if not tag:
        return tag_of(headers)
    if not tag.startswith(('"', "W/")):
        return headers.get("Last-Modified", "").strip()
    etag = _etag(headers)
    # Proxies that compress replies weaken strong ETags.
    return tag if etag.removeprefix("W/") == tag.removeprefix("W/") else etag


def _etag(headers: Mapping[str, str]) -> str:
    etag = headers.get("ETag", "").strip()
    return f'"{etag}"' if etag and '"' not in etag else etag


def conditions(version: Version) -> dict[str, str]:
    """Return the headers that make a server refuse another version of a file with 412, rather than send it."""
    if version.tag.startswith('"'):
        return {"If-Match": version.tag}
    return {} if not version.tag or version.tag.startswith("W/") else {"If-Unmodified-Since": version.tag}


def examine(url: str, status: int, headers: Mapping[str, str], at: int, version: Version) -> Reply:
    """Check that a reply (200 or 206) to a request from byte ``at`` on has the right version and range.

    Raises :class:`mrcelery.errors.CorruptDataError` for another version, and :class:`StorageRefusedError` for a reply
    that does not state its bytes, or has other bytes.
    """
    reply = whole_of(headers) if status == 200 else _part_of(url, headers, at)
    tag = tag_like(version.tag, headers)
    if not version.met(tag, reply.size):
        raise version.replaced(url, at, tag=tag, size=reply.size)
    return reply


def whole_of(headers: Mapping[str, str]) -> Reply:
    """Return the range stated by a reply with the whole file (200)."""
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdigit() and not headers.get("Transfer-Encoding") else -1
    return Reply(0, size, size)


def part_of(headers: Mapping[str, str]) -> Reply | None:
    """Return the range stated by a reply with a part of the file (206); None if that is not a plain byte range."""
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or headers.get("Content-Type", "").strip().lower().startswith("multipart/byteranges"):
        return None
    return Reply(int(found[1]), int(found[2]) + 1, -1 if found[3] == "*" else int(found[3]))


def size_past(headers: Mapping[str, str]) -> int:
    """Return the file's size from a reply that a range is past its end (416); -1 if it is not stated."""
    found = _PAST.fullmatch(headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _part_of(url: str, headers: Mapping[str, str], at: int) -> Reply:
    reply = part_of(headers)
    if reply is not None and reply.start == at and reply.end > at:
        return reply
    kind = headers.get("Content-Type", "") if reply is None else ""
    sent = headers.get("Content-Range", "") or (kind if "multipart" in kind else "no Content-Range")
    raise StorageRefusedError(
        f"{url}: the server was asked for bytes from {at} on, and sends others ({sent}): copy the file to storage first"
    )


def moved_to(url: str, status: int, headers: Mapping[str, str]) -> str:
    """Return the address to which a reply redirects, "" if it is not a redirect.

    Raises :class:`StorageRefusedError` for one that leads out of the web, or from https to http.
    """
    location = headers.get("Location", "").strip()
    if status not in _MOVED or not location:
        return ""
    target = urljoin(url, location).partition("#")[0]
    scheme = urlsplit(target).scheme.lower()
    if scheme not in ("http", "https") or not urlsplit(target).hostname:
        raise StorageRefusedError(
            f"{url} is redirected to {mask(target, whole=True)}, which is not an http(s) address: give the file's own"
        )
    if scheme == "http" and url.lower().startswith("https:"):
        raise StorageRefusedError(
            f"{url} is redirected to {mask(target, whole=True)}, which is not encrypted: give that address if it may be"
        )
    return target
