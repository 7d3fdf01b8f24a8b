"""Glob patterns over storage keys."""

from __future__ import annotations

import fnmatch
import re

_MAGIC = re.compile(r"[*?\[]")


def has_magic(path: str) -> bool:
    """Whether a path holds ``*``, ``?`` or ``[``."""
    return _MAGIC.search(path) is not None


def hidden(name: str) -> bool:
    """Whether a file or folder is passed over in a walk, as Hadoop does: ``_SUCCESS``, ``.part.crc``."""
    return name.startswith(("_", "."))


class Glob:
    """``*``, ``?`` and ``[...]`` within a name, ``**`` for any number of folders.

    A pattern that matches a folder stands for all files below it. Hidden names match only if the
    pattern spells their first character.
    """

    def __init__(self, pattern: str) -> None:
        self.prefix = _MAGIC.split(pattern, maxsplit=1)[0]
        """What each match begins with: where to list from."""
        self._folder = self.prefix.rpartition("/")[0]
        names = pattern[len(self._folder) :].strip("/").split("/")
        self._names = [None if name == "**" else _Name(name) for name in names]

    def match(self, key: str) -> bool:
        """Whether the pattern takes the object with this key, one that begins with ``prefix``."""
        return self._match(self._below(key), self._names, partly=False)

    def enter(self, folder: str) -> bool:
        """Whether objects that match may lie in the folder."""
        return self._match(self._below(folder), self._names, partly=True)

    def _below(self, key: str) -> list[str]:
        return key[len(self._folder) :].lstrip("/").split("/")

    def _match(self, parts: list[str], names: list[_Name | None], partly: bool) -> bool:
        if not names:
            return not any(map(hidden, parts))
        if not parts:
            return partly
        if names[0] is None:
            return self._match(parts, names[1:], partly) or (
                not hidden(parts[0]) and self._match(parts[1:], names, partly)
            )
        return names[0].match(parts[0]) and self._match(parts[1:], names[1:], partly)


class _Name:
    def __init__(self, pattern: str) -> None:
        self._spelled = hidden(pattern)
        self._full = re.compile(fnmatch.translate(pattern)).match

    def match(self, name: str) -> bool:
        return self._full(name) is not None and (self._spelled or not hidden(name))
