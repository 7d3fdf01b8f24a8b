"""Custom formats: an object of the user's class, on the job or named ``pkg.module:Class``.

The client loads it to learn what the coordinator must know without the user's code: whether files may be cut, and the
extension of part files. Tasks find the object again in the shipped code.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from mrcelery.errors import JobLoadError, UsageError, UserCodeError, safe_repr
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.source import watch
from mrcelery.job.raised import described, passes, user_error
from mrcelery.job.tracebacks import user_traceback
from mrcelery.schema.structs import Extent

BLOCK = 1 << 20
"""Bytes of a block made from the pairs that a format yields."""

MOST_PAIRS = 4096


def load(name: str) -> Any:
    """Import the object or class called ``pkg.module:Name``.

    Raises :class:`JobLoadError`, with the user's traceback if importing it raises.
    """
    module_name, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module_name) or importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise JobLoadError(f"the format {name} does not exist: {module_name} has no {path}") from None
    except BaseException as e:
        if passes(e):
            raise
        text = f"the format {name} does not import: {described(e)}"
        raise JobLoadError(text, "" if isinstance(e, ModuleNotFoundError) else user_traceback(e)) from e
    return found


def made(given: Any, name: str, method: str) -> Any:
    """Make a fresh format from a class or an object: state left by one file must not affect the next.

    Raises :class:`UsageError` if it lacks the method ``method``.
    """
    if not callable(getattr(given, method, None)):
        raise UsageError(
            f"{name} is not a format, as it has no method {method}: give a format's name, or an object "
            "of a class with it"
        )
    try:
        return given() if isinstance(given, type) else copy.deepcopy(given)
    except BaseException as e:
        if passes(e):
            raise
        raise user_error(e) from e


class OwnInput:
    """A user's reader: ``splittable`` (False if missing) and ``read(extent, max_record)``.

    ``read`` yields blocks or (key, value) pairs.
    """

    endings = None

    def __init__(self, splittable: bool, find: Callable[[], Any]) -> None:
        self.splittable = splittable
        self._find = find

    def read(self, extent: Extent, max_record: int) -> Iterator[RecordBlock]:
        """Read through a fresh reader; its pairs are gathered into blocks of :data:`BLOCK` bytes.

        An error in the reader becomes :class:`UserCodeError` with the file's URI.
        """
        reader = self._find()
        check = watch(extent)  # the reader may open the file itself
        check()
        items = _blaming(lambda: reader.read(extent, max_record), extent.uri)
        first = next(items, None)
        if isinstance(first, RecordBlock):
            blocks: Iterator[RecordBlock] = chain((first,), items)
        else:
            blocks = iter(()) if first is None else _blocks(chain((first,), items), extent.uri)
        for block in blocks:
            check()
            yield block
        check()


def _blaming(read: Callable[[], Any], uri: str) -> Iterator[Any]:
    """Yield a reader's items; its errors become :class:`UserCodeError`."""
    items: Iterator[Any] | None = None
    while True:
        try:
            items = iter(read()) if items is None else items
            item = next(items)
        except StopIteration:
            return
        except BaseException as e:
            if passes(e):
                raise
            raise user_error(e, file=uri) from e
        yield item


def _blocks(pairs: Iterator[Any], uri: str) -> Iterator[RecordBlock]:
    keys: list[Any] = []
    values: list[Any] = []
    size = 0
    for pair in pairs:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise UserCodeError(
                f"the input format yielded {safe_repr(pair, 200)}, which is not a (key, value) pair: yield key, value",
                file=uri,
            ) from None
        keys.append(key)
        values.append(value)
        size += sys.getsizeof(value)
        if size >= BLOCK or len(values) == MOST_PAIRS:
            yield RecordBlock(keys, values, uri)
            keys, values, size = [], [], 0
    if values:
        yield RecordBlock(keys, values, uri)


class OwnOutput:
    """A user's writer: ``encode(keys, values)``; optionally ``suffix``, ``finish()``, ``needs_records``, ``arrow``."""

    def __init__(self, suffix: str, find: Callable[[], Any]) -> None:
        self.suffix = suffix
        self._find = find
        self._made: Any = None

    @property
    def _writer(self) -> Any:
        if self._made is None:
            self._made = self._find()
        return self._made

    @property
    def needs_records(self) -> bool:
        """Return the attribute of the user's writer, False by default."""
        return bool(getattr(self._writer, "needs_records", False))

    @property
    def arrow(self) -> bool:
        """Return the attribute of the user's writer, False by default."""
        return bool(getattr(self._writer, "arrow", False))

    def encode(self, keys: list[Any], values: list[Any]) -> bytes:
        """Encode through the user's writer. Raises :class:`UserCodeError` if it raises or does not return bytes."""
        return _bytes(lambda: self._writer.encode(keys, values))

    def finish(self) -> bytes:
        """Finish through the user's writer, if it has that method."""
        return _bytes(lambda: self._writer.finish()) if hasattr(self._writer, "finish") else b""


def _bytes(write: Callable[[], Any]) -> bytes:
    try:
        data = write()
    except BaseException as e:
        if passes(e):
            raise
        raise user_error(e) from e
    if not isinstance(data, bytes):
        raise UserCodeError(f"the output format returned {safe_repr(data, 200)}: return bytes")
    return data
