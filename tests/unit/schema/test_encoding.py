"""Records as bytes: a reader accepts its own version, and distinguishes another version from damage."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

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
        # A future version may have other fields, so the version number is read first.
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


FIRST_IN_THREADS = """
    import sys, threading, types
    from mrcelery.schema.encoding import decode, encode

    SOURCE = '''
    from __future__ import annotations
    import msgspec
    from mrcelery.schema.structs import Record

    class Inner(msgspec.Struct):
        numbers: list[int]

    class Outer(Record, frozen=True, kw_only=True):
        inner: Inner
        lists: dict[str, list[int]]
    '''
    sys.setswitchinterval(1e-6)
    for number in range(500):
        module = sys.modules[f"m{number}"] = types.ModuleType(f"m{number}")
        exec(SOURCE, module.__dict__)
        data = encode(module.Outer(inner=module.Inner([1]), lists={"a": [2]}))
        found, together = [], threading.Barrier(4)

        def first():
            together.wait()
            found.append(decode(data, module.Outer).inner.numbers)

        threads = [threading.Thread(target=first) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[1]] * 4, found
"""


def test_threads_may_be_the_first_to_read_a_kind_of_record() -> None:
    """In msgspec alone they would crash: one thread sees what another has half resolved."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(FIRST_IN_THREADS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
