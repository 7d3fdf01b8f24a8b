"""Protocols against literal bytes that mrjob 0.7.4 writes, and against their own inverse."""

from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery import protocols
from mrcelery.errors import UsageError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)

# Written by mrjob 0.7.4 under Python 3.11 (without ujson, rapidjson and simplejson).
WRITTEN_BY_MRJOB = [
    (protocols.JSONProtocol, ["é", 1], {"b": [1.5, None]}, b'["\\u00e9", 1]\t{"b": [1.5, null]}'),
    (protocols.JSONValueProtocol, None, ("a", 1), b'["a", 1]'),
    (protocols.ReprProtocol, ("é", 1), {1: b"x"}, "('é', 1)\t{1: b'x'}".encode()),
    (protocols.ReprValueProtocol, None, {1, 2}, b"{1, 2}"),
    (protocols.TextProtocol, "k\té", "v", "k\té\tv".encode()),
    (protocols.TextProtocol, None, "v", b"v"),
    (protocols.TextProtocol, "k", None, b"k"),
    (protocols.TextValueProtocol, "dropped", "é", "é".encode()),
    (protocols.BytesProtocol, b"k", b"\xff", b"k\t\xff"),
    (protocols.BytesValueProtocol, "dropped", b"\xff", b"\xff"),
]


@pytest.mark.parametrize(("protocol", "key", "value", "line"), WRITTEN_BY_MRJOB)
def test_writes_the_bytes_that_mrjob_writes(protocol: Any, key: Any, value: Any, line: bytes) -> None:
    assert protocol().write(key, value) == line


@pytest.mark.skipif(pickle.DEFAULT_PROTOCOL != 4, reason="these bytes are pickle's protocol 4")
def test_pickles_are_escaped_as_mrjob_does() -> None:
    with protocols.allow_pickle():
        line = protocols.PickleProtocol().write(1, "a\n")
    assert line == (b"\\x80\\x04K\\x01.\t\\x80\\x04\\x95\\x06\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x8c\\x02a\\n\\x94.")


@given(JSON_VALUES, JSON_VALUES)
def test_json_is_that_of_the_standard_library(key: Any, value: Any) -> None:
    protocol = protocols.StandardJSONProtocol()
    line = protocol.write(key, value)
    assert line == json.dumps(key).encode() + b"\t" + json.dumps(value).encode()
    assert protocol.read(line) == (key, value)
    assert protocol.read(line) == (key, value)


def test_tuples_come_back_from_json_as_lists() -> None:
    protocol = protocols.JSONProtocol()
    assert protocol.read(protocol.write(("a", 1), (2,))) == (["a", 1], [2])


def test_the_kept_key_is_not_taken_for_another() -> None:
    protocol = protocols.JSONProtocol()
    assert [protocol.read(line)[0] for line in (b"1\t1", b"1\t2", b"2\t3", b"1\t4")] == [1, 1, 2, 1]


@given(st.binary())
def test_text_takes_any_bytes(line: bytes) -> None:
    try:
        expected = line.decode("utf-8")
    except UnicodeDecodeError:
        expected = line.decode("latin-1")
    assert protocols.RawValueProtocol().read(line) == (None, expected)


def test_raw_lines_are_cut_at_the_first_tab() -> None:
    assert protocols.RawProtocol().read(b"a\tb\tc") == ("a", "b\tc")
    assert protocols.RawProtocol().read(b"a") == ("a", None)
    assert protocols.BytesProtocol().read(b"a\t") == (b"a", b"")


def test_repr_reads_literals_and_runs_nothing() -> None:
    protocol = protocols.ReprProtocol()
    assert protocol.read(protocol.write((1, "x"), {None: b"\xff"})) == ((1, "x"), {None: b"\xff"})
    with pytest.raises(ValueError, match="malformed"):
        protocol.read(b"1\t__import__('os').getpid()")


class _Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled without leave",))


@pytest.mark.parametrize("protocol", [protocols.PickleProtocol(), protocols.PickleValueProtocol()])
def test_pickle_runs_only_where_allowed(protocol: Any) -> None:
    line = pickle.dumps(_Trap()).decode("latin-1").encode("unicode_escape")
    with pytest.raises(UsageError, match="--allow-pickle"):
        protocol.read(line + b"\t" + line)
    with pytest.raises(UsageError, match="--allow-pickle"):
        protocol.write(1, 2)
    with protocols.allow_pickle():
        assert protocol.read(protocol.write({1}, {2}))[1] == {2}
        with protocols.allow_pickle(False), pytest.raises(UsageError):
            protocol.write(1, 2)
    with pytest.raises(UsageError):
        protocol.write(1, 2)


def test_leave_to_pickle_does_not_reach_other_threads() -> None:
    seen: list[bool] = []
    with protocols.allow_pickle():
        thread = threading.Thread(target=lambda: seen.append(protocols.pickle_allowed.get()))
        thread.start()
        thread.join()
    assert seen == [False]
