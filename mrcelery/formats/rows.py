"""Records as rows of named columns, shared by the output formats with columns.

A dict under the key None is a row, its fields the columns; under another key the key is an additional column ``key``
before them. Any other value is the column ``value``, its key, if it is not None, ``key``.

The first record of a part file sets its columns: a later dict may lack some of them, which gives None there, and may
not have others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from mrcelery.errors import CodecError
from mrcelery.formats.base import all_none
from mrcelery.records.columns import Column, as_list


class Columns:
    """The columns of one part file; ``given`` names them before the first record."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        self.names: tuple[str, ...] = tuple(given)
        self._given = bool(given)
        self._keyed = self._dicts = self._known = False
        self._fields: tuple[str, ...] = ()

    def take(self, keys: Column, values: Column) -> list[Column]:
        """Turn a block of pairs, at least one, into columns in the order of ``names``; Arrow arrays stay arrays.

        Raises :class:`CodecError` for a record that does not fit them.
        """
        if not self._known:
            self._learn(as_list(keys[:1])[0], as_list(values[:1])[0])
        if not self._keyed and not all_none(keys):
            raise CodecError(
                "the first record of a part file had the key None, and a later one has another: "
                "yield keys for all records or for none, since they are a column"
            )
        if not self._dicts:
            return [keys, values] if self._keyed else [values]
        values = as_list(values)
        if not all(isinstance(value, dict) for value in values):
            raise CodecError(
                "the first record of a part file was a dict, and a later one is not: "
                "yield dicts with the same fields for all, since they are the columns"
            )
        fields = self._fields
        known = set(fields)
        if not known.issuperset(chain.from_iterable(values)):
            strange = next(name for value in values for name in value if name not in known)
            raise CodecError(
                f"a record has the field {strange!r}, which is not a column of its part file ({', '.join(fields)}): "
                "yield dicts with the same fields, as the first record sets the columns, or name all with "
                "-D csv.columns=... or -D parquet.schema=..."
            )
        columns: list[Column] = [[value.get(name) for value in values] for name in fields]
        if self._keyed:
            columns.insert(self.names.index("key"), keys)
        return columns

    def _learn(self, key: Any, value: Any) -> None:
        self._keyed = key is not None
        self._dicts = isinstance(value, dict)
        if self._dicts:
            names = self.names if self._given else (*(("key",) if self._keyed else ()), *value)
            if not all(isinstance(name, str) for name in names):
                raise CodecError(
                    f"the fields of a dict become columns, so their names must be strings: {value!r:.200} has others"
                )
            if self._keyed and (names.count("key") != 1 or (not self._given and "key" in value)):
                raise CodecError(
                    "a record has a key and a dict for its value: the key becomes the column 'key', which must be "
                    "among the columns and not a field of the dict; rename the field, or yield the dict under None"
                )
            self._fields = tuple(name for name in names if not (self._keyed and name == "key"))
        else:
            names = self.names if self._given else (("key", "value") if self._keyed else ("value",))
            if len(names) != 1 + self._keyed:
                raise CodecError(
                    f"the columns {', '.join(names)} were named, and the records have {1 + self._keyed}: "
                    "name as many, or yield dicts with these fields"
                )
        self.names = names
        self._known = True
