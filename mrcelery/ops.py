"""Declared reducers: what to do with the values of a key, named instead of coded.

``reducer = ops.Sum()`` in a job makes a reducer that is also its combiner. Each operation folds
values into an accumulator; two accumulators merge; the result comes out at the end. Merging is
associative, so values may be folded in any grouping; where the order of values or merges can show,
the class says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from operator import itemgetter
from typing import Any

from mrcelery.errors import CodecError
from mrcelery.records.order import argsort, check_keys, order_key, sorted_keys

__all__ = [
    "CollectList",
    "Count",
    "CountDistinct",
    "Distinct",
    "Identity",
    "Max",
    "Mean",
    "Min",
    "Op",
    "StdDev",
    "Sum",
    "TopK",
    "Variance",
]

_SLACK = 64
"""Values an accumulator may hold beyond what it must keep, so that it is tidied once for many."""


class Op:
    """A combinable reduction.

    Accumulators consist of None, bool, int, float, str, bytes, list, tuple and dict only, since they
    are stored between map and reduce. ``add`` and ``merge`` may change and return their first
    argument; the second one must not be used afterwards.
    """

    closed = False
    """Accumulators are values too: ``create`` and ``result`` change nothing that they have made."""

    def create(self, value: Any, /) -> Any:
        """Make the accumulator of one value."""
        raise NotImplementedError

    def create_many(self, value: Any, n: int, /) -> Any:
        """Make the accumulator of the same value ``n`` times, at least once."""
        acc = self.create(value)
        for _ in range(n - 1):
            acc = self.add(acc, value)
        return acc

    def add(self, acc: Any, value: Any, /) -> Any:
        """Fold one value into an accumulator, and return it."""
        return self.merge(acc, self.create(value))

    def merge(self, acc: Any, other: Any, /) -> Any:
        """Merge two accumulators of one key, the earlier values first, and return the result."""
        raise NotImplementedError

    def shrunk(self, acc: Any, /) -> Any:
        """Return the accumulator without what it need not hold; called before it is stored."""
        return acc

    def result(self, acc: Any, /) -> Any:
        """Turn the accumulator into what the reducer yields for the key."""
        return acc

    def fold(self, folded: Counter[Any], keys: list[Any], values: list[Any]) -> None:
        """Add a column of values to the accumulators of their keys, which are all hashable.

        A subclass does by columns what it can: this loop calls Python for each value.
        """
        create, add = self.create, self.add
        for key, value in zip(keys, values, strict=True):
            folded[key] = add(folded[key], value) if key in folded else create(value)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({args})"


class Identity(Op):
    """Each value as it came, in order of key: a sort. Nothing is combined, and columns stay columns."""


class Sum(Op):
    """The sum of numbers, by plain ``+``: a sum of floats depends on their order in its last digits."""

    closed = True

    def create(self, value: Any, /) -> Any:
        """Start at 0, so that bools become ints and anything but a number raises ``TypeError``."""
        return 0 + value

    def add(self, acc: Any, value: Any, /) -> Any:
        """Add with plain ``+``."""
        return acc + value

    merge = add

    def create_many(self, value: Any, n: int, /) -> Any:
        """Multiply ints; add up anything else, since a product of floats rounds otherwise."""
        return value * n if type(value) is int else super().create_many(value, n)

    def fold(self, folded: Counter[Any], keys: list[Any], values: list[Any]) -> None:
        """Add inline, without a call per value."""
        for key, value in zip(keys, values, strict=True):
            folded[key] = folded[key] + value if key in folded else 0 + value


class Count(Op):
    """How many values there are, None included."""

    def create(self, value: Any, /) -> int:
        """Count one, whatever the value."""
        return 1

    def add(self, acc: int, value: Any, /) -> int:
        """Count one more, whatever the value."""
        return acc + 1

    def merge(self, acc: int, other: int, /) -> int:
        """Add the two counts."""
        return acc + other

    def create_many(self, value: Any, n: int, /) -> int:
        """Count all ``n``."""
        return n

    def fold(self, folded: Counter[Any], keys: list[Any], values: list[Any]) -> None:
        """Count a column of keys in one call, at C speed."""
        folded.update(keys)


class Min(Op):
    """The smallest value by Python's ``<``; NaN if there is one. Of equal values the first stays."""

    closed = True

    def create(self, value: Any, /) -> Any:
        """Keep the value itself."""
        return value

    def add(self, acc: Any, value: Any, /) -> Any:
        """Take the value if it is smaller, or NaN."""
        return value if value < acc or value != value else acc

    merge = add

    def create_many(self, value: Any, n: int, /) -> Any:
        """Keep the value once."""
        return value


