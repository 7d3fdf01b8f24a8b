"""From the bytes of a split to records, and from records to the bytes of a part file.

A format is named ``NAME`` or ``NAME:ARGUMENTS``, such as ``records:80`` or ``csv:header=false``; see
:mod:`mrcelery.formats.naming`.
"""

# ruff: noqa: PLC0415 - a format is imported when it is named: some need pyarrow, all take time

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mrcelery.errors import TaskError
from mrcelery.formats.base import Compressor, InputFormat, OutputFormat, RecordBlock
from mrcelery.formats.compression import compressor
from mrcelery.formats.custom import OwnInput, OwnOutput, made
from mrcelery.formats.extras import check_installed
from mrcelery.formats.lines import TABLE_BLOCK
from mrcelery.formats.naming import INPUTS, OUTPUTS, Name, keyed, parse

__all__ = [
    "Compressor",
    "InputFormat",
    "OutputFormat",
    "RecordBlock",
    "compressor",
    "input_format",
    "keyed",
    "output_format",
]


def input_format(
    text: str, on_bad: Callable[[TaskError], None] | None = None, job: Any = None, *, tables: bool = False
) -> InputFormat:
    """Make the input format named by ``text``: one of :data:`INPUTS`, or a custom one.

    ``on_bad`` is called with the error of each damaged record, which is skipped if it returns; without it the error is
    raised. ``job`` is the job's instance, which a custom format needs to read. ``tables``: blocks have a ``table`` if
    the format can provide one, and are larger; :func:`mrcelery.formats.arrow.table_of` makes one for any block. Raises
    :class:`UsageError` for another name or unsupported arguments, and if pyarrow and numpy, which tables need, are not
    installed.
    """
    name = parse(text, INPUTS)
    if tables:
        check_installed("a table of input")
    if name.base in ("text", "lines") and not name.arguments:
        from mrcelery.formats.text import LinesInput, LineTables, TextInput

        if tables:
            return LineTables(name.base == "text")
        return TextInput() if name.base == "text" else LinesInput()
    if name.base == "jsonl":
        from mrcelery.formats.jsonl import JsonLinesInput

        return JsonLinesInput(on_bad, TABLE_BLOCK if tables else 0)
    if name.base == "whole-file":
        from mrcelery.formats.whole import WholeFileInput

        return WholeFileInput()
    if name.base in ("csv", "tsv"):
        from mrcelery.formats.delimited import DelimitedInput, Dialect

        dialect = Dialect(*_dialect(name), multiline=name.flag("multiline", True))
        if tables:
            from mrcelery.formats.delimited_tables import DelimitedTables

            return DelimitedTables(dialect, on_bad)
        return DelimitedInput(dialect, on_bad)
    if name.base == "parquet":
        from mrcelery.formats.parquet import ParquetInput

        return ParquetInput(name.listed("columns"))
    if name.base == "records":
        from mrcelery.formats.fixed import FixedInput

        return FixedInput(name.number(), name.extent("key", name.number()), tables)
    if name.base == "lines":
        from mrcelery.formats.nlines import GroupedLinesInput

        return GroupedLinesInput(name.number())
    return OwnInput(name.flag("splittable", False), lambda: made(*name.declared(job, "INPUT"), "read"))


def output_format(text: str, job: Any = None) -> OutputFormat:
    """Make the output format named by ``text``, one of :data:`OUTPUTS` or a custom one, for one part file.

    ``job`` and the errors raised are those of :func:`input_format`.
    """
    name = parse(text, OUTPUTS)
    if name.base in ("csv", "tsv"):
        from mrcelery.formats.delimited import DelimitedOutput, Dialect

        return DelimitedOutput(Dialect(*_dialect(name)), f".{name.base}", name.listed("columns"))
    if name.base == "parquet":
        from mrcelery.formats.parquet import ParquetOutput

        return ParquetOutput(name.schema("schema"), name.choice("compression", ("snappy", "zstd", "gzip", "none")))
    if name.base == "own":
        return OwnOutput(name.get("suffix"), lambda: made(*name.declared(job, "OUTPUT"), "encode"))
    from mrcelery.formats import output

    return output.FORMATS[name.base]


def _dialect(name: Name) -> tuple[str, str, bool]:
    quote = name.get("quote", '"')
    delimiter = name.character("delimiter") if name.base == "csv" else "\t"
    return delimiter, "" if quote in ("", "none") else name.character("quote", '"'), name.flag("header", True)
