"""Planning: what an input stands for, how files are cut and packed, plan pages, and the estimate."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import CorruptDataError, InputError
from mrcelery.formats import input_format
from mrcelery.planning.listing import InputFile, list_inputs
from mrcelery.planning.price import Cost, estimate
from mrcelery.planning.splits import OPEN_COST, PAGE, cut, find_split, fitted, page_of, write_plan
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import Extent, Partitioner, PlanPage, Split, StepSpec
from mrcelery.storage import open_storage

TEXT = input_format("text")
MIB = 1 << 20

TREE = [
    ".hidden",
    "_SUCCESS",
    "a.txt",
    "a/b.txt",
    "a/c.gz",
    "a/_temporary/x.txt",
    "b/.git/y.txt",
    "b/d/e.txt",
    "b/d/f.csv",
    "b/g.txt",
    "z[1].txt",
]


@pytest.fixture(params=["folder", "memory"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The root of some files, each with its own name as content."""
    root = str(tmp_path) if request.param == "folder" else f"memory://plan-{os.urandom(6).hex()}"
    for name in TREE:
        open_storage(root).write(name, name.encode())
    return root


def names(root: str, *inputs: str) -> list[str]:
    found = list(list_inputs([f"{root}/{name}" for name in inputs], TEXT))
    assert all(file.uri.startswith(root + "/") for file in found)
    short = [file.uri[len(root) + 1 :] for file in found]
    assert [file.size for file in found] == [len(name) for name in short]
    return short


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.txt", "a/b.txt", "a/c.gz", "b/d/e.txt", "b/d/f.csv", "b/g.txt", "z[1].txt"]),
        ("a", ["a/b.txt", "a/c.gz"]),
        ("b/", ["b/d/e.txt", "b/d/f.csv", "b/g.txt"]),
        ("a.txt", ["a.txt"]),
        (".hidden", [".hidden"]),
        ("_SUCCESS", ["_SUCCESS"]),
        ("a/_temporary", ["a/_temporary/x.txt"]),
        ("a/_temporary/x.txt", ["a/_temporary/x.txt"]),
        ("z[1].txt", ["z[1].txt"]),
        ("*.txt", ["a.txt", "z[1].txt"]),
        ("*", ["a.txt", "a/b.txt", "a/c.gz", "b/d/e.txt", "b/d/f.csv", "b/g.txt", "z[1].txt"]),
        ("?/*.txt", ["a/b.txt", "b/g.txt"]),
        ("[!a]/*", ["b/d/e.txt", "b/d/f.csv", "b/g.txt"]),
        ("**/*.txt", ["a.txt", "a/b.txt", "b/d/e.txt", "b/g.txt", "z[1].txt"]),
        ("b/**", ["b/d/e.txt", "b/d/f.csv", "b/g.txt"]),
        ("b/**/f*", ["b/d/f.csv"]),
        ("**/d", ["b/d/e.txt", "b/d/f.csv"]),
        (".*", [".hidden"]),
        ("_S*", ["_SUCCESS"]),
        ("*/_t*/*", ["a/_temporary/x.txt"]),
        ("a*", ["a.txt", "a/b.txt", "a/c.gz"]),
    ],
)
def test_what_an_input_stands_for(tree: str, pattern: str, expected: list[str]) -> None:
    assert names(tree, pattern) == expected


def test_inputs_come_in_the_order_given_and_as_often(tree: str) -> None:
    assert names(tree, "b/g.txt", "a", "b/g.txt") == ["b/g.txt", "a/b.txt", "a/c.gz", "b/g.txt"]


@pytest.mark.parametrize(
    "nothing", ["nothing", "no*", "a.tx", "nothing/", "a.txt/", "a/b.txt/c", "b/.git/*/x", "**/no"]
)
def test_an_input_that_matches_nothing(tree: str, nothing: str) -> None:
    with pytest.raises(InputError, match="matches no file") as caught:
        names(tree, "a.txt", nothing)
    assert f"{tree}/{nothing} " in str(caught.value)


def test_a_folder_of_hidden_files_alone_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(InputError, match="matches no file"):
        list(list_inputs([str(tmp_path)], TEXT))


@pytest.mark.parametrize("uri", ["gs://bucket/a", "file://host/a", "hdfs://x/y"])
def test_an_address_of_no_known_kind(uri: str) -> None:
    with pytest.raises(InputError):
        list(list_inputs([uri], TEXT))


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    with pytest.raises(InputError, match="not UTF-8: rename"):
        list(list_inputs([str(tmp_path)], TEXT))


def test_relative_paths_and_file_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a b%.txt").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "in")
    expected = [InputFile(f"{tmp_path}/in/a b%.txt", 1, True)]
    for uri in (
        "a b%.txt",
        ".",
        "*",
        "../in/",
        "../*/a*",
        f"file://{tmp_path}/in/a%20b%25.txt",
        f"file://{tmp_path}/in",
    ):
        assert list(list_inputs([uri], TEXT)) == expected


