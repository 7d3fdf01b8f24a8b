"""What an input stands for: files, folders and patterns."""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrcelery.errors import InputError
from mrcelery.formats import input_format
from mrcelery.planning.listing import InputFile, list_inputs
from mrcelery.planning.splits import cut, write_plan
from mrcelery.schema.encoding import decode
from mrcelery.schema.structs import PlanPage
from mrcelery.storage import ObjectInfo, open_storage

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
        ("[^a]/*", ["b/d/e.txt", "b/d/f.csv", "b/g.txt"]),
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


@pytest.mark.parametrize("uri", ["gs://bucket/a", "file://host/a", "hdfs://x/y", ""])
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
        f"FILE://localhost{tmp_path}/in",
        (tmp_path / "in/a b%.txt").as_uri(),
    ):
        assert [file._replace(tag="") for file in list_inputs([uri], TEXT)] == expected


def test_what_may_be_cut(tmp_path: Path) -> None:
    for name in ("a.txt", "b.gz", "c.zst"):
        (tmp_path / name).write_bytes(b"x")
    assert [file.splittable for file in list_inputs([str(tmp_path)], TEXT)] == [True, False, False]
    assert not any(file.splittable for file in list_inputs([str(tmp_path)], input_format("whole-file")))


@pytest.mark.parametrize("given", ["b.zip", "", "*"])
def test_an_archive_among_the_files_is_named(tmp_path: Path, given: str) -> None:
    for name in ("a.txt", "b.zip"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=re.escape(f"input {tmp_path}/b.zip is an archive")):
        list(list_inputs([f"{tmp_path}/{given}"], TEXT))
    assert list(list_inputs([f"{tmp_path}/{given}"], input_format("whole-file")))


def test_parquet_files_are_for_their_format(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match="--input-format parquet"):
        list(list_inputs([str(tmp_path)], TEXT))
    assert list(list_inputs([str(tmp_path)], input_format("parquet")))


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


def test_a_file_has_a_tag_and_one_written_to_lately_a_checksum_of_its_edges(tmp_path: Path) -> None:
    for name, when in (("new", 2_000.0), ("old", 1_000.0)):
        (tmp_path / name).write_bytes(b"line\n")
        os.utime(tmp_path / name, (when, when))
    tags = [file.tag for file in list_inputs([str(tmp_path)], TEXT, since=1_500.0)]
    assert [tag.count("-") for tag in tags] == [3, 2]
    assert tags == [file.tag for name in ("new", "old") for file in list_inputs([f"{tmp_path}/{name}"], TEXT, 1_500.0)]
    assert [file.tag.count("-") for file in list_inputs([str(tmp_path)], TEXT)] == [2, 2]


def test_only_strong_etags_are_kept() -> None:
    storage = open_storage(f"memory://tags-{os.urandom(6).hex()}")
    storage.write("a", b"x")
    for tag, kept in (('"strong"', '"strong"'), ('W/"weak"', "")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "stat", lambda key: ObjectInfo(key, 1, tag), raising=False)  # noqa: B023
            assert [file.tag for file in list_inputs([f"{storage.uri}/a"], TEXT)] == [kept]
