"""Arrow columns: their order, their hashes and their bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, UsageError
from mrcelery.records.blocks import Block, BlockWriter, read_blocks
from mrcelery.records.columns import (
    Keys,
    hashes,
    of_table,
    order,
    pack,
    starts,
    take,
    unpack,
)
from mrcelery.records.hashing import stable_hash
from mrcelery.shuffle.runs import joined

pa = pytest.importorskip("pyarrow")

# Few letters, so that keys come twice, and a NUL, which fixed-size strings must not lose.
SHORT = st.lists(st.sampled_from([0, 1, 97, 255]), min_size=10, max_size=10).map(bytes)
KEYS = st.one_of(
    st.lists(SHORT, max_size=50).map(lambda keys: pa.array(keys, pa.binary(10))),
    st.lists(st.binary(max_size=3), max_size=50).map(lambda keys: pa.array(keys, pa.binary())),
    st.lists(st.text(max_size=3), max_size=50).map(lambda keys: pa.array(keys, pa.string())),
    st.lists(st.integers(-9, 9) | st.integers(-(2**63), 2**63 - 1), max_size=50).map(
        lambda keys: pa.array(keys, pa.int64())
    ),
)


@given(KEYS, st.integers(0, 3))
def test_keys_are_ordered_as_python_orders_them(keys: Any, skipped: int) -> None:
    keys = keys[skipped:]
    plain = keys.to_pylist()
    positions = order(keys).tolist()
    assert positions == sorted(range(len(plain)), key=plain.__getitem__)  # stable
    ordered = take(keys, order(keys))
    assert ordered.to_pylist() == sorted(plain)
    begins = starts(ordered).tolist()
    assert begins == [i for i, key in enumerate(sorted(plain)) if i == 0 or sorted(plain)[i - 1] != key]
    assert list(Keys(ordered)) == sorted(plain)


@given(KEYS, st.integers(0, 3))
def test_a_key_has_one_hash_as_an_object_and_in_an_array(keys: Any, skipped: int) -> None:
    keys = keys[skipped:]
    assert hashes(keys).tolist() == [stable_hash(key) for key in keys.to_pylist()]


@pytest.mark.parametrize("common", ["", "https://example.com/"])
def test_long_keys_are_ordered_too(common: str) -> None:
    """With few that begin alike, with many, and with zero bytes at the end, which a prefix does not show."""
    tails = ["a", "a\0", "", "a" * 8, "a" * 9]
    plain = [common + tail for i in range(200) for tail in (f"{i * 7919 % 200:09}-{i % 3}", *tails)]
    for keys in (pa.array(plain), pa.array([key.encode() for key in plain])):
        assert order(keys).tolist() == sorted(range(len(plain)), key=plain.__getitem__)


@given(KEYS, st.integers(0, 3))
def test_columns_read_back(keys: Any, skipped: int) -> None:
    keys = keys[skipped:]
    kind = pa.struct([("a", pa.list_(pa.int64()))])
    values = pa.array([None if i % 3 else {"a": [i]} for i in range(len(keys))], kind)
    found = unpack(bytes(pack(keys, values)))
    assert [column.type for column in found] == [keys.type, values.type]
    assert [column.to_pylist() for column in found] == [keys.to_pylist(), values.to_pylist()]


def test_damaged_columns_are_refused() -> None:
    data = bytes(pack(pa.array(["a"]), pa.array([1])))
    with pytest.raises(CorruptDataError, match="cannot be read"):
        unpack(data[: len(data) // 2])


@pytest.mark.parametrize("compress", [False, True])
def test_a_block_file_holds_lists_and_arrays(compress: bool) -> None:
    written: list[bytes] = []

    class Out:
        def write(self, data: Any) -> None:
            written.append(bytes(data))

    writer = BlockWriter(Out(), compress=compress)
    keys = pa.array([f"key {i}" for i in range(100_000)])
    writer.write(["x", 1], [(1, 2), None])
    writer.write(keys, pa.array(range(100_000)))
    writer.close()
    assert writer.records == 100_002
    blocks = list(read_blocks(iter([b"".join(written)]), "file"))
    assert len(blocks) > 3  # cut into blocks of bounded size
    assert all(b.keys.nbytes + b.values.nbytes < 1 << 20 for b in blocks[1:])
    assert blocks[0] == Block(["x", 1], [(1, 2), None])
    both = joined(blocks[1:])
    assert both.keys.equals(keys)
    assert both.values.to_pylist() == list(range(100_000))


def test_tables_become_few_types() -> None:
    table = pa.table(
        {
            "k": pa.array(["b", "a"]).dictionary_encode(),
            "v": pa.chunked_array([pa.array([1], pa.int8()), pa.array([2], pa.int8())]),
        }
    )
    keys, values = of_table(table)
    assert (keys.type, values.type) == (pa.string(), pa.int64())
    assert (keys.to_pylist(), values.to_pylist()) == (["b", "a"], [1, 2])
    keys, values = of_table(pa.table({"k": pa.array([1.5, 1.0]), "v": [1, 2]}))
    assert (keys, values) == ([1.5, 1.0], [1, 2])  # 0.0 and -0.0 are one key to Python, and two to Arrow
    keys, values = of_table(pa.table({"k": pa.array(["a", None]), "v": [1, 2]}))
    assert (keys, values) == (["a", None], [1, 2])
    keys, _ = of_table(pa.table({"k": pa.array([2**64 - 1], pa.uint64()), "v": [1]}))
    assert keys == [2**64 - 1]
    with pytest.raises(UsageError, match="table of 1 columns"):
        of_table(pa.table({"k": [1]}))


def test_arrow_out_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pack(pa.array([1]), pa.array([2]))

    def full(*_: object) -> None:
        raise pa.lib.ArrowMemoryError("malloc of size 1024 failed")

    monkeypatch.setattr(pa.ipc, "open_stream", full)
    with pytest.raises(MemoryError):
        unpack(data)
