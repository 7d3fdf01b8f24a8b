"""mrjob's protocols: how a job that asks for one reads and writes its lines.

A protocol has ``read(line: bytes) -> (key, value)`` and ``write(key, value) -> bytes``, both without
the newline. A job that sets none keeps Python's types and meets no protocol at all.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from mrcelery.errors import UsageError

pickle_allowed: ContextVar[bool] = ContextVar("pickle_allowed", default=False)
"""Whether the pickle protocols may run in this context; a new thread starts at False."""


@contextmanager
def allow_pickle(allowed: bool = True) -> Iterator[None]:
    """Let the pickle protocols run, or not, inside the block."""
    token = pickle_allowed.set(allowed)
    try:
        yield
    finally:
        pickle_allowed.reset(token)


class LineProtocol(Protocol):
    """What a protocol must offer; a job may bring its own."""

    def read(self, line: bytes, /) -> tuple[Any, Any]:
        """Decode a line, without its newline, to a key and a value."""
        ...

    def write(self, key: Any, value: Any, /) -> bytes:
        """Encode a key and a value as a line, without its newline."""
        ...


class _PairProtocol:
    """Key, tab, value, each encoded by itself. The last key read is kept, as sorted lines repeat it."""

    _raw_key: bytes | None = None
    _key: Any = None

    def _loads(self, data: bytes) -> Any:
        raise NotImplementedError

    def _dumps(self, value: Any) -> bytes:
        raise NotImplementedError

    def read(self, line: bytes) -> tuple[Any, Any]:
        """Decode a line. Raises ``ValueError`` if it has no tab."""
        raw_key, raw_value = line.split(b"\t", 1)
        if raw_key != self._raw_key:
            self._key = self._loads(raw_key)
            self._raw_key = raw_key
        return self._key, self._loads(raw_value)

    def write(self, key: Any, value: Any) -> bytes:
        return self._dumps(key) + b"\t" + self._dumps(value)


class _ValueProtocol:
    """The value alone; keys are dropped when written and None when read."""

    def _loads(self, data: bytes) -> Any:
        raise NotImplementedError

    def _dumps(self, value: Any) -> bytes:
        raise NotImplementedError

    def read(self, line: bytes) -> tuple[None, Any]:
        return None, self._loads(line)

    def write(self, key: Any, value: Any) -> bytes:
        return self._dumps(value)


class _JSON:
    def _loads(self, data: bytes) -> Any:
        return json.loads(data.decode())

    def _dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()


class StandardJSONProtocol(_JSON, _PairProtocol):
    """Key and value as JSON, byte for byte as ``json.dumps`` writes it: tuples are read as lists."""


class StandardJSONValueProtocol(_JSON, _ValueProtocol):
    """The value as JSON."""


JSONProtocol = StandardJSONProtocol
JSONValueProtocol = StandardJSONValueProtocol


class _Repr:
    def _loads(self, data: bytes) -> Any:
        return ast.literal_eval(data.decode())

    def _dumps(self, value: Any) -> bytes:
        return repr(value).encode()


class ReprProtocol(_Repr, _PairProtocol):
    """Key and value as Python literals.

    Read by ``ast.literal_eval``, where mrjob calls ``eval``: literals only, and no line runs code.
    """


class ReprValueProtocol(_Repr, _ValueProtocol):
    """The value as a Python literal; see :class:`ReprProtocol`."""


class _Pickle:
    # Imported where used: a job that never pickles does not pay for it.
    def _loads(self, data: bytes) -> Any:
        import pickle  # noqa: PLC0415 - few jobs pickle

        self._check()
        return pickle.loads(data.decode("unicode_escape").encode("latin-1"))

    def _dumps(self, value: Any) -> bytes:
        import pickle  # noqa: PLC0415 - few jobs pickle

        self._check()
        return pickle.dumps(value).decode("latin-1").encode("unicode_escape")

    def _check(self) -> None:
        if not pickle_allowed.get():
            raise UsageError(
                f"{type(self).__name__} is off, as unpickling runs whatever code the data names: "
                "submit with --allow-pickle if you trust everyone who can write the inputs and the storage"
            )


class PickleProtocol(_Pickle, _PairProtocol):
    """Key and value as escaped pickles. Raises :class:`UsageError` unless the job runs with ``--allow-pickle``."""


class PickleValueProtocol(_Pickle, _ValueProtocol):
    """The value as an escaped pickle; see :class:`PickleProtocol`."""


class BytesProtocol:
    """Key and value as bytes, cut at the first tab; a None is left out, and a line without a tab is a key."""

    def read(self, line: bytes) -> tuple[bytes, bytes | None]:
        """Cut at the first tab; without one, the line is the key and the value None."""
        key, tab, value = line.partition(b"\t")
        return key, value if tab else None

    def write(self, key: bytes | None, value: bytes | None) -> bytes:
        """Join key and value with a tab, leaving out a None with its tab."""
        return b"\t".join(x for x in (key, value) if x is not None)


class BytesValueProtocol:
    """The line as bytes."""

    def read(self, line: bytes) -> tuple[None, bytes]:
        """Return the line unchanged, under the key None."""
        return None, line

    def write(self, key: Any, value: bytes) -> bytes:
        """Return the value unchanged; the key is dropped."""
        return value


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


class TextProtocol:
    """:class:`BytesProtocol` for text: a line is UTF-8, or else Latin-1 as a whole."""

    def read(self, line: bytes) -> tuple[str, str | None]:
        """Decode the line, then cut it at the first tab."""
        key, tab, value = _text(line).partition("\t")
        return key, value if tab else None

    def write(self, key: str | None, value: str | None) -> bytes:
        """Encode as UTF-8 and join with a tab, leaving out a None with its tab."""
        return b"\t".join(x.encode() for x in (key, value) if x is not None)


class TextValueProtocol:
    """The line as text: UTF-8, or else Latin-1."""

    def read(self, line: bytes) -> tuple[None, str]:
        """Decode the line, under the key None."""
        return None, _text(line)

    def write(self, key: Any, value: str) -> bytes:
        """Encode the value as UTF-8; the key is dropped."""
        return value.encode()


RawProtocol = TextProtocol
RawValueProtocol = TextValueProtocol