class Max(Op):
    """The largest value by Python's ``<``; NaN if there is one. Of equal values the first stays."""

    closed = True

    def create(self, value: Any, /) -> Any:
        """Keep the value itself."""
        return value

    def add(self, acc: Any, value: Any, /) -> Any:
        """Take the value if it is larger, or NaN."""
        return value if acc < value or value != value else acc

    merge = add

    def create_many(self, value: Any, n: int, /) -> Any:
        """Keep the value once."""
        return value


class Mean(Op):
    """The arithmetic mean of numbers, a float; exact for ints up to its one division."""

    def create(self, value: Any, /) -> list[Any]:
        """Keep ``[sum, count]``."""
        return [value, 1]

    def create_many(self, value: Any, n: int, /) -> list[Any]:
        """Multiply ints; add up anything else, since a product of floats rounds otherwise."""
        return [value * n, n] if type(value) is int else super().create_many(value, n)

    def add(self, acc: list[Any], value: Any, /) -> list[Any]:
        """Add to sum and count."""
        acc[0] += value
        acc[1] += 1
        return acc

    def merge(self, acc: list[Any], other: list[Any], /) -> list[Any]:
        """Add the sums and the counts."""
        acc[0] += other[0]
        acc[1] += other[1]
        return acc

    def result(self, acc: list[Any], /) -> Any:
        """Divide the sum by the count."""
        return acc[0] / acc[1]


class Variance(Op):
    """The variance of numbers, divided by ``n - ddof``; None if that is not positive.

    Merged as Chan, Golub and LeVeque do ("Updating formulae and a pairwise algorithm for computing
    sample variances", 1979): stable, and independent of the order except for rounding.
    """

    def __init__(self, ddof: int = 0) -> None:
        self.ddof = ddof

    def create(self, value: Any, /) -> list[Any]:
        """Keep ``[count, mean, sum of squared distances from the mean]``."""
        return [1, float(value), 0.0]

    def create_many(self, value: Any, n: int, /) -> list[Any]:
        """Keep ``n`` equal values, which lie at no distance from their mean."""
        return [n, float(value), 0.0]

    def add(self, acc: list[Any], value: Any, /) -> list[Any]:
        """Update mean and squares by one value (Welford, 1962)."""
        acc[0] += 1
        delta = value - acc[1]
        acc[1] += delta / acc[0]
        acc[2] += delta * (value - acc[1])
        return acc

    def merge(self, acc: list[Any], other: list[Any], /) -> list[Any]:
        """Combine two means and sums of squares pairwise (Chan, Golub and LeVeque, 1979)."""
        n, more = acc[0], other[0]
        delta = other[1] - acc[1]
        total = n + more
        return [total, acc[1] + delta * (more / total), acc[2] + other[2] + delta * delta * (n * more / total)]

    def result(self, acc: list[Any], /) -> float | None:
        """Divide the squares by ``n - ddof``; None if that is not positive."""
        degrees = acc[0] - self.ddof
        return acc[2] / degrees if degrees > 0 else None


class StdDev(Variance):
    """The standard deviation: the root of :class:`Variance`."""

    def result(self, acc: list[Any], /) -> float | None:
        """Return the root of the variance; None if there is no variance."""
        variance = super().result(acc)
        return None if variance is None else variance**0.5


