"""Addresses that users give: those that name the same thing on every machine, and local paths."""

from __future__ import annotations

from pathlib import Path

_REMOTE = ("s3://", "http://", "https://", "memory://")


def is_remote(uri: str) -> bool:
    """Return whether an address means the same on every machine."""
    return uri.startswith(_REMOTE)


def local(uri: str) -> str:
    """Return a local path or ``file://`` address as an absolute path."""
    path = uri.removeprefix("file://")
    return str(Path(path).expanduser().absolute())
