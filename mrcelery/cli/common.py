"""What several commands share: connection options, ``--json``, tables, ages."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mrcelery.cli.terminal import say
from mrcelery.config import parse_age
from mrcelery.errors import UsageError, mask, on_a_line

F = TypeVar("F", bound=Callable[..., Any])


def json_option(function: F) -> F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def events_option(function: F) -> F:
    """Add the ``--json`` of a command that waits."""
    return click.option("--json", "as_json", is_flag=True, help="Print events, one a line, as JSON.")(function)


if TYPE_CHECKING:
    _Seconds = click.ParamType[float]
    _Text = click.ParamType[str]
else:
    _Seconds = _Text = click.ParamType  # takes no parameter in older versions of click


class Age(_Seconds):
    """``7d``, ``12h``, ``90s`` as seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the value."""
        try:
            return value if isinstance(value, float) else parse_age(value)
        except ValueError as e:
            self.fail(f"{value!r} is not allowed: give {e}", param, ctx)


class Filled(_Text):
    """Text that is not empty, as an unset shell variable would make it."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text. Raises :class:`UsageError` if it is empty."""
        if not str(value).strip() and param is not None:
            called = param.opts[-1] if isinstance(param, click.Option) else (param.metavar or param.human_readable_name)
            raise UsageError(
                f"{called.strip('[].')} is empty, perhaps from a shell variable that is not set: "
                + ("give a value, or leave it out" if isinstance(param, click.Option) else "give one")
            )
        return str(value)


JOB = click.argument("job", type=Filled())


def connection_options(function: F) -> F:
    """Add ``--broker``, ``--result-backend`` and ``--storage``, as settings."""
    storage = click.option("--storage", metavar="URI", help="Where job data lives: s3://bucket/prefix or a folder.")
    backend = click.option(
        "--result-backend", type=Filled(), metavar="URL", help="Redis that counts the barrier  [the broker]"
    )
    broker = click.option("--broker", type=Filled(), metavar="URL", help="Redis of the fleet.")
    return broker(backend(storage(function)))


def epilog(*examples: str) -> str:
    r"""Format examples for the end of a command's help; ``\b`` keeps click from re-wrapping them."""
    return "\b\nExamples:\n" + "\n".join(f"  {e}" for e in examples)


def print_json(value: Any) -> None:
    """Print one JSON document; ``value`` may hold msgspec structs and dataclasses."""
    import msgspec  # noqa: PLC0415 - help needs no msgspec

    click.echo(json.dumps(_masked(msgspec.to_builtins(value)), indent=2))


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: _masked(one) for key, one in value.items()}
    return [_masked(one) for one in value] if isinstance(value, list | tuple) else value


def print_counters(counters: Mapping[str, Mapping[str, int]], *, err: bool = False) -> None:
    """Print counters by group; ``err``: on stderr."""
    for group in sorted(counters):
        say(on_a_line(group), err=err)
        for name, amount in sorted(counters[group].items()):
            say(f"\t{on_a_line(name)}={amount}", err=err)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print left-aligned columns."""
    table = [tuple(header), *(tuple(map(on_a_line, row)) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_time(epoch: float) -> str:
    """Format epoch seconds as local time; 0, which means not yet, as a dash."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch)) if epoch else "-"


def show_seconds(seconds: float) -> str:
    """Format a duration as ``3.2 s``, ``4m05s`` or ``2h07m``; one that two clocks make negative is none."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def write_bytes(chunks: Iterable[bytes]) -> None:
    """Write bytes to stdout unchanged."""
    out = sys.stdout.buffer
    for chunk in chunks:
        out.write(chunk)
    out.flush()
