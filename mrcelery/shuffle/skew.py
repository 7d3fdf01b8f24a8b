"""How evenly a step's partitions are filled, as counters: uneven partitions make a reduce stage slow."""

from __future__ import annotations

from statistics import median_low


class Skew:
    """Sizes of a step's partitions; with the range partitioner estimates, from the runs' indexes."""

    def __init__(self, partitions: int) -> None:
        self._records = [0] * partitions
        self._bytes = [0] * partitions

    def add(self, partition: int, records: int, size: int) -> None:
        """Count the records and bytes that a map task left for a partition."""
        self._records[partition] += records
        self._bytes[partition] += size

    def counters(self) -> dict[str, int]:
        """Return the group of counters; empty for one partition or no records, because nothing can be uneven then.

        ``largest to mean, percent`` is by records: 100 if all partitions are equal, R x 100 if one has all records.
        """
        records, sizes, n = self._records, self._bytes, len(self._records)
        if n < 2 or not any(records):
            return {}
        return {
            "partitions": n,
            "empty partitions": records.count(0),
            "records, largest partition": max(records),
            "records, median partition": median_low(records),
            "bytes, largest partition": max(sizes),
            "bytes, median partition": median_low(sizes),
            "largest to mean, percent": max(records) * n * 100 // sum(records),
        }
