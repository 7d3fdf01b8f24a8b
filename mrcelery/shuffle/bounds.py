"""Total order: the partitions' bounds, from weighted quantiles of the keys sampled in the runs' indexes.

Similar to Hadoop's ``TotalOrderPartitioner`` and TeraSort, but the sample is taken from the mappers' output and not
from the input, which is read only once. Run by the barrier, in memory that does not grow with the number of runs; the
same runs give the same bounds, however often this is run.
"""

from __future__ import annotations

import struct
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, islice
from typing import Any

from mrcelery.errors import CorruptDataError, DamagedPartError
from mrcelery.records.order import argsort, starts_of_groups
from mrcelery.schema.decoders import decoder
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Commit, Part
from mrcelery.shuffle.index import Index, decode_index
from mrcelery.shuffle.part_lists import PartLists
from mrcelery.shuffle.skew import Skew
from mrcelery.storage.base import Storage
from mrcelery.storage.transfers import carried

RECORD_BYTES = 32
"""Weight in bytes of a record in addition to its own size. Bytes alone would not suffice: thousands of equal records
can be a block of a few bytes; nor would records alone, as some are a thousand times as large as others.
"""

MOST_SAMPLES = 1 << 16
"""Most sampled keys of all runs; beyond that, neighbors are joined to half as many."""
MOST_SAMPLE_BYTES = 32 << 20
"""Approximate limit on the encoded bytes of the sampled keys."""

THREADS = 16
"""Indexes read at the same time."""

_SIZES = struct.Struct("<II")


class Sample:
    """A weighted sample of keys, thinned out evenly when it becomes too large."""

    def __init__(self, most: int = MOST_SAMPLES, most_bytes: int = MOST_SAMPLE_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._keys: list[Any] = []
        self._weights: list[float] = []
        self._bytes = 0

    def add(self, index: Index, size: int) -> None:
        """Add the keys of a run's index of ``size`` bytes."""
        keys, weights = index.sample(RECORD_BYTES)
        self._keys += keys
        self._weights += weights
        self._bytes += size
        while len(self._keys) > self._most or (self._bytes > self._most_bytes and len(self._keys) > 1):
            before = len(self._keys)
            self._join(sum(self._weights) / (min(before, self._most) // 2 + 1))
            self._bytes = self._bytes * len(self._keys) // before

    def _join(self, least: float) -> None:
        """Sort, and let one key represent its equals and neighbors that weigh about ``least`` together."""
        keys: list[Any] = []
        weights: list[float] = []
        distinct = list(self._distinct())
        start, weight = 0, 0.0
        for end, (_, more) in enumerate(distinct, 1):
            weight += more
            if weight >= least or end == len(distinct):
                # The middle one: with the first one, weight would move to smaller keys each time.
                upto = list(accumulate(w for _, w in distinct[start:end]))
                keys.append(distinct[start + bisect_left(upto, upto[-1] / 2)][0])
                weights.append(weight)
                start, weight = end, 0.0
        self._keys, self._weights = keys, weights

    def _distinct(self) -> Iterator[tuple[Any, float]]:
        """Return the keys in order, each once, with their weights."""
        order = argsort(self._keys)
        keys = [self._keys[i] for i in order]
        if not keys:
            return
        starts = [0, *starts_of_groups(keys)]
        for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
            yield keys[start], sum(self._weights[i] for i in order[start:end])

    def cuts(self, n: int) -> list[Any]:
        """Choose the keys at which partitions 1 to n - 1 begin, in order; fewer if there are fewer keys.

        Each partition gets its share of the remaining weight, so that one heavy key does not starve those after it.
        """
        distinct = list(self._distinct())
        below = [0.0, *accumulate(weight for _, weight in distinct)]  # weight below each key, then the total weight
        total, at = below[-1], 0
        cuts: list[Any] = []
        for left in range(n, 1, -1):
            # Leave a key for each remaining partition, if there are enough.
            last = max(at + 1, len(distinct) - left + 1)
            if at + 1 >= len(distinct):
                break
            target = below[at] + (total - below[at]) / left
            near = bisect_left(below, target, at + 1, last)
            if near - 1 > at and target - below[near - 1] <= below[near] - target:
                near -= 1
            cuts.append(distinct[near][0])
            at = near
        return cuts


class Ranges:
    """The runs of a step's map tasks, added in order of task; a context manager.

    Their indexes are kept in a file under the folder ``scratch``, and read back from it.
    """

    def __init__(self, scratch: str) -> None:
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # __exit__ closes it
        self._sample = Sample()

    def __enter__(self) -> Ranges:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def gather(self, storage: Storage, commits: Iterator[Commit]) -> Iterator[Commit]:
        """Pass the commits on one by one, while the index of each one's run is read from storage and added.

        Raises :class:`mrcelery.errors.DamagedPartError` for a run that is gone, or whose index is read back damaged
        twice.
        """

        def read(run: Part) -> bytes:
            try:
                return storage.read(run.key, run.end, run.bytes)
            except FileNotFoundError:
                message = f"{run.key} is gone, and the job still needs it: submit the job again"
                raise DamagedPartError(message, run) from None

        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            # Hold only as many indexes in memory as are read at the same time.
            while portion := list(islice(commits, THREADS)):
                runs = [run for commit in portion for run in commit.parts]
                for run, index in zip(runs, pool.map(carried(read), runs), strict=True):
                    try:
                        self.add(run, index)
                    except CorruptDataError:
                        self._add_again(run, read(run))
                yield from portion

    def _add_again(self, run: Part, index: bytes) -> None:
        try:
            self.add(run, index)
        except CorruptDataError as e:
            raise DamagedPartError(str(e), run) from None

    def add(self, run: Part, index: bytes) -> None:
        """Add a run, given as in its commit, with the bytes of its index.

        Raises :class:`mrcelery.errors.CorruptDataError` if these are damaged.
        """
        self._sample.add(decode_index(index, run.key), len(index))
        head = encode(run)
        self._file.write(_SIZES.pack(len(head), len(index)) + head + index)

    def divide(self, n: int, lists: PartLists, skew: Skew) -> list[Any]:
        """Assign to each of ``n`` partitions the blocks of each run that can contain its keys.

        Returns the keys at which the partitions begin, from partition 1 on.
        """
        cuts = self._sample.cuts(n)
        for run, index in self._runs():
            bounds = [0, *map(index.below, cuts), len(index.keys)]
            before = [index.before(at) for at in bounds]
            for r in range(len(cuts) + 1):
                skew.add(r, before[r + 1][0] - before[r][0], before[r + 1][1] - before[r][1])
                start, end, records = index.span(bounds[r], bounds[r + 1])
                if records:
                    lists.add(Part(r, run.key, end - start, records, 0, start, end))
        return cuts

    def _runs(self) -> Iterator[tuple[Part, Index]]:
        self._file.seek(0)
        while head := self._file.read(_SIZES.size):
            part_bytes, index_bytes = _SIZES.unpack(head)
            run = decoder(Part)(self._file.read(part_bytes))
            yield run, decode_index(self._file.read(index_bytes), run.key)
