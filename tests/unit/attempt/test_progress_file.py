"""Progress marks: what one process writes another reads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mrcelery.attempt.progress_file import ProgressFile, last_progress, progress_path, records_read
from mrcelery.schema.task_id import TaskId


def test_a_mark_tells_of_the_last_progress(tmp_path: Path) -> None:
    path = progress_path(str(tmp_path), TaskId("job", 0, "map", 3), os.getpid())
    assert last_progress(path) == 0.0
    before = time.monotonic()
    mark = ProgressFile(path)
    first = last_progress(path)
    assert before <= first <= time.monotonic()
    mark.touch()
    assert last_progress(path) > first
    mark.close()
    assert os.listdir(tmp_path / "alive") == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(mark._file)


def test_a_status_forgets_no_records(tmp_path: Path) -> None:
    """``set_status`` knows of none, and Flower shows how many there were."""
    path = progress_path(str(tmp_path), TaskId("job", 0, "map", 3), os.getpid())
    mark = ProgressFile(path)
    mark.touch(7)
    mark.touch()
    assert records_read(path) == 7
    mark.close()


def test_nobody_else_may_touch_a_mark(tmp_path: Path) -> None:
    """It keeps an attempt from being killed."""
    path = Path(progress_path(str(tmp_path), TaskId("job", 0, "map", 3), os.getpid()))
    mark = ProgressFile(str(path))
    assert (path.parent.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    mark.close()


def test_a_mark_whose_file_user_code_closed(tmp_path: Path) -> None:
    path = progress_path(str(tmp_path), TaskId("job", 0, "map", 3), 1)
    mark = ProgressFile(path)
    os.close(mark._file)
    mark.touch()
    mark.close()
    assert last_progress(path) == 0.0


def test_what_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1")
    assert last_progress(str(tmp_path / "short")) == 0.0
