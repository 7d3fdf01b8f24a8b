"""Values as lines of JSON: the same bytes whether a line is written alone or with a whole block."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import msgspec

from mrcelery.errors import CodecError

_encode = msgspec.json.Encoder().encode


_encode_lines = msgspec.json.Encoder().encode_lines


_SCALARS = frozenset({str, int, float, bool, type(None)})


_DEEPEST = 64


def _shape(level: Iterable[Any]) -> tuple[bool, bool]:
    """Check whether values and all nested ones have JSON's own types, and whether all floats are finite.

    Checks all values of a block one level of nesting at a time, so that the loops run in C.
    """
    finite = True
    for _ in range(_DEEPEST):
        level = list(level)
        types = set(map(type, level))
        if float in types and not all(map(math.isfinite, (x for x in level if type(x) is float))):
            finite = False
        types -= _SCALARS
        if not types:
            return True, finite
        if not types <= {list, tuple, dict}:
            return False, finite
        dicts = [x for x in level if type(x) is dict]
        if not set(map(type, chain.from_iterable(dicts))) <= {str, int}:
            return False, finite
        inner = chain.from_iterable(x for x in level if type(x) is list or type(x) is tuple)
        level = chain(inner, chain.from_iterable(x.values() for x in dicts))
    return False, finite


def json_lines(values: list[Any]) -> list[bytes]:
    """Encode each value as one line of JSON, in UTF-8, without the newline.

    Tuples are written as lists; NaN and the infinities as by Python's ``json``; lone surrogates are escaped. Raises
    :class:`CodecError` for values that JSON cannot represent.
    """
    if _shape(values) == (True, True):
        try:
            lines = _encode_lines(values).split(b"\n")
        except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
            pass
        else:
            lines.pop()
            return lines
    return [_json(value) for value in values]


def _json(value: Any) -> bytes:
    # Values that msgspec would silently change (NaN to null, bytes to base64) or refuse must not reach it.
    if _shape((value,)) == (True, True):
        try:
            return _encode(value)
        except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
            pass
    try:
        return _by_parts(value)
    except (TypeError, ValueError, RecursionError) as e:
        raise CodecError(
            f"{shortened(value)} cannot be written as JSON ({e}): yield str, int, float, bool, None, lists and dicts "
            "(decode bytes first), or use --output-format text or records",
            record=shortened(value),
        ) from None


def _by_parts(value: Any) -> bytes:
    """Encode a value that msgspec refuses like the ``json`` module, but its floats like msgspec: 1e16, not 1e+16.

    So the bytes of one part of a value do not depend on the other parts in the same line.
    """
    if isinstance(value, float) and math.isfinite(value):
        return _encode(float(value))
    if isinstance(value, (list, tuple)):
        return b"[%b]" % b",".join(map(_by_parts, value))
    if isinstance(value, dict):
        return b"{%b}" % b",".join(b"%b:%b" % (_name(key), _by_parts(item)) for key, item in value.items())
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")  # escapes only lone surrogates


def _name(key: Any) -> bytes:
    """Encode the key of an object like the ``json`` module."""
    if isinstance(key, str):
        return _by_parts(key)
    if key is None or isinstance(key, (int, float)):
        return b'"%b"' % json.dumps(key).encode()
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def shortened(value: Any) -> str:
    """Return ``repr(value)`` cut to 200 characters, for an error message."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
