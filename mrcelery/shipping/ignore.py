"""Files in a folder that are not shipped: those named in ``.mrceleryignore``, and those that look like secrets.

A ``.mrceleryignore`` has gitignore's syntax: ``*``, ``?``, ``[...]``, ``**``, ``/`` at the beginning for the folder of
the file itself, ``/`` at the end for folders only, ``!`` to include a path again, ``#`` for comments; the last pattern
that matches decides. It applies to its folder and those below; the files of the folders above apply, too, up to the
repository's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mrcelery.errors import UsageError

IGNORE = ".mrceleryignore"

_SECRET = re.compile(
    r".*\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ppk|env)|id_[^.]*|\.env(?:\..*)?|(?:.*[._-])?credentials?(?:[._-].*)?"
    r"|credentials.*|\.(?:netrc|pgpass|npmrc|pypirc|htpasswd|git-credentials)|secrets?\.[^.]+"
    r"|(?:client_?secret|service[_-]?account).*\.json",
    re.IGNORECASE,
)
_HEAD = 64 << 10
"""Bytes of a .pem file that are read."""


class _Pattern(NamedTuple):
    regex: re.Pattern[str]
    negated: bool
    folders_only: bool


class Ignored:
    """The patterns that apply in a folder; :meth:`below` returns those of a subfolder."""

    def __init__(self, folder: Path, above: tuple[tuple[Path, _Pattern], ...] = ()) -> None:
        self._patterns = (*above, *((folder, pattern) for pattern in _read(folder / IGNORE)))

    @classmethod
    def of(cls, folder: Path) -> Ignored:
        """Read the patterns that apply to a folder, including those of the folders above it."""
        folder = folder.absolute()
        chain = [folder]
        for at in folder.parents:
            if (chain[-1] / ".git").exists():
                break
            chain.append(at)
        found = cls(chain[-1])
        for at in reversed(chain[:-1]):
            found = found.below(at)
        return found

    def below(self, folder: Path) -> Ignored:
        """Return the patterns of a subfolder, including these."""
        return Ignored(folder.absolute(), self._patterns)

    def decides(self, path: Path, *, folder: bool = False) -> bool | None:
        """Return whether a path is left out; False if a ``!`` pattern includes it, None if no pattern matches it."""
        path = path.absolute()
        for base, pattern in reversed(self._patterns):
            if (folder or not pattern.folders_only) and pattern.regex.fullmatch(path.relative_to(base).as_posix()):
                return not pattern.negated
        return None


def looks_secret(path: Path) -> bool:
    """Check whether the name of a file, or of the file it links to, suggests a key or a list of passwords.

    Python code and certificates without a private key do not count.
    """
    names = {path.name, path.resolve().name}
    if not any(map(_SECRET.fullmatch, names)) or path.suffix in (".py", ".pyi", ".pub"):
        return False
    if path.suffix.lower() != ".pem":
        return True
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return b"PRIVATE KEY" in head or b"BEGIN CERTIFICATE" not in head


def check_secret(path: Path, ignored: Ignored) -> None:
    """Raise :class:`UsageError` for a shipped folder's file that looks like a secret, unless a ``!`` includes it."""
    if looks_secret(path) and ignored.decides(path) is None:
        raise UsageError(
            f"{path} looks like a secret, and would be shipped with its folder to where others can read it: exclude "
            f"it with a line {path.name} in {IGNORE} there, or include it with a line !{path.name}"
        )


def _read(path: Path) -> Iterator[_Pattern]:
    try:
        text = path.read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    for line in text.splitlines():
        pattern = re.sub(r"(?<!\\)\s+$", "", line)
        if not pattern or pattern.startswith("#"):
            continue
        negated = pattern.startswith("!")
        pattern = pattern[1:] if negated else pattern
        folders_only = pattern.endswith("/")
        pattern = pattern.rstrip("/") if folders_only else pattern
        if pattern:
            yield _Pattern(_regex(pattern), negated, folders_only)


def _regex(pattern: str) -> re.Pattern[str]:
    anchored = "/" in pattern
    names = pattern.removeprefix("/").split("/")
    text = "" if anchored else "(?:.*/)?"
    for number, name in enumerate(names):
        last = number == len(names) - 1
        if name == "**":
            text += ".+" if last else "(?:.*/)?"
        else:
            text += _name(name) + ("" if last else "/")
    return re.compile(text, re.DOTALL)


def _name(name: str) -> str:
    out, at = "", 0
    while at < len(name):
        letter = name[at]
        at += 1
        if letter == "*":
            out += "[^/]*"
        elif letter == "?":
            out += "[^/]"
        elif letter == "\\" and at < len(name):
            out += re.escape(name[at])
            at += 1
        elif letter == "[" and (end := name.find("]", at + (2 if name[at : at + 1] in ("!", "^") else 1))) > 0:
            inside = name[at:end]
            negated = inside[0] in "!^"
            inside = (inside[1:] if negated else inside).replace("\\", "\\\\").replace("[", "\\[")
            out += f"[{'^/' if negated else ''}{inside}]"
            at = end + 1
        else:
            out += re.escape(letter)
    return out