class TopK(Op):
    """The ``k`` largest values, largest first, as a list.

    ``by`` ranks a value: a function, or the index or dict key of the item to rank by. Values of equal
    rank are ordered by themselves (what has no order, by its ``repr``), so the order in which values
    come does not show. Raises :class:`CodecError` for ranks without an order, such as NaN.
    """

    def __init__(self, k: int, by: Callable[[Any], Any] | int | str | None = None) -> None:
        if k < 1:
            raise ValueError(f"TopK keeps at least one value, not {k}")
        self.k = k
        self.by = by

    def create(self, value: Any, /) -> list[Any]:
        """Start a list of candidates."""
        return [value]

    def add(self, acc: list[Any], value: Any, /) -> list[Any]:
        """Append a candidate; cut the list back to ``k`` when it has grown to twice that and some."""
        acc.append(value)
        return acc if len(acc) < 2 * self.k + _SLACK else self.result(acc)

    def merge(self, acc: list[Any], other: list[Any], /) -> list[Any]:
        """Join the candidates; cut the list back to ``k`` when it has grown to twice that and some."""
        acc += other
        return acc if len(acc) < 2 * self.k + _SLACK else self.result(acc)

    def result(self, acc: list[Any], /) -> list[Any]:
        """Rank the candidates and return the ``k`` largest, largest first."""
        # The last first: of equal values the one that came first then ends up in front.
        values = acc[::-1]
        try:
            if self.by is None:
                check_keys(values)
                order = argsort(values)
            else:
                by = self.by if callable(self.by) else itemgetter(self.by)
                order = argsort([(order_key(by(value)), _tie(value)) for value in values])
        except CodecError as e:
            raise CodecError(f"TopK cannot rank a value: {e}") from None
        return [values[i] for i in reversed(order[-self.k :])]


def _tie(value: Any) -> tuple[Any, ...]:
    try:
        return order_key(value)
    except CodecError:
        return (9, repr(value))


class Distinct(Op):
    """The different values in order, as a list that must fit in memory. Of equal values the first stays."""

    def create(self, value: Any, /) -> list[Any]:
        """Start a list of the values met."""
        return [value]

    def create_many(self, value: Any, n: int, /) -> list[Any]:
        """Keep the value once."""
        return [value]

    def add(self, acc: list[Any], value: Any, /) -> list[Any]:
        """Append the value; repeats go when the list has doubled."""
        return self.merge(acc, [value])

    def merge(self, acc: list[Any], other: list[Any], /) -> list[Any]:
        """Join the lists; repeats go when the joined list has doubled."""
        before = len(acc)
        acc += other
        # Where the length has doubled, or about: to look for repeats each time would cost more than they do.
        if len(acc) > _SLACK and len(acc).bit_length() > before.bit_length():
            return _unique(acc)
        return acc

    def fold(self, folded: Counter[Any], keys: list[Any], values: list[Any]) -> None:
        """Append to each key's list; repeats go when the accumulator is shrunk."""
        lists: dict[Any, list[Any]] = folded  # type: ignore[assignment]
        find = lists.get
        for key, value in zip(keys, values, strict=True):
            acc = find(key)
            if acc is None:
                lists[key] = [value]
            else:
                acc.append(value)

    def shrunk(self, acc: list[Any], /) -> list[Any]:
        """Drop repeats, so that none is stored."""
        return _unique(acc) if len(acc) > 1 else acc

    def result(self, acc: list[Any], /) -> Any:
        """Sort the different values. Raises :class:`CodecError` for values without an order."""
        try:
            return sorted_keys(_unique(acc))
        except CodecError as e:
            raise CodecError(f"Distinct cannot order a value: {e}") from None


def _unique(values: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(values))
    except TypeError:  # lists among them
        first: dict[Any, Any] = {}
        for value in values:
            first.setdefault(order_key(value), value)
        return list(first.values())


class CountDistinct(Distinct):
    """How many different values there are, exactly; they must fit in memory."""

    def result(self, acc: list[Any], /) -> int:
        """Count the different values."""
        return len(_unique(acc))


class CollectList(Op):
    """All values as a list that must fit in memory, in the order in which they come; the first ``limit`` of them."""

    def __init__(self, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"CollectList keeps at least one value, not {limit}")
        self.limit = limit

    def create(self, value: Any, /) -> list[Any]:
        """Start a list."""
        return [value]

    def add(self, acc: list[Any], value: Any, /) -> list[Any]:
        """Append the value, up to ``limit``."""
        if self.limit is None or len(acc) < self.limit:
            acc.append(value)
        return acc

    def merge(self, acc: list[Any], other: list[Any], /) -> list[Any]:
        """Append the later list to the earlier one, up to ``limit``."""
        acc += other if self.limit is None else other[: self.limit - len(acc)]
        return acc
