"""Parts by partition: the same record whether they went through files or not."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Part, ShuffleInput
from mrcelery.shuffle import part_lists
from mrcelery.shuffle.part_lists import PartLists

PARTS = st.lists(
    st.builds(
        Part, st.integers(0, 5), st.text(st.characters(codec="utf-8"), max_size=20), *[st.integers(0, 1 << 40)] * 5
    )
)


BOUNDS = st.none() | st.binary(max_size=9)


@given(PARTS, BOUNDS, BOUNDS, st.sampled_from([1, 200, 1 << 20]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_encoded_is_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[Part], low: bytes | None, high: bytes | None, held: int
) -> None:
    monkeypatch.setattr(part_lists, "HELD", held)
    expected = defaultdict(list)
    with PartLists(str(tmp_path)) as lists:
        for part in parts:
            lists.add(part)
            expected[part.partition].append(part)
        for partition in range(6):
            record = ShuffleInput(partition=partition, low=low, high=high, parts=tuple(expected[partition]))
            assert lists.encoded(partition, low, high) == encode(record)
    assert os.listdir(tmp_path) == []


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_lists, "HELD", 1000)
    with PartLists(str(tmp_path)) as lists:
        for number in range(500):
            lists.add(Part(number % 7, f"key-{number}", 1, 1, 1))
            assert sum(map(len, lists._held.values())) <= 1000
