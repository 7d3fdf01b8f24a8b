"""Shows errors on the command line and maps them to exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mrcelery.cli.terminal import say
from mrcelery.errors import JobFailedError, JobLoadError, MRCeleryError, on_a_line

if TYPE_CHECKING:
    from mrcelery.schema.structs import Failure

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

# click before 8.2 prints the help itself, and ends well
_NO_ARGUMENTS: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())


def guard(call: Callable[[], int]) -> int:
    """Turn what ``call`` raises into one line on stderr and an exit code. Our own bugs keep their traceback."""
    try:
        code = call()
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as e:
        return e.exit_code
    except _NO_ARGUMENTS as e:
        e.show()
        return int(e.exit_code)
    except click.ClickException as e:
        say(f"mrcelery: {_sentence(e)}", err=True)
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("\nmrcelery: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader (head, a pager) has enough; keep the interpreter's last flush quiet too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MRCeleryError as e:
        show_error(e)
        return e.exit_code


def _sentence(error: click.ClickException) -> str:
    """Phrase an error of click as one line in the style of our own errors."""
    text = " ".join(error.format_message().split()).rstrip(".")
    text = text[:1].lower() + text[1:]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        text += f": see {error.ctx.command_path} --help"
    return text


def show_error(error: MRCeleryError) -> None:
    """Show an error on stderr: the user's own traceback first, then what is wrong, then where."""
    if isinstance(error, JobLoadError) and error.traceback:
        say(error.traceback.rstrip(), err=True)
    if isinstance(error, JobFailedError) and error.failure.traceback:
        say(error.failure.traceback.rstrip(), err=True)
    say(f"mrcelery: {error.failure.message if isinstance(error, JobFailedError) else error}", err=True)
    if isinstance(error, JobFailedError):
        for line in where(error.failure):
            say(f"  {on_a_line(line)}", err=True)


def where(failure: Failure) -> list[str]:
    """Return the lines that say where a job failed: task, file and record, as far as known."""
    lines = []
    if failure.job:
        task = f", step {failure.step}" if failure.step >= 0 else ""
        task += f", {failure.kind} task {failure.task}" if failure.task >= 0 else ""
        task += f", attempt {failure.attempt}" if failure.attempt else ""
        lines.append(f"job {failure.job}{task}")
    if failure.file:
        lines.append(failure.file + (f", byte {failure.offset}" if failure.offset >= 0 else ""))
    if failure.record:
        # A reducer's record is a key, and so is a combiner's, which has no place in a file.
        key = failure.kind == "reduce" or (failure.kind == "map" and not failure.file)
        lines.append(f"{'key' if key else 'record'} {failure.record}")
    return lines
