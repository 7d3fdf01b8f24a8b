"""Arrow values as Python objects: the same objects with and without pandas next to pyarrow.

If pandas is installed, pyarrow returns times in nanoseconds as ``pandas.Timestamp`` and ``pandas.Timedelta``, which no
codec supports. Here they become ``datetime``, ``time`` and ``timedelta``, which have microseconds; a time between two
microseconds is rejected, not rounded.
"""

from __future__ import annotations

from typing import Any

from mrcelery.errors import CodecError


def objects(column: Any, remedy: str) -> list[Any]:
    """Return an array's values, or a table's rows as dicts.

    Raises :class:`CodecError`, with ``remedy`` in its message, for values that have no Python type.
    """
    import pyarrow as pa

    try:
        values: list[Any] = _in_microseconds(column).to_pylist()
        return values
    except MemoryError:  # Arrow's, too
        raise
    except (ValueError, OverflowError, ImportError, LookupError, pa.ArrowException) as e:
        raise CodecError(f"a value {_of(column)}has no Python type to hold it ({e}): {remedy}") from None


def _of(column: Any) -> str:
    return f"of Arrow type {column.type} " if hasattr(column, "type") else ""


def _in_microseconds(column: Any) -> Any:
    """Cast an array's or a table's times in nanoseconds; a column without such times is returned unchanged.

    Raises ``ArrowInvalid`` for a time that is not a whole number of microseconds.
    """
    import pyarrow as pa

    if not isinstance(column, pa.Table):
        return _cast(column)
    given = column.columns
    columns = [_cast(one) for one in given]
    if all(new is old for new, old in zip(columns, given, strict=True)):
        return column
    return pa.table(columns, column.schema.names)  # by position: a name may occur twice


def _cast(column: Any) -> Any:
    kind = _micro(column.type)
    return column if kind is None else column.cast(kind)


def _micro(kind: Any) -> Any:
    """Return an Arrow type with its nanoseconds replaced by microseconds, at any depth; None if it has none."""
    import pyarrow as pa

    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz) if kind.unit == "ns" else None
    if types.is_duration(kind):
        return pa.duration("us") if kind.unit == "ns" else None
    if types.is_time64(kind):
        return pa.time64("us") if kind.unit == "ns" else None
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _micro(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _micro(kind.storage_type)
    return _micro_nested(kind) if types.is_nested(kind) else None


def _micro_nested(kind: Any) -> Any:
    import pyarrow as pa

    types = pa.types
    if types.is_map(kind):
        key, item = _micro(kind.key_type), _micro(kind.item_type)
        return None if key is item is None else pa.map_(key or kind.key_type, item or kind.item_type)
    fields = [kind.field(i) for i in range(kind.num_fields)]
    inner = [_micro(field.type) for field in fields]
    if all(one is None for one in inner):
        return None
    fields = [field if one is None else field.with_type(one) for field, one in zip(fields, inner, strict=True)]
    if types.is_struct(kind):
        return pa.struct(fields)
    if types.is_fixed_size_list(kind):
        return pa.list_(fields[0], kind.list_size)
    return pa.large_list(fields[0]) if types.is_large_list(kind) else pa.list_(fields[0])
