"""User code record by record: what is marked as in hand meanwhile, and what is never given to it again."""

from __future__ import annotations

import json
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery import MRJob
from mrcelery.schema.structs import Extent, Losses, Split
from mrcelery.storage import open_storage
from mrcelery.task import skipping
from mrcelery.task.bad_records import BadRecords, RecordMarker, marker_path
from mrcelery.task.mapper import run_map
from tests.support.stages import make_task

LINES = ["a", "b", "c", "d"]

REASON = "its process ended by signal 11 (SIGSEGV)"


def in_hand(scratch: Path) -> tuple[int, int]:
    """The first record that is marked as in hand, and how many."""
    first, count = struct.unpack("<qq", Path(marker_path(str(scratch), os.getpid())).read_bytes())
    return first, count


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Maps :data:`LINES` with a job, whose process died with these records in hand before; what was skipped."""

    def run(job: type[MRJob], *deaths: tuple[int, int]) -> list[dict[str, Any]]:
        root = f"memory://{secrets.token_hex(8)}"
        storage = open_storage(root)
        data = "".join(f"{line}\n" for line in LINES).encode()
        storage.write("in", data)
        task = make_task(job([]), root, "map", 0, 1, str(tmp_path), 1 << 20)
        lost, marker = Losses(reason=REASON, deaths=deaths), RecordMarker(str(tmp_path))
        task.bad = BadRecords(task.id, task.attempt, limit=4, scratch=str(tmp_path), lost=lost, marker=marker)
        try:
            run_map(task, Split(0, (Extent(f"{root}/in", 0, len(data), len(data)),)))
            assert in_hand(tmp_path) == (0, 0)
            key = task.bad.write(storage)
        finally:
            task.bad.close()
        return [json.loads(line) for line in storage.read(key).splitlines()] if key else []

    return run


def test_each_record_is_marked_while_user_code_has_it(run: Run, tmp_path: Path) -> None:
    seen: list[tuple[str, tuple[int, int]]] = []

    class Job(MRJob):
        def mapper(self, _: None, line: str) -> Iterator[tuple[str, int]]:
            seen.append((line, in_hand(tmp_path)))
            yield line, 1

    assert run(Job, (2, 1)) == []  # once may be chance
    assert seen == [("a", (0, 1)), ("b", (1, 1)), ("c", (2, 1)), ("d", (3, 1))]


def test_a_record_that_killed_twice_is_given_to_nobody(run: Run) -> None:
    seen: list[str] = []

    class Job(MRJob):
        def mapper(self, _: None, line: str) -> Iterator[tuple[str, int]]:
            seen.append(line)
            yield line, 1

    (skipped,) = run(Job, (2, 1), (2, 1))
    assert seen == ["a", "b", "d"]
    assert (skipped["record"], skipped["offset"]) == ("'c'", 4)
    assert skipped["error"] == f"the record killed its process twice: {REASON}"


def test_a_batch_in_which_a_process_died_is_given_in_halves(run: Run, tmp_path: Path) -> None:
    seen: list[tuple[list[str], tuple[int, int]]] = []

    class Job(MRJob):
        BATCH = "list"

        def mapper_batch(self, batch: list[str]) -> Iterator[tuple[str, int]]:
            seen.append((batch, in_hand(tmp_path)))
            yield "lines", len(batch)

    run(Job)
    assert seen == [(["a", "b", "c", "d"], (0, 4))]
    seen.clear()
    assert run(Job, (2, 2)) == []
    assert seen == [(["a", "b"], (0, 2)), (["c"], (2, 1)), (["d"], (3, 1))]
    seen.clear()
    assert [one["record"] for one in run(Job, (2, 1), (2, 1))] == ["'c'"]
    assert seen == [(["a", "b"], (0, 2)), (["d"], (3, 1))]


def test_a_record_whose_key_cannot_be_shuffled_is_skipped(run: Run) -> None:
    """Where it is at hand; the shuffle would find it among many."""

    class Job(MRJob):
        def mapper(self, _: None, line: str) -> Iterator[tuple[Any, int]]:
            yield ({line} if line == "b" else line), 1

        def reducer(self, key: str, values: Iterator[int]) -> Iterator[tuple[str, int]]:
            yield key, sum(values)

    (skipped,) = run(Job)
    assert skipped["record"] == "'b'"
    assert "set" in skipped["error"]


@pytest.mark.parametrize(("error", "times"), [(MemoryError, 4), (ValueError, 0)])
def test_memory_that_ends_is_given_back_before_anything_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: type[Exception], times: int
) -> None:
    given: list[None] = []
    monkeypatch.setattr(skipping, "give_way", lambda: given.append(None))

    class Job(MRJob):
        def mapper(self, _: None, line: str) -> Iterator[tuple[str, int]]:
            raise error(line)
            yield

    assert len(run(Job)) == 4
    assert len(given) == times
