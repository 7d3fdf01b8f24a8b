"""Declared reducers on Arrow columns: accumulators in arrays, keys grouped by Arrow.

An accumulator that is one number is stored in an array of numbers; those of :class:`mrcelery.ops.Mean` and
:class:`mrcelery.ops.Variance` are stored in structs whose fields are the items of the list that the op itself would
make. If arrays cannot give the same results as Python (missing values, integers that might exceed 64 bits, NaN),
:class:`UnfitError` is raised, and the op works on Python objects.
"""

from __future__ import annotations

from typing import Any, Protocol

from mrcelery import ops
from mrcelery.records.columns import Column, as_list


class UnfitError(Exception):
    """These values need Python's arithmetic."""


class Fold(Protocol):
    """An op on arrays; both functions return distinct keys, in any order, and raise :class:`UnfitError`."""

    def create(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Make the accumulators of values by key."""
        ...

    def merge(self, keys: Any, accumulators: Any) -> tuple[Any, Any]:
        """Merge the accumulators of each key into one."""
        ...

    def result(self, accumulators: Any) -> Column:
        """Turn the accumulators into the reducer's results for each key."""
        ...


def fold_of(op: ops.Op | None) -> Fold | None:
    """Return the op's implementation on arrays; None if it has none."""
    kind = type(op)
    if kind is ops.Sum:
        return _Sum()
    if kind is ops.Count:
        return _Count()
    if kind in (ops.Min, ops.Max):
        return _Extreme("min" if kind is ops.Min else "max")
    if kind is ops.Mean:
        return _Mean()
    if isinstance(op, ops.Variance) and kind in (ops.Variance, ops.StdDev):
        return _Variance(op)
    return None


def accumulators(column: Column) -> list[Any]:
    """Return the accumulators in the op's own form."""
    if type(column) is list:  # always the case in an installation without pyarrow
        return column
    import pyarrow as pa

    found = as_list(column)
    return [list(fields.values()) for fields in found] if pa.types.is_struct(column.type) else found


def _grouped(keys: Any, columns: dict[str, tuple[Any, str]]) -> tuple[Any, list[Any]]:
    """Aggregate columns, each by a function of Arrow's, for the distinct keys."""
    import pyarrow as pa

    table = pa.table({"key": keys, **{name: column for name, (column, _) in columns.items()}})
    # One thread: the order in which floats are added must not change from run to run.
    grouped = table.group_by("key", use_threads=False).aggregate([(name, how) for name, (_, how) in columns.items()])
    found = grouped.combine_chunks()
    arrays = [found[f"{name}_{how}"] for name, (_, how) in columns.items()]
    return _one(found["key"]), [_one(array) for array in arrays]


def _one(column: Any) -> Any:
    import pyarrow as pa

    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _numbers(values: Any) -> Any:
    """Return values as int64 or float64. Raises :class:`UnfitError` for other types and missing values."""
    import pyarrow as pa

    if values.null_count:
        raise UnfitError
    if values.type in (pa.int64(), pa.float64()):
        return values
    if pa.types.is_boolean(values.type):
        return values.cast(pa.int64())
    raise UnfitError


def _summable(values: Any) -> Any:
    """Return the numbers. Raises :class:`UnfitError` if a sum of any of them might overflow int64."""
    import pyarrow as pa
    from pyarrow import compute

    numbers = _numbers(values)
    if numbers.type == pa.int64() and len(numbers):
        ends = compute.min_max(numbers).as_py()
        if max(abs(ends["min"]), abs(ends["max"])) * len(numbers) >= 1 << 63:
            raise UnfitError
    return numbers


class _Sum:
    def create(self, keys: Any, values: Any) -> tuple[Any, Any]:
        keys, (sums,) = _grouped(keys, {"value": (_summable(values), "sum")})
        return keys, sums

    merge = create

    def result(self, accumulators: Any) -> Column:
        return accumulators


class _Count:
    def create(self, keys: Any, values: Any) -> tuple[Any, Any]:
        import pyarrow as pa

        keys, (counts,) = _grouped(keys, {"key": (keys, "count")})
        return keys, counts.cast(pa.int64())

    def merge(self, keys: Any, accumulators: Any) -> tuple[Any, Any]:
        return _Sum().merge(keys, accumulators)

    def result(self, accumulators: Any) -> Column:
        return accumulators


class _Extreme:
    def __init__(self, how: str) -> None:
        self._how = how

    def create(self, keys: Any, values: Any) -> tuple[Any, Any]:
        import numpy as np
        import pyarrow as pa

        numbers = _numbers(values)
        if pa.types.is_boolean(values.type):
            raise UnfitError  # the result must stay a bool
        if numbers.type == pa.float64():
            floats = numbers.to_numpy()
            # Arrow skips NaN, and of 0.0 and -0.0, which are equal, the first one has to stay.
            if np.isnan(floats).any() or (np.signbit(floats) & (floats == 0)).any():
                raise UnfitError
        keys, (found,) = _grouped(keys, {"value": (numbers, self._how)})
        return keys, found

    merge = create

    def result(self, accumulators: Any) -> Column:
        return accumulators


class _Mean:
    def create(self, keys: Any, values: Any) -> tuple[Any, Any]:
        numbers = _summable(values)
        keys, found = _grouped(keys, {"sum": (numbers, "sum"), "n": (numbers, "count")})
        return keys, _struct(found, ("sum", "n"))

    def merge(self, keys: Any, accumulators: Any) -> tuple[Any, Any]:
        sums, counts = accumulators.flatten()
        keys, found = _grouped(keys, {"sum": (_summable(sums), "sum"), "n": (counts, "sum")})
        return keys, _struct(found, ("sum", "n"))

    def result(self, accumulators: Any) -> Column:
        sums, counts = accumulators.flatten()
        # Python's division rounds once for large integers; Arrow would round the sum first.
        return [total / n for total, n in zip(sums.to_pylist(), counts.to_pylist(), strict=True)]


class _Variance:
    """Merges like :class:`mrcelery.ops.Variance`, for all pairs of a key at once."""

    def __init__(self, op: ops.Variance) -> None:
        self._op = op

    def create(self, keys: Any, values: Any) -> tuple[Any, Any]:
        import numpy as np
        import pyarrow as pa

        floats = _numbers(values).cast(pa.float64(), safe=False)
        ones, zeros = np.ones(len(floats), np.int64), np.zeros(len(floats))
        return self.merge(keys, _struct([pa.array(ones), floats, pa.array(zeros)], ("n", "mean", "m2")))

    def merge(self, keys: Any, accumulators: Any) -> tuple[Any, Any]:
        import numpy as np
        import pyarrow as pa

        codes = keys.dictionary_encode()
        group, distinct = codes.indices.to_numpy(), codes.dictionary
        n, mean, m2 = (field.to_numpy() for field in accumulators.flatten())

        def total(of: Any) -> Any:
            return np.bincount(group, weights=of, minlength=len(distinct)).astype(np.float64)

        counts = total(n)
        means = total(n * mean) / counts
        m2s = total(m2 + n * (mean - means[group]) ** 2)
        found = [pa.array(counts.astype(np.int64)), pa.array(means), pa.array(m2s)]
        return distinct, _struct(found, ("n", "mean", "m2"))

    def result(self, accumulators: Any) -> Column:
        fields = (field.to_pylist() for field in accumulators.flatten())
        return [self._op.result(list(one)) for one in zip(*fields, strict=True)]


def _struct(arrays: list[Any], names: tuple[str, ...]) -> Any:
    import pyarrow as pa

    return pa.StructArray.from_arrays(arrays, names=names)
