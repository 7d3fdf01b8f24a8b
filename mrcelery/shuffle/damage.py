"""A damaged or missing part, and the task that wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from mrcelery.errors import CorruptDataError, DamagedPartError
from mrcelery.schema.structs import Kind, Part
from mrcelery.schema.task_id import TaskId

_TASK = re.compile(r"(?:.*/)?jobs/([^/]+)/step-(\d+)/(map|reduce)-(\d+)/[^/]+")


def writer(part: Part) -> TaskId:
    """Return the task that wrote a part, from the part's key."""
    match = _TASK.fullmatch(part.key)
    assert match is not None, part.key
    return TaskId(match[1], int(match[2]), cast("Kind", match[3]), int(match[4]))


@contextmanager
def damage(part: Part) -> Iterator[None]:
    """Turn an error about damaged or missing bytes into one that names the part."""
    try:
        yield
    except (CorruptDataError, FileNotFoundError) as e:
        what = "is gone" if isinstance(e, FileNotFoundError) else f"is damaged ({e})"
        raise DamagedPartError(f"{part.key} {what}: submit the job again", part) from e
