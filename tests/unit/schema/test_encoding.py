"""Records as bytes: a reader takes its own version, and tells another version from damage."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, VersionError
from mrcelery.schema.encoding import decode, encode
from mrcelery.schema.structs import VERSION, Extent, PlanPage, Presence, Split

PAGE = PlanPage(splits=(Split(3, (Extent("s3://bucket/é", 0, 5, 9), Extent("http://host/x", 0, -1, -1))),))

extents = st.builds(Extent, st.text(), st.integers(0, 2**62), st.integers(-1, 2**62), st.integers(-1, 2**62))
pages = st.builds(
    PlanPage, splits=st.lists(st.builds(Split, st.integers(0, 2**31), st.lists(extents).map(tuple))).map(tuple)
)


@given(pages)
def test_a_record_reads_back(page: PlanPage) -> None:
    assert decode(encode(page), PlanPage) == page


def test_another_version_is_named_and_is_no_damage() -> None:
    fields = json.loads(encode(PAGE))
    for version in (VERSION - 1, VERSION + 1):
        # A version to come may have other fields: its number is read before them.
        data = json.dumps({"v": version, "of another shape": fields["splits"]}).encode()
        with pytest.raises(VersionError, match=rf"PlanPage record at jobs/j/plan has version {version}, .* {VERSION}"):
            decode(data, PlanPage, "jobs/j/plan")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"{}", b'{"v": "1"}', b"\xff\xfe"])
def test_what_is_no_record_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"PlanPage record at jobs/j/plan is damaged") as caught:
        decode(data, PlanPage, "jobs/j/plan")
    assert caught.value.retryable is False


@given(st.data())
def test_a_record_that_is_cut_off_is_damage(data: st.DataObject) -> None:
    whole = encode(PAGE)
    with pytest.raises(CorruptDataError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))], PlanPage)


def test_a_record_of_another_class_is_damage() -> None:
    with pytest.raises(CorruptDataError, match="Presence"):
        decode(encode(PAGE), Presence)
