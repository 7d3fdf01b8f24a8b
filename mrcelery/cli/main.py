"""The ``mrcelery`` command: a group of commands, each a module of this package, imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

from mrcelery.cli.errors import guard
from mrcelery.version import __version__

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob

COMMANDS = {
    "submit": "Run a job over inputs.",
    "list": "List jobs, newest first, past ones included.",
    "status": "Show the state of a job.",
    "wait": "Wait until a job ends.",
    "cancel": "Stop jobs.",
    "retry": "Resume a failed job, or restart a cancelled one.",
    "logs": "Show what a job's tasks printed and logged.",
    "counters": "Show a job's counters.",
    "report": "Write a job's page as an HTML file.",
    "cat": "Print a job's results, or the part files of an OUTPUT.",
    "fetch": "Copy a job's results into a local folder.",
    "clean": "Remove the data of jobs that have ended.",
    "worker": "Start a Celery worker for mrcelery's tasks.",
    "flower": "Start Flower on the fleet.",
    "metrics": "Serve the fleet's metrics to Prometheus.",
    "doctor": "Check broker, storage, clocks and workers.",
    "config": "Show settings and where they come from.",
    "hello": "Run a tiny job to test the whole system.",
    "help": "Show the guide, a page of it, or a command's options.",
    "completion": "Print shell completion for bash, zsh or fish.",
}


class _Commands(click.Group):
    """Knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        # a submodule called list would hide the builtin in this package
        module = "list_jobs" if name == "list" else name
        command: click.Command = import_module(f"mrcelery.cli.{module}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415 - only a misspelt command needs it

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no such command {args[0]!r}" + (f", did you mean {near[0]!r}" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: mrcelery hello. Every command has its own --help; mrcelery help shows the guide.",
)
@click.version_option(__version__, prog_name="mrcelery")
def cli() -> None:
    """MapReduce on Celery: run a job on this machine or on the fleet of workers you already have."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the console script; end the process with the exit code of the command or error."""
    if "_MRCELERY_COMPLETE" in os.environ:
        cli.main(args, prog_name="mrcelery")  # answers the shell and exits
    sys.exit(run_command(cli, list(sys.argv[1:] if args is None else args), "mrcelery"))


def run_job_class(job_class: type[MRJob], args: Sequence[str] | None = None) -> NoReturn:
    """Run ``python job.py [options] [job's own options] INPUT...``, as mrjob does; end the process."""
    from mrcelery.cli.job_class import job_command  # noqa: PLC0415 - only python job.py needs it

    arguments = list(sys.argv[1:] if args is None else args)
    prog = os.path.basename(sys.argv[0]) or job_class.__name__
    _warn_of_variables()
    sys.exit(guard(lambda: _invoke(*job_command(job_class, arguments), prog)))


def run_command(command: click.Command, args: list[str], prog: str) -> int:
    """Run a command; show errors and return their exit code."""
    _warn_of_variables()
    return guard(lambda: _invoke(command, args, prog))


def _warn_of_variables() -> None:
    """Warn of variables that would be settings if they were spelt right."""
    if any(name.startswith("MRCELERY_") for name in os.environ):
        from mrcelery.config import misspelt  # noqa: PLC0415 - only if there are settings

        for sentence in misspelt(os.environ):
            click.echo(f"mrcelery: warning: {sentence}", err=True)


def _invoke(command: click.Command, args: list[str], prog: str) -> int:
    with command.make_context(prog, args) as ctx:
        return command.invoke(ctx) or 0
