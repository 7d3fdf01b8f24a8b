"""Runs a job file by itself: ``python wc.py -r local book.txt``, as mrjob does.

Options of ``mrcelery submit`` and the job's own may be mixed. One parser that knows both separates
them: a value such as ``whale`` in ``--pattern whale book.txt`` must not be taken for an input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mrcelery.cli.submit import command as submit
from mrcelery.cli.submit import execute
from mrcelery.errors import UsageError

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob


def job_command(job_class: type[MRJob], args: list[str]) -> tuple[click.Command, list[str]]:
    """Make a command that submits ``job_class``, and the arguments to call it with."""
    job_parser = job_class.argument_parser()
    own = [action for action in job_parser._actions if action.option_strings]
    taken = {name for action in own for name in action.option_strings}
    ours, theirs, inputs = _split(args, own, taken)
    if not inputs and not sys.stdin.isatty():
        inputs = ["-"]

    def callback(**flags: Any) -> int:
        return execute(job_class, inputs, theirs, flags)

    params = [p for p in submit.params if isinstance(p, click.Option)]
    command = click.Command(
        job_class.__name__,
        params=list(params),
        callback=callback,
        help=job_class.__doc__ or f"Run {job_class.__name__} over inputs.",
        options_metavar="[OPTIONS] [JOB OPTIONS] [INPUT...]",
        epilog=_job_help(own),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    return command, ours


def _split(args: Sequence[str], own: list[argparse.Action], taken: set[str]) -> tuple[list[str], list[str], list[str]]:
    """Split into (our options, the job's options, inputs); if a name is both, the job's own wins."""
    ours: list[str] = []
    theirs: list[str] = []
    parser = _Parser(add_help=False)
    for action in own:
        if not isinstance(action, argparse._HelpAction):
            parser.add_argument(
                *action.option_strings, action=_Keep, into=theirs, nargs=action.nargs, dest=argparse.SUPPRESS
            )
    for param in submit.params:
        if isinstance(param, click.Option):
            nargs = 0 if param.is_flag else None
            names = [n for n in (*param.opts, *param.secondary_opts) if n not in taken]
            parser.add_argument(*names, action=_Keep, into=ours, nargs=nargs, dest=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action=_Keep, into=ours, nargs=0, dest=argparse.SUPPRESS)
    parser.add_argument("inputs", nargs="*")
    return ours, theirs, parser.parse_intermixed_args(args).inputs


class _Keep(argparse.Action):
    """Keeps an option and its values as they were written, in a list."""

    def __init__(self, *args: Any, into: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.into = into

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        option = option_string or ""
        if isinstance(values, list):
            self.into += [option, *values]
        else:
            # in one word, so that a value with a leading dash stays a value
            # (except an empty one, which a short option needs as a word of its own)
            long = option.startswith("--")
            self.into += [f"{option}={values}"] if long else [option + values] if values else [option, ""]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see --help")


def _job_help(own: list[argparse.Action]) -> str:
    rows = [
        f"  {', '.join(action.option_strings):<28} {action.help or ''}".rstrip()
        for action in own
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    return "\b\nJob options:\n" + "\n".join(rows) if rows else ""
