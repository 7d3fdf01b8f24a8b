"""Glob patterns over storage keys."""

from __future__ import annotations

import re

_MAGIC = re.compile(r"[*?\[]")


def has_magic(path: str) -> bool:
    """Check whether a path contains ``*``, ``?`` or ``[``."""
    return _MAGIC.search(path) is not None


def hidden(name: str) -> bool:
    """Check whether a walk skips a file or folder, like Hadoop: ``_SUCCESS``, ``.part.crc``."""
    return name.startswith(("_", "."))


class Glob:
    """``*``, ``?`` and ``[...]`` within a name, ``**`` for any number of folders.

    Brackets are the shell's: ``[!...]`` and ``[^...]`` negate, ``[[:digit:]]`` and the like name a class (of ASCII). A
    pattern that matches a folder means all files below it. Hidden names match only if the pattern spells their first
    character.
    """

    def __init__(self, pattern: str) -> None:
        self.prefix = _MAGIC.split(pattern, maxsplit=1)[0]
        """The common prefix of all matches: where to list from."""
        self._folder = self.prefix.rpartition("/")[0]
        names = pattern[len(self._folder) :].strip("/").split("/")
        self._names = [None if name == "**" else _Name(name) for name in names]

    def match(self, key: str) -> bool:
        """Check whether the pattern matches the object with this key, which begins with ``prefix``."""
        return self._match(self._below(key), self._names, partly=False)

    def enter(self, folder: str) -> bool:
        """Check whether the folder may contain objects that match."""
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
        self._full = re.compile(_regex(pattern), re.DOTALL).fullmatch

    def match(self, name: str) -> bool:
        return self._full(name) is not None and (self._spelled or not hidden(name))


# After "[": a negation, then items up to "]", which is itself an item if it is the first one.
_ITEM = r"(?:\[:[a-z]+:\]|(?!\[:[a-z]+:\])[^\]])"
_SET = re.compile(rf"([!^]?+)(\]{_ITEM}*|{_ITEM}+)\]")
_CLASS = re.compile(r"\[:([a-z]+):\]")
_PUNCTUATION = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_CLASSES = {
    "alnum": "A-Za-z0-9",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": _PUNCTUATION,
    "space": " \\t-\\r",
    "upper": "A-Z",
    "word": "A-Za-z0-9_",
    "xdigit": "0-9A-Fa-f",
}


def _regex(pattern: str) -> str:
    """Translate the pattern of one name. A star does not backtrack, so that no name takes long to reject."""
    pieces = [""]
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            pieces.append("")
        elif char == "?":
            pieces[-1] += "."
        elif char == "[" and (found := _SET.match(pattern, at)):
            pieces[-1] += _set(found[2], negated=bool(found[1]))
            at = found.end()
        else:
            pieces[-1] += re.escape(char)
    first, *rest = pieces
    if not rest:
        return first
    return first + "".join(f"(?>.*?{piece})" for piece in rest[:-1] if piece) + f".*{rest[-1]}"


def _set(items: str, *, negated: bool) -> str:
    found = ""
    at = 0
    while at < len(items):
        if named := _CLASS.match(items, at):
            found += _CLASSES.get(named[1], "")
            at = named.end()
        elif items[at + 1 : at + 2] == "-" and at + 2 < len(items):
            begin, end = items[at], items[at + 2]
            found += f"{re.escape(begin)}-{re.escape(end)}" if begin <= end else ""
            at += 3
        else:
            found += re.escape(items[at])
            at += 1
    if not found:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{found}]"
