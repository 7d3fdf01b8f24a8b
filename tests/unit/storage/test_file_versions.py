"""Which files are what was planned, on a real file system."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcelery.errors import ChangedInputError
from mrcelery.storage.base import Planned
from mrcelery.storage.file_versions import EDGE, FileVersion, checked, growing, tag_of

LINES = b"".join(b"line %d\n" % i for i in range(3000))


def plan(path: Path, since: float = 0.0) -> Planned:
    found = path.stat()
    return Planned(growing(str(path), tag_of(found), since), found.st_size)


def read(path: Path, planned: Planned, start: int = 0, end: int | None = None) -> bytes:
    with path.open("rb", buffering=0) as file:
        return b"".join(checked(file, str(path), planned, start, end, 1000))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_bytes(LINES)
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    return path


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more\n")


def rewrite(path: Path) -> None:
    path.write_bytes(LINES.replace(b"1", b"2"))


def rewrite_longer(path: Path) -> None:
    path.write_bytes(LINES.replace(b"1", b"11"))


def change_begin_and_append(path: Path) -> None:
    path.write_bytes(b"LINE" + LINES[4:] + b"more\n")


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(LINES.replace(b"1", b"2"))
    other.replace(path)


def replace_by_a_longer_one_of_the_same_begin(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(LINES + b"more\n")
    other.replace(path)


def shrink(path: Path) -> None:
    os.truncate(path, 100)


def test_a_file_that_stayed(file: Path) -> None:
    planned = plan(file)
    assert read(file, planned) == LINES
    assert read(file, planned, 17, 4000) == LINES[17:4000]
    assert read(file, Planned("", len(LINES))) == LINES  # planned by a storage that knows no tags
    os.chmod(file, 0o600)
    os.link(file, file.with_name("link"))
    assert read(file, planned) == LINES


@pytest.mark.parametrize("times", [1, 3])
def test_a_file_that_grows_is_read_as_it_was(file: Path, times: int) -> None:
    planned = plan(file)
    for _ in range(times):
        append(file)
    assert read(file, planned) == LINES
    assert read(file, Planned("", len(LINES))) == LINES


def test_a_file_that_grows_while_it_is_read(file: Path) -> None:
    planned = plan(file)
    found = b""
    with file.open("rb", buffering=0) as opened:
        for chunk in checked(opened, str(file), planned, 0, None, 1000):
            found += chunk
            append(file)
    assert found == LINES


def test_the_last_line_that_was_not_complete_is_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntw")
    planned = plan(path)
    append(path)
    assert read(path, planned) == b"one\ntw"


CHANGES = [
    rewrite,
    rewrite_longer,
    change_begin_and_append,
    replace,
    replace_by_a_longer_one_of_the_same_begin,
    shrink,
    Path.touch,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed(file: Path, change: Callable[[Path], None]) -> None:
    planned = plan(file)
    change(file)
    with pytest.raises(ChangedInputError, match=r"it had 28890 bytes, written 2023-11-14 22:13:20\.123456789 UTC") as e:
        read(file, planned)
    assert not e.value.retryable
    assert e.value.file == str(file)


@pytest.mark.parametrize("change", [rewrite, rewrite_longer, change_begin_and_append, shrink])
def test_a_file_that_changes_while_it_is_read(file: Path, change: Callable[[Path], None]) -> None:
    planned = plan(file)
    with file.open("rb", buffering=0) as opened:
        chunks = checked(opened, str(file), planned, 0, None, 1000)
        assert next(chunks) == LINES[:1000]
        change(file)
        with pytest.raises(ChangedInputError, match="has changed since it was planned"):
            next(chunks)


def test_an_old_file_that_grows_is_refused_as_it_could_have_been_written_anew(file: Path) -> None:
    planned = plan(file, since=1_800_000_000.0)
    assert planned.tag == tag_of(file.stat())
    assert read(file, planned) == LINES
    append(file)
    with pytest.raises(ChangedInputError):
        read(file, planned)


def test_a_file_that_may_not_grow(file: Path) -> None:
    planned = plan(file)
    append(file)
    with pytest.raises(ChangedInputError, match="now has 28895 bytes"):
        FileVersion("in", str(file), planned, may_grow=False).check()


def test_inodes_that_differ_between_machines_do_not_matter_for_a_file_that_stayed(file: Path) -> None:
    size, time, _, edges = plan(file).tag.split("-")
    assert read(file, Planned(f"{size}-{time}-7-{edges}", len(LINES))) == LINES


@pytest.mark.parametrize("grain", [100, 1_000, 1_000_000, 1_000_000_000])
def test_times_that_a_file_system_rounds(file: Path, grain: int) -> None:
    planned = plan(file)
    rounded = file.stat().st_mtime_ns // grain * grain
    os.utime(file, ns=(1, rounded))
    assert read(file, planned) == LINES
    os.utime(file, ns=(1, rounded - grain))
    with pytest.raises(ChangedInputError):
        read(file, planned)


@pytest.mark.parametrize("size", [0, 1, EDGE - 1, EDGE, EDGE + 1, 2 * EDGE, 2 * EDGE + 1])
def test_edges_of_files_of_any_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * size)
    planned = plan(path)
    append(path)
    assert read(path, planned) == b"x" * size
    if size:
        path.write_bytes(b"x" * (size - 1) + b"y" + b"more\n")
        with pytest.raises(ChangedInputError):
            read(path, planned)


def test_a_time_before_1970(file: Path) -> None:
    os.utime(file, ns=(1, -5))
    planned = plan(file, since=-1.0)
    assert read(file, planned) == LINES
    append(file)
    assert read(file, planned) == LINES
