"""How files are cut and packed, and plan pages."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, UsageError
from mrcelery.planning.listing import InputFile
from mrcelery.planning.splits import OPEN_COST, PAGE, cut, find_split, fitted, page_of, with_reducers, write_plan
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Extent, PlanPage, PlanSummary, Split, StepSpec

MIB = 1 << 20


def splits(split_size: int, *files: InputFile) -> list[list[tuple[str, int, int]]]:
    found = list(cut(files, split_size))
    assert [split.index for split in found] == list(range(len(found)))
    return [[(e.uri, e.start, e.end) for e in split.extents] for split in found]


def test_a_large_file_is_cut_and_keeps_a_small_tail() -> None:
    assert splits(64 * MIB, InputFile("a", 134 * MIB, True)) == [[("a", 0, 64 * MIB)], [("a", 64 * MIB, 134 * MIB)]]
    assert splits(64 * MIB, InputFile("a", 136 * MIB, True)) == [
        [("a", 0, 64 * MIB)],
        [("a", 64 * MIB, 128 * MIB)],
        [("a", 128 * MIB, 136 * MIB)],
    ]
    assert splits(10, InputFile("a", 11, True)) == [[("a", 0, 11)]]


def test_what_is_not_cut() -> None:
    assert splits(10, InputFile("a.gz", 1000, False)) == [[("a.gz", 0, 1000)]]
    assert splits(64 * MIB, InputFile("http", -1, False), InputFile("b", 5, True)) == [[("http", 0, -1)], [("b", 0, 5)]]


def test_empty_files_give_no_split() -> None:
    assert splits(10, InputFile("a", 0, True), InputFile("b.gz", 0, False)) == []
    assert splits(10) == []


def test_small_files_share_a_split_in_order() -> None:
    small = [InputFile(f"{i:02}", 100, True) for i in range(40)]
    assert [len(split) for split in splits(64 * MIB, *small)] == [16, 16, 8]
    mixed = InputFile("a", 40 * MIB, True), InputFile("b", 30 * MIB, False), InputFile("c", 1, True)
    assert splits(64 * MIB, *mixed) == [
        [("a", 0, 40 * MIB)],
        [("b", 0, 30 * MIB), ("c", 0, 1)],
    ]
    # below the open cost a split is one file
    assert splits(100, InputFile("a", 1, True), InputFile("b", 1, True)) == [[("a", 0, 1)], [("b", 0, 1)]]


input_files = st.lists(
    st.builds(InputFile, st.sampled_from("abc"), st.integers(0, 300 * MIB), st.booleans()), max_size=20
)


@given(files=input_files, split_size=st.integers(1 * MIB, 100 * MIB))
def test_splits_cover_each_byte_once_in_order(files: list[InputFile], split_size: int) -> None:
    found = list(cut(files, split_size))
    extents = [extent for split in found for extent in split.extents]
    for file in files:
        if file.size == 0:
            continue
        at = 0
        while at < file.size:
            extent = extents.pop(0)
            assert (extent.uri, extent.start, extent.size) == (file.uri, at, file.size)
            assert extent.end > at
            assert extent.end - at <= split_size * 1.1 or not file.splittable
            at = extent.end
    assert extents == []
    for split in found:
        assert split.extents
        if len(split.extents) > 1:
            assert sum(max(e.end - e.start, min(OPEN_COST, split_size)) for e in split.extents) <= split_size
    assert found == list(cut(iter(files), split_size))


def test_pages_and_summary() -> None:
    pages: dict[int, bytes] = {}
    files = [
        InputFile("a", 2500, True),
        InputFile("b.gz", 7, False),
        InputFile("empty", 0, True),
        InputFile("c", -1, False),
    ]
    summary = write_plan(cut(files, 1), pages.__setitem__)
    assert (summary.splits, summary.files, summary.bytes) == (2502, 3, 2507)
    assert list(pages) == [0, 1, 2]
    assert summary.pages == tuple(hashlib.sha256(pages[i]).hexdigest() for i in range(3))
    assert [len(decode(pages[i], PlanPage).splits) for i in range(3)] == [PAGE, PAGE, 502]
    for task in (0, 999, 1000, 2499):
        page = decode(pages[page_of(task)], PlanPage)
        assert find_split(page, task) == Split(task, (Extent("a", task, task + 1, 2500),))
    assert find_split(decode(pages[2], PlanPage), 2501).extents == (Extent("c", 0, -1, -1),)


def test_no_splits_no_pages() -> None:
    summary = write_plan([], lambda number, data: pytest.fail("no page was to be written"))
    assert (summary.splits, summary.files, summary.bytes, summary.pages) == (0, 0, 0, ())


def test_a_page_that_does_not_hold_the_split() -> None:
    pages: list[bytes] = []
    write_plan(cut([InputFile("a", 1500, True)], 1), lambda number, data: pages.append(data))
    for page, task in ((0, 1000), (1, 0), (1, 1500)):
        with pytest.raises(CorruptDataError, match=f"task {task}"):
            find_split(decode(pages[page], PlanPage), task)


def test_small_inputs_are_cut_so_that_all_workers_have_some() -> None:
    def sizes(total: int, workers: int, files: int = 1) -> list[int]:
        each = total // files
        found = [InputFile(f"/in/{i}", each, True) for i in range(files)]
        return [split.bytes for split in cut(*fitted(found, 64 << 20, workers))]

    assert len(sizes(256 << 20, 0)) == 4
    assert len(sizes(64 << 20, 0)) == 1
    assert sizes(64 << 20, 2) == [16 << 20] * 4
    assert sizes(1 << 20, 8) == [1 << 20]  # a process more would cost more than it does
    assert max(sizes(4 << 30, 2)) == 64 << 20  # never more than asked for
    many = 3 * 1000
    assert sum(sizes(many << 20, 2, many)) == many << 20
    assert len(sizes(many << 20, 2, many)) == len(sizes(many << 20, 0, many))
    unknown = [InputFile("http://x/y", -1, False)]
    assert list(fitted(unknown, 64 << 20, 2)[0]) == unknown


@pytest.mark.parametrize(
    ("size", "reducers"), [(0, 1), (1, 1), (32 * MIB, 1), (32 * MIB + 1, 2), (2048 * MIB, 64), (9000 * MIB, 64)]
)
def test_reducers_by_input_size(size: int, reducers: int) -> None:
    plan = PlanSummary(splits=1, files=1, bytes=size)
    assert with_reducers(StepSpec(has_reducer=True, reducers=-1), plan).reducers == reducers
    assert with_reducers(StepSpec(has_reducer=True, reducers=500), plan).reducers == 500  # as the job says
    assert with_reducers(StepSpec(has_reducer=False, reducers=-1), plan).reducers == 0
    assert with_reducers(StepSpec(has_reducer=False, reducers=5), plan).reducers == 0


def test_a_file_of_unknown_size_leaves_the_split_size_as_it_is() -> None:
    files, size = fitted([InputFile("a", 5, True), InputFile("http", -1, False)], 64 * MIB, 2)
    assert (len(list(files)), size) == (2, 64 * MIB)
    assert fitted([InputFile("a", 0, True)], 64 * MIB, 2)[1] < 64 * MIB


def test_too_many_map_tasks_are_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcelery.planning.splits.MOST_SPLITS", 3000)
    files = [InputFile("a", 4000, True)]
    assert write_plan(cut(files, 2), lambda page, data: None).splits == 2000
    with pytest.raises(UsageError, match=r"more than 3,000 map tasks, .* larger --split-size"):
        write_plan(cut(files, 1), lambda page, data: None)


def test_the_tag_of_a_file_is_on_a_page_once_and_with_each_split() -> None:
    pages: list[bytes] = []
    tag = '"0123456789abcdef0123456789abcdef-17"'
    files = [InputFile("s3://bucket/a", 1500, True, tag), InputFile("b", 1, True), InputFile("c", 1, True, "9-9-9")]
    write_plan(cut(files, 1), lambda number, data: pages.append(data))
    assert [page.count(tag[1:-1].encode()) for page in pages] == [1, 1]
    bare: list[bytes] = []
    write_plan(cut([file._replace(tag="") for file in files], 1), lambda number, data: bare.append(data))
    assert len(b"".join(pages)) - len(b"".join(bare)) < 2 * 100
    decoded = [decode(page, PlanPage) for page in pages]
    assert {find_split(decoded[task // 1000], task).extents[0].tag for task in range(1500)} == {tag}
    assert [find_split(decoded[1], task).extents[0].tag for task in (1500, 1501)] == ["", "9-9-9"]


def test_a_file_that_was_listed_twice_and_changed_between_has_both_tags() -> None:
    pages: list[bytes] = []
    files = [InputFile("a", 5, True, "old"), InputFile("a", 6, True, "new")]
    write_plan(cut(files, 64 * MIB), lambda number, data: pages.append(data))
    assert find_split(decode(pages[0], PlanPage), 0).extents == (
        Extent("a", 0, 5, 5, tag="old"),
        Extent("a", 0, 6, 6, tag="new"),
    )
