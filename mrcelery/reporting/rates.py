"""Read rates of a job's stages: current, and mean."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from mrcelery.reporting.overview import Overview, StageView

WINDOW = 10.0
"""Seconds over which the current rate is computed: tasks report progress once a second, or only when they commit."""


class Rates(NamedTuple):
    """Records and bytes read per second; -1 if not known (yet).

    Tasks report their bytes only when they commit: the bytes of running tasks are estimated from their records.
    """

    records: float = -1.0
    bytes: float = -1.0
    mean_records: float = -1.0
    mean_bytes: float = -1.0


class Speed:
    """Computes the rates of running stages from successive overviews of a job."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], deque[tuple[float, float, float]]] = {}

    def observe(self, found: Overview) -> None:
        """Record how much a job's running stages have read."""
        for stage in found.stages:
            key = stage.step, stage.kind
            if stage.state != "running":
                self._seen.pop(key, None)
                continue
            seen = self._seen.setdefault(key, deque())
            while len(seen) > 1 and seen[1][0] < found.now - WINDOW:
                seen.popleft()
            if not seen or found.now > seen[-1][0]:
                seen.append((found.now, *read(stage)))

    def of(self, stage: StageView, now: float) -> Rates:
        """Return a stage's rates; only the mean for a stage that has succeeded."""
        seconds = (stage.ended or now) - stage.entered if stage.entered else 0.0
        records, size = read(stage)
        mean = (records / seconds, size / seconds) if seconds > 0 and records else (-1.0, -1.0)
        seen = self._seen.get((stage.step, stage.kind))
        if not seen or seen[-1][0] <= seen[0][0]:
            return Rates(-1.0, -1.0, *mean)
        first, last = seen[0], seen[-1]
        passed = last[0] - first[0]
        # The records of a failed attempt no longer count, so a sum can fall.
        return Rates(max(0.0, last[1] - first[1]) / passed, max(0.0, last[2] - first[2]) / passed, *mean)


def read(stage: StageView) -> tuple[float, float]:
    """Return the records and bytes that a stage's tasks have read so far."""
    sums = stage.sums
    per_record = sums.bytes_in / sums.records_in if sums.records_in else 0.0
    return sums.records_in + stage.reading, sums.bytes_in + stage.reading * per_record
