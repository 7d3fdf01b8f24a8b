"""The ceiling counts what a process holds, and stops code that holds too much."""

from __future__ import annotations

import gc
import logging
import mmap
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from mrcelery.task import memory_limit
from mrcelery.task.memory_limit import ceiling, lifted, usage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is a ceiling on Linux only")
MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def no_thread_left() -> Iterator[None]:
    """Stop the watch's thread, since later tests in this process may fork it."""
    yield
    if memory_limit._watch is not None:
        memory_limit._watch.close()
        memory_limit._watch = None


@pytest.fixture
def no_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a low ceiling easy to hit: what other tests have left or freed must not add room."""
    gc.collect()
    memory_limit.freed()
    monkeypatch.setattr(memory_limit, "SLACK", 0)


def pieces(most: int) -> Iterator[bytearray]:
    """Yield pieces of memory up to so many bytes, and then give the watch time to look."""
    for _ in range(most // MIB):
        yield bytearray(MIB)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        time.sleep(0.001)


def test_an_attempt_that_holds_too_much_meets_a_memory_error(no_slack: None) -> None:
    kept: list[bytearray] = []
    with pytest.raises(MemoryError), ceiling(16 * MIB):
        kept.extend(pieces(64 * MIB))
    kept.clear()
    with ceiling(16 * MIB):  # nothing is left of the other attempt
        assert sum(map(len, [bytearray(MIB)])) == MIB


def test_address_space_that_is_not_touched_does_not_count() -> None:
    with ceiling(MIB), mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapped:
        mapped[0] = 1


def test_address_space_may_grow_while_nothing_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "LATEST", 0.001)
    mapped: list[mmap.mmap] = []
    until = time.monotonic() + 20
    with ceiling(MIB):
        while len(mapped) < 8 and time.monotonic() < until:
            try:
                mapped.append(mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
            except OSError:
                time.sleep(0.001)  # until the watch has looked
    assert len(mapped) == 8
    for one in mapped:
        one.close()


def test_pages_of_files_do_not_count(no_slack: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "LATEST", 0.001)
    path = tmp_path / "file"
    path.write_bytes(bytes(32 * MIB))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, ceiling(4 * MIB):
        before = usage()
        assert not any(mapped[at] for at in range(0, len(mapped), mmap.PAGESIZE))
        time.sleep(0.01)
        after = usage()
        assert before is not None
        assert after is not None
        assert after.held - before.held < 4 * MIB


def test_garbage_does_not_count_where_the_collector_is_off(no_slack: None) -> None:
    gc.disable()
    try:
        with ceiling(32 * MIB):
            for _ in range(96):
                cycle: list[object] = [bytearray(MIB)]
                cycle.append(cycle)
                time.sleep(0.002)  # no faster than the watch
    finally:
        gc.enable()


@pytest.mark.parametrize("before", [0, 400])
def test_what_an_attempt_has_freed_is_no_room_for_the_next(no_slack: None, before: int) -> None:
    held = bytearray(before * MIB)
    with ceiling(MIB):
        del held
    with ceiling(256 * MIB):
        kept = [b"x" * 50_000 for _ in range(3_000)]  # zeros might not be written, and would take nothing then
        kept = kept[::100]  # what is left keeps the allocator from returning the rest by itself
    with pytest.raises(MemoryError), ceiling(32 * MIB):
        kept.extend(b"x" * 50_000 for _ in range(1_500))
        list(pieces(0))


def test_one_allocation_that_is_far_too_large_fails_at_once() -> None:
    with ceiling(MIB), pytest.raises(MemoryError):
        bytearray(20 << 30)


def test_the_error_can_be_reported_above_the_ceiling() -> None:
    with ceiling(MIB), lifted(), mmap.mmap(-1, 4 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapped:
        assert len(mapped) == 4 << 30


SWALLOWS = """
    from mrcelery.task import memory_limit
    memory_limit.SLACK = 0
    memory_limit.RUNAWAY = 16 << 20
    kept: list[bytearray] = []
    with memory_limit.ceiling(16 << 20):
        for _ in range(1024):
            try:
                while True:
                    kept.append(bytearray(1 << 20))
            except MemoryError:
                pass
"""
BUSY = """
    import time
    from mrcelery.task import memory_limit
    memory_limit.SLACK = 0
    memory_limit.PATIENCE, memory_limit.CPU_PATIENCE, memory_limit.BLOCKED = 0.05, 0.0, 0.05
    with memory_limit.ceiling(16 << 20):
        try:
            kept = bytearray(64 << 20)
            time.sleep(60)
            raise AssertionError("it was left to itself")
        finally:
            time.sleep(60)
"""


@pytest.mark.parametrize("source", [SWALLOWS, BUSY])
def test_a_process_that_does_not_heed_the_error_is_ended(source: str) -> None:
    ran = subprocess.run([sys.executable, "-c", dedent(source)], check=False, timeout=60)
    assert ran.returncode == memory_limit.EXIT_CODE


def test_without_proc_there_is_no_ceiling_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_limit, "STATUS", str(tmp_path / "status"))
    monkeypatch.setattr(memory_limit, "_warned", False)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with ceiling(MIB), mmap.mmap(-1, 4 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
                pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without a memory ceiling" in caplog.text


def test_a_system_that_does_not_tell_anonymous_memory_has_no_ceiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmRSS:\t   64296 kB\nVmData:\t   64296 kB\n")
    monkeypatch.setattr(memory_limit, "STATUS", str(status))
    assert usage() is None


def test_memory_that_was_swapped_out_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nRssAnon:\t   20 kB\nRssFile:\t   38760 kB\nVmSwap:\t   30 kB\n")
    monkeypatch.setattr(memory_limit, "STATUS", str(status))
    assert usage() == (50 << 10, 0)
