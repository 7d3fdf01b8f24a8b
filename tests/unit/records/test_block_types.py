"""Types that are no plain data: refused by name, or stored as what they are like."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import Counter, OrderedDict, namedtuple
from datetime import timezone
from fractions import Fraction
from typing import Any

import pytest

from mrcelery.errors import CodecError
from mrcelery.records.blocks import (
    decode_column,
    encode_column,
)

Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


REFUSED = [
    object(),
    1j,
    range(3),
    Fraction(1, 2),
    Point(1, 2),
    Colour.RED,
    Name("a"),
    Counter("a"),
    OrderedDict(a=1),
    len,
    int,
    timezone.utc,  # noqa: UP017  # its type's name is what the message must have
]


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: (1, v), lambda v: {"k": {"v": (v,)}}])
@pytest.mark.parametrize("value", REFUSED, ids=lambda v: type(v).__name__)
def test_other_types_are_refused_by_name(value: Any, wrap: Any) -> None:
    for column in ([wrap(value)], [wrap(value)] * 3, [1, wrap(value)]):
        with pytest.raises(CodecError) as refusal:
            encode_column(column)
        assert type(value).__qualname__ in str(refusal.value)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [bytearray(b"x"), memoryview(b"x")], ids=["bytearray", "memoryview"])
def test_other_bytes_come_back_as_bytes(value: Any) -> None:
    (back, (nested,)) = decode_column(encode_column([value, [value]]), 2)
    assert (back, nested) == (b"x", b"x")
    assert type(back) is type(nested) is bytes


NESTED = """
import sys
from mrcelery.records.blocks import decode_column, encode_column
from mrcelery.errors import CodecError

wrap = {"list": lambda v: [v], "tuple": lambda v: (v,), "dict": lambda v: {"k": v}, "set": lambda v: frozenset([v])}
value = 1
for _ in range(int(sys.argv[2])):
    value = wrap[sys.argv[1]](value)
column = [value, None] if sys.argv[3] == "mixed" else [value]
try:
    data = encode_column(column)
except CodecError:
    print("refused")
    sys.exit()
found = decode_column(data, len(column))[0]
while value != 1:
    assert type(found) is type(value)
    (found,) = found.values() if isinstance(found, dict) else found
    (value,) = value.values() if isinstance(value, dict) else value
assert found == 1
print("came back")
"""


@pytest.mark.parametrize("container", ["list", "tuple", "dict", "set"])
@pytest.mark.parametrize("depth", [30, 120, 200, 300, 480, 3000])
@pytest.mark.parametrize("column", ["single", "mixed"])
def test_deep_nesting_comes_back_or_is_refused(container: str, depth: int, column: str) -> None:
    """In a process of its own: what goes wrong here is a stack overflow in C, which ends the process."""
    command = [sys.executable, "-X", "faulthandler", "-c", NESTED, container, str(depth), column]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:500]
    assert done.stdout == "came back\n" or (depth > 30 and done.stdout == "refused\n")