def test_what_may_be_cut(tmp_path: Path) -> None:
    for name in ("a.txt", "b.gz", "c.zst"):
        (tmp_path / name).write_bytes(b"x")
    assert [file.splittable for file in list_inputs([str(tmp_path)], TEXT)] == [True, False, False]
    assert not any(file.splittable for file in list_inputs([str(tmp_path)], input_format("whole-file")))


# --- cutting and packing


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


# --- plan pages


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


@pytest.mark.slow
def test_100_000_objects_in_bounded_memory() -> None:
    storage = open_storage(f"memory://many-{os.urandom(6).hex()}")
    for i in range(100_000):
        storage.write(f"{i:06}", b"x")
    seen = 0

    def put(number: int, data: bytes) -> None:
        nonlocal seen
        seen += len(decode(data, PlanPage).splits)

    # What the memory storage needs for its own sorted list of keys is not the planner's.
    listing = list(storage.list())

    class Listed:
        uri = storage.uri

        def list(self, prefix: str) -> Iterator[object]:
            return iter(listing)

    monkey = pytest.MonkeyPatch()
    monkey.setattr("mrcelery.planning.listing.locate", lambda uri: (Listed(), ""))
    tracemalloc.start()
    try:
        summary = write_plan(cut(list_inputs([storage.uri], TEXT), 1 << 10), put)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        monkey.undo()
        storage.delete([info.key for info in listing])
    assert (summary.splits, summary.files, summary.bytes, seen) == (100_000, 100_000, 100_000, 100_000)
    assert peak < 4 * MIB


# --- the estimate


def test_estimate_of_one_step() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)
    steps = [StepSpec(has_reducer=True, reducers=4)]
    cost = estimate(plan, steps, listing={"GET": 1, "LIST": 1}, reads=100, storage_is_s3=True)
    # in: a look, 100 extents; the layout, the spec; each process: spec, code, a plan page;
    # map: 100 x (4 partitions + commit); barrier: 4 lists; two summaries; 4 part files read back;
    # reduce: 4 x (100 + list) read, 4 x (part + commit) written; spec, code, page, report (two files); 4 copies
    assert cost.get == 1 + 100 + 2 + 3 + 4 * 101 + 4
    assert cost.put == 100 * 5 + 4 + 2 + 4 * 2 + 5 + 4
    assert cost.list == 1 + 1
    assert cost.requests == {"GET": cost.get, "PUT": cost.put, "LIST": cost.list, "DELETE": cost.delete}
    assert cost.dollars == pytest.approx((cost.put + cost.list) * 5e-6 + cost.get * 4e-7)
    more = estimate(plan, steps, listing={"GET": 1, "LIST": 1}, reads=100, storage_is_s3=True, processes=5)
    assert more == Cost(cost.get + 4 * 3, cost.put, cost.list, cost.delete)


def test_estimate_of_publishing_to_an_output() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)
    steps = [StepSpec(has_reducer=True, reducers=4)]
    cost = estimate(plan, steps, listing={}, reads=0, storage_is_s3=False, output_is_s3=True)
    # looked at before the job, and twice for claims; the claim and _SUCCESS are looked for, and written; 4 copies
    assert cost == Cost(get=2, put=4 + 2, list=3, delete=1)


def test_estimate_where_nothing_is_s3() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)
    assert estimate(plan, [StepSpec(has_reducer=True, reducers=4)], listing={}, reads=0, storage_is_s3=False) == Cost()


def test_estimate_of_total_order() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)

    def cost(kind: str, reducers: int) -> Cost:
        steps = [StepSpec(has_reducer=True, reducers=reducers, partitioner=Partitioner(kind))]  # type: ignore[arg-type]
        return estimate(plan, steps, listing={}, reads=0, storage_is_s3=True)

    # map: 100 x (run + commit) instead of 100 x (4 partitions + commit); barrier: 100 indexes
    assert cost("hash", 4).put - cost("range", 4).put == 100 * 3
    assert cost("range", 4).get - cost("hash", 4).get == 100
    assert cost("range", 1) == cost("hash", 1)


def test_estimate_follows_the_parts_from_step_to_step() -> None:
    plan = write_plan(cut([InputFile("a", 100, True)], 10), lambda number, data: None)
    map_only = StepSpec(has_reducer=False, reducers=0)
    reducing = StepSpec(has_reducer=True, reducers=3)

    def cost(*steps: StepSpec) -> Cost:
        return estimate(plan, steps, listing={}, reads=0, storage_is_s3=True, output_is_s3=False)

    assert cost(map_only).put == 4 + 1 + 10 * 2 + 1
    two = cost(map_only, reducing)
    # besides, a plan page, and summaries; 3 part files are brought to the folder, and not 10
    assert two.put - cost(map_only).put == 10 * 4 + 3 + 6 + 1 + 2
    assert two.get - cost(map_only).get == 10 + 3 * 11 + 1 - 7
    assert cost(reducing, map_only).put - cost(reducing).put == 3 * 2 + 1 + 1


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
