"""Where the command is run, and from what it reads: one case of each, without chance."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import mrcelery
from mrcelery.errors import CodecError, JobLoadError
from mrcelery.records.order import order_key
from tests.support.services import environment
from tests.support.word_count import WordCount

TEXT = "a rose is a rose\n" * 3
COUNTS = {f'"{word}"': str(count) for word, count in Counter(TEXT.split()).items()}
EXAMPLE = Path(mrcelery.__file__).parent / "examples" / "word_count.py"
SHADOWS = ["celery", "kombu", "redis", "random", "token", "queue", "json", "string", "select", "secrets", "msgspec"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in.txt").write_text(TEXT)
    (tmp_path / "words.py").write_text(EXAMPLE.read_text())
    return tmp_path


def submit(
    folder: Path, *args: str, runner: str = "local", stdin: int | None = None, **variables: str
) -> dict[str, str]:
    script = str(Path(sys.executable).parent / "mrcelery")
    done = subprocess.run(
        [script, "submit", "-q", "-r", runner, "--workers", "1", *args],
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split("\t") for line in done.stdout.splitlines())


@pytest.mark.parametrize("runner", ["local", "inline"])
def test_modules_of_the_current_folder_are_not_taken_for_others(folder: Path, runner: str) -> None:
    for name in SHADOWS:
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} is not the one that was meant')")
    assert submit(folder, "mrcelery.examples.word_count", "in.txt", runner=runner) == COUNTS
    assert submit(folder, "words.py", "in.txt", runner=runner) == COUNTS


@pytest.mark.parametrize("name", ["long" * 40, "t'm p\"é$x;*[a]#?"], ids=["long", "odd"])
def test_any_temporary_folder_will_do_and_is_left_empty(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    before = set(Path("/tmp").glob("mrcelery-local-*"))
    assert submit(folder, "words.py", "in.txt", TMPDIR=str(folder / name)) == COUNTS
    assert not list((folder / name).glob("mrcelery-local-*"))
    assert not [link for link in set(Path("/tmp").glob("mrcelery-local-*")) - before if link.is_symlink()]


@pytest.mark.parametrize("runner", ["local", "inline"])
@pytest.mark.parametrize("kind", ["fifo", "/dev/stdin", "file at /dev/stdin"])
def test_streams_are_read_once(folder: Path, runner: str, kind: str) -> None:
    if kind == "file at /dev/stdin":
        with (folder / "in.txt").open() as file:
            assert submit(folder, "words.py", "/dev/stdin", runner=runner, stdin=file.fileno()) == COUNTS
        return
    if kind == "fifo":
        os.mkfifo(folder / "fifo")
        writer = threading.Thread(target=(folder / "fifo").write_text, args=(TEXT,))
        writer.start()
        assert submit(folder, "words.py", "fifo", "in.txt", runner=runner)['"rose"'] == str(2 * TEXT.count("rose"))
        writer.join()
        return
    end, other = os.pipe()
    os.write(other, TEXT.encode())
    os.close(other)
    assert submit(folder, "words.py", "/dev/stdin", runner=runner, stdin=end) == COUNTS
    os.close(end)


def test_a_job_file_behind_a_link(folder: Path) -> None:
    (folder / "links").mkdir()
    (folder / "links" / "link.py").symlink_to(folder / "words.py")
    assert submit(folder, "links/link.py", "in.txt") == COUNTS


def test_no_home(folder: Path) -> None:
    assert submit(folder, "words.py", "in.txt", HOME="", USER="", LOGNAME="") == COUNTS


def test_relative_imports_name_the_module(folder: Path) -> None:
    package = folder / "pkg" / "inner"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "helper.py").touch()
    (package / "words.py").write_text(f"from . import helper\n{EXAMPLE.read_text()}")
    with pytest.raises(JobLoadError, match=r"give it as a module, pkg\.inner\.words, from "):
        mrcelery.run(str(package / "words.py"), str(folder / "in.txt"), runner="inline")
    assert submit(folder, "pkg.inner.words", "in.txt") == COUNTS


@pytest.mark.parametrize(
    "given",
    [
        lambda folder: {"files": folder / "in.txt"},
        lambda folder: {"files": str(folder / "in.txt")},
        lambda folder: {"py_files": [folder / "words.py"], "files": [folder / "in.txt"]},
        lambda folder: {"storage": folder / "storage", "output": folder / "out"},
    ],
)
@pytest.mark.parametrize("by_file", [True, False])
def test_paths_are_taken_wherever_a_path_is(
    folder: Path, given: Callable[[Path], dict[str, object]], by_file: bool
) -> None:
    job = folder / "words.py" if by_file else WordCount
    options: dict[str, object] = {"runner": "inline", **given(folder)}
    with mrcelery.run(job, [folder / "in.txt"], **options) as done:  # type: ignore[arg-type]
        assert dict(done)["rose"] == TEXT.count("rose")


@pytest.mark.parametrize("zone", [ZoneInfo("UTC"), ZoneInfo("Etc/GMT+3"), timezone(timedelta(hours=2)), UTC], ids=str)
def test_zones_with_one_offset_are_keys(zone: ZoneInfo | timezone) -> None:
    key = datetime(2020, 1, 1, tzinfo=zone)
    assert order_key(key) == order_key(key.astimezone(UTC))


def test_zones_with_rules_are_not() -> None:
    with pytest.raises(CodecError, match="as its clock goes back"):
        order_key(datetime(2020, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")))
