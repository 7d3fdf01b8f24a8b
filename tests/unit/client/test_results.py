"""Reading part files back, and fetching them."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.client import results
from mrcelery.errors import InputError, OutputExistsError, StorageUnreachableError
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_lines_of_pieces_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert list(results.lines(data[a:b] for a, b in pairwise(edges))) == expected


@given(
    st.one_of(st.text(), st.integers(), st.none(), st.lists(st.text())),
    st.one_of(st.text(), st.floats(allow_nan=False)),
)
def test_json_lines_come_back(key: object, value: object) -> None:
    line = f"{json.dumps(key)}\t{json.dumps(value)}".encode()
    assert results.parse_json(line) == results.parse_lenient(line) == (key, value)


def test_a_line_that_is_no_json_comes_back_raw() -> None:
    assert results.parse_lenient(b"it's\traw \xff") == (None, "it's\traw \udcff")


def test_parts_are_read_by_number_and_decompressed(tmp_path: Path) -> None:
    for number, ending in ((100000, ".gz"), (2, ".gz"), (99999, "")):
        text = f"{number}\n".encode()
        (tmp_path / f"part-{number:05d}{ending}").write_bytes(gzip.compress(text) if ending else text)
    (tmp_path / "_SUCCESS").write_text("{}")
    (tmp_path / "part-x").write_text("no part")
    storage = open_storage(str(tmp_path))
    names = results.part_names(storage, "here")
    assert b"".join(results.content(storage, names)) == b"2\n99999\n100000\n"


def test_no_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no part files"):
        results.part_names(open_storage(str(tmp_path)), str(tmp_path))


def source(tmp_path: Path, *texts: str) -> tuple[Storage, list[str]]:
    root = tmp_path / "source"
    root.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(texts):
        (root / f"part-{number:05d}").write_text(text)
    return open_storage(str(root)), [f"part-{n:05d}" for n in range(len(texts))]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch(tmp_path: Path) -> None:
    storage, keys = source(tmp_path, "a", "b")
    seen: list[tuple[str, int]] = []
    target = tmp_path / "deep" / "target"
    results.fetch(storage.stream, keys, str(target), b"{}", progress=lambda name, size: seen.append((name, size)))
    assert names(target) == ["_SUCCESS", "part-00000", "part-00001"]
    assert seen == [("part-00000", 1), ("part-00001", 1)]
    assert names(target.parent) == ["target"]


def test_fetch_into_an_empty_folder(tmp_path: Path) -> None:
    storage, keys = source(tmp_path, "a")
    (tmp_path / "target").mkdir()
    results.fetch(storage.stream, keys, str(tmp_path / "target"), b"{}")
    assert names(tmp_path / "target") == ["_SUCCESS", "part-00000"]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path) -> None:
    storage, keys = source(tmp_path, "a")
    with pytest.raises(StorageUnreachableError):
        results.fetch(storage.stream, [*keys, "part-00009"], str(tmp_path / "target"), b"{}")
    assert names(tmp_path) == ["source"]


def test_fetch_refuses_what_is_taken_and_overwrites_only_its_own(tmp_path: Path) -> None:
    storage, keys = source(tmp_path, "new")
    target = tmp_path / "target"
    target.mkdir()
    for name in ("part-00000", "part-00001.gz", "_SUCCESS", "notes.txt"):
        (target / name).write_text("old")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        results.fetch(storage.stream, keys, str(target), b"{}")
    assert (target / "part-00000").read_text() == "old"
    results.fetch(storage.stream, keys, str(target), b"{}", overwrite=True)
    assert names(target) == ["_SUCCESS", "notes.txt", "part-00000"]
    assert [(target / n).read_text() for n in names(target)] == ["{}", "old", "new"]


def test_two_that_replace_one_folder_do_not_mix(tmp_path: Path) -> None:
    """While one is suspended halfway, the other is refused; once resumed, the first one completes its files."""
    storage, keys = source(tmp_path, "first")
    other, _ = source(tmp_path / "other", "second")
    target = tmp_path / "target"
    target.mkdir()
    (target / "part-00000").write_text("old")
    stopped = f"""
import os, shutil, signal
from mrcelery.client import results
from mrcelery.storage import open_storage
real = shutil.rmtree
def stop(*given, **more):
    shutil.rmtree = real
    os.kill(os.getpid(), signal.SIGSTOP)
shutil.rmtree = stop
results.fetch(open_storage({storage.uri!r}).stream, {keys!r}, {str(target)!r}, b"1", overwrite=True)
"""
    with subprocess.Popen([sys.executable, "-c", stopped]) as process:
        os.waitpid(process.pid, os.WUNTRACED)
        with pytest.raises(OutputExistsError, match=r"another process is replacing what .*target holds"):
            results.fetch(other.stream, keys, str(target), b"2", overwrite=True)
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    assert [(target / name).read_text() for name in names(target)] == ["1", "first"]
    results.fetch(other.stream, keys, str(target), b"2", overwrite=True)
    assert [(target / name).read_text() for name in names(target)] == ["2", "second"]


def test_an_output_that_is_a_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputExistsError):
        results.check_free(str(tmp_path / "file"))
    results.check_free(str(tmp_path / "nothing"))
