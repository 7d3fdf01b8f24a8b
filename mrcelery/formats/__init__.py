"""Input formats (bytes of a split to blocks of records), output formats, and compression."""

from __future__ import annotations

from collections.abc import Callable

from mrcelery.errors import TaskError, UsageError
from mrcelery.formats.base import Compressor, InputFormat, OutputFormat, RecordBlock
from mrcelery.formats.compression import compressor

__all__ = [
    "Compressor",
    "InputFormat",
    "OutputFormat",
    "RecordBlock",
    "compressor",
    "input_format",
    "output_format",
]

INPUTS = ("text", "lines", "jsonl", "whole-file")
OUTPUTS = ("json", "text", "jsonl", "none")


def input_format(name: str, on_bad: Callable[[TaskError], None] | None = None) -> InputFormat:
    """The input format called ``name``: one of :data:`INPUTS`.

    ``on_bad`` is called with the error of each damaged record, which is skipped if it returns; without
    it the error is raised. Raises :class:`UsageError` for another name.
    """
    if name in ("text", "lines"):
        from mrcelery.formats.text import LinesInput, TextInput

        return TextInput() if name == "text" else LinesInput()
    if name == "jsonl":
        from mrcelery.formats.jsonl import JsonLinesInput

        return JsonLinesInput(on_bad)
    if name == "whole-file":
        from mrcelery.formats.whole import WholeFileInput

        return WholeFileInput()
    raise UsageError(f"unknown input format {name!r}: use one of {', '.join(INPUTS)}")


def output_format(name: str) -> OutputFormat:
    """The output format called ``name``: one of :data:`OUTPUTS`; :class:`UsageError` for another."""
    if name in OUTPUTS:
        from mrcelery.formats import output

        return output.FORMATS[name]
    raise UsageError(f"unknown output format {name!r}: use one of {', '.join(OUTPUTS)}")
