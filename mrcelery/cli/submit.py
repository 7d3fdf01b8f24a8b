"""``mrcelery submit``: run a job, wait for it, print its results."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import click

from mrcelery.cli import picture
from mrcelery.cli.common import (
    Filled,
    connection_options,
    epilog,
    events_option,
    print_counters,
    print_json,
    write_bytes,
)
from mrcelery.cli.errors import INTERRUPTED
from mrcelery.cli.terminal import say
from mrcelery.config import RUNNERS, show_size
from mrcelery.errors import MRCeleryError, UsageError, on_a_line

if TYPE_CHECKING:
    from mrcelery.client.api import JobHandle
    from mrcelery.client.submission import Submission
    from mrcelery.job.base import MRJob
    from mrcelery.reporting.overview import Overview
    from mrcelery.schema.structs import Counters


SHUFFLE = "mrcelery shuffle"
"""How the groups of counters begin that say how even the partitions are."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Flags that say what the command does with a job; all others are the job's options, or settings."""

    output: str | None
    defines: Sequence[str]
    detach: bool
    dry_run: bool
    no_output: bool
    quiet: bool
    as_json: bool

    @classmethod
    def take(cls, flags: dict[str, Any]) -> Flags:
        """Remove these from the command's flags, which leaves the options that a submission takes."""
        return cls(**{field.name: flags.pop(field.name) for field in fields(cls)})

    @property
    def prints(self) -> bool:
        """Whether the results go to stdout."""
        return self.output is None and not (self.no_output or self.as_json or self.detach)


_OF_MRJOB = {
    **dict.fromkeys(("--file", "--dir", "--dirs"), "give --files, once for each"),
    "--archive": "give --archives, once for each",
    "--py-file": "give --py-files, once for each",
    "--num-cores": "give --workers",
    "--label": "give --name",
    "--cat-output": "run `mrcelery cat OUTPUT` after the job",
    "--no-cat-output": "give --no-output",
    **dict.fromkeys(("-v", "--verbose", "--read-logs"), "run `mrcelery logs JOB` after the job"),
    "--cleanup": "give --keep, and run `mrcelery clean` later",
    **dict.fromkeys(("-c", "--conf-path", "--no-conf"), "settings are in mrcelery.toml"),
    **dict.fromkeys(
        ("--setup", "--bootstrap", "--python-bin", "--interpreter"), "install it in the workers' environment"
    ),
    "--cmdenv": "make it an option of the job, or set it for the workers",
    **dict.fromkeys(("--steps", "--step-num"), "give --dry-run to see the plan"),
}
"""What to give for each of mrjob's switches that have other names here."""


class _Submit(click.Command):
    """Keeps the arguments after ``--`` for the job."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ours, job_args = args, []
        if "--" in args:
            at = args.index("--")
            ours, job_args = args[:at], args[at + 1 :]
        ctx.meta["job_args"] = job_args
        try:
            return super().parse_args(ctx, ours)
        except click.NoSuchOption as e:
            near = f", did you mean {' or '.join(sorted(e.possibilities))}" if e.possibilities else ""
            if e.option_name in _OF_MRJOB:
                raise UsageError(
                    f"no such option {e.option_name}, which is mrjob's: {_OF_MRJOB[e.option_name]}; see "
                    "`mrcelery help port-from-mrjob`"
                ) from None
            raise UsageError(
                f"no such option {e.option_name}{near}: see --help; the job's own options go after --"
            ) from None


@click.command(
    cls=_Submit,
    options_metavar="[OPTIONS]",
    epilog=epilog(
        "mrcelery submit wc.py book.txt",
        "mrcelery submit wc.py:WordCount logs/ -o counts -R 4",
        "mrcelery submit --runner inline wc.py book.txt            (breakpoint() works)",
        "mrcelery submit wc.py s3://bucket/logs/ -o s3://bucket/counts --detach",
        "mrcelery submit wc.py s3://bucket/logs/ --dry-run",
        "mrcelery submit grep.py book.txt -- --pattern whale",
    )
    + "\n\nInputs are files, folders, globs, s3:// or http(s):// addresses, FIFOs, or - for standard input.",
)
@click.argument("job", type=Filled())
@click.argument("inputs", metavar="INPUT...", nargs=-1)
@click.option("-o", "--output", "--output-dir", metavar="URI", help="Folder or s3:// address  [print the results]")
@click.option(
    "-r", "--runner", type=click.Choice(RUNNERS), help="Where to run  [celery if a broker is set, else local]"
)
@connection_options
@click.option("--queue", type=Filled(), metavar="NAME", help="Celery queue  [celery]")
@click.option("-R", "--reducers", metavar="N", help="Reduce tasks of a step  [by input size]")
@click.option(
    "--partitioner", metavar="NAME", help="hash, range (total order), field:1, field:2-3  [the job's, else hash]"
)
@click.option("--split-size", metavar="SIZE", help="Input bytes of a map task  [64MiB; less if small]")
@click.option("--workers", metavar="N", help="Processes of the local runner  [one per CPU]")
@click.option("--memory", metavar="SIZE", help="Memory limit of one task  [512MiB]")
@click.option("--max-attempts", metavar="N", help="Attempts of one task  [4]")
@click.option("--storage-patience", metavar="TIME", help="How long to wait for a storage that is away  [10m]")
@click.option("--max-bad-records", metavar="N", help="Records that the job may skip  [0]")
@click.option("--speculative/--no-speculative", default=None, help="Backup tasks for stragglers  [on]")
@click.option("--input-format", metavar="NAME", help="text, jsonl, csv, parquet, records:N, ...  [text]")
@click.option("--output-format", metavar="NAME", help="json, text, jsonl, csv, parquet, ...  [json]")
@click.option("--compress", metavar="CODEC", help="none, gzip, bz2, xz, zstd  [none]")
@click.option("--allow-pickle/--no-allow-pickle", default=None, help="Let the job use pickle protocols  [off]")
@click.option("-D", "--define", "--jobconf", "defines", multiple=True, metavar="NAME=VALUE", help="Job configuration.")
@click.option("--py-files", multiple=True, metavar="PATH", help="Modules, folders, zips, wheels to import.")
@click.option(
    "--files", multiple=True, metavar="PATH", help="Files to copy into the tasks' working folder: PATH[#NAME]."
)
@click.option("--archives", multiple=True, metavar="PATH", help="Archives to unpack there: PATH[#NAME].")
@click.option("--name", default="", metavar="TEXT", help="Name of the job  [its class]")
@click.option(
    "--client-token", type=Filled(), metavar="TEXT", help="A repeat with the same token returns the same job."
)
@click.option("--detach", is_flag=True, help="Print the job id and exit; the fleet runs the job.")
@click.option("--dry-run", is_flag=True, help="Print the plan and what it costs; run nothing.")
@click.option("--overwrite", is_flag=True, help="Replace what OUTPUT holds.")
@click.option("--keep", is_flag=True, help="Keep the intermediate data of a job that succeeded.")
@click.option("--no-output", is_flag=True, help="Do not print the results.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@events_option
@click.pass_context
def command(ctx: click.Context, /, job: str, inputs: tuple[str, ...], **flags: Any) -> int:
    """Run JOB over INPUTs. JOB is file.py, file.py:Class or pkg.module:Class.

    Without -o the results are printed to stdout. Arguments after -- are the job's own.
    """
    return execute(job, inputs, ctx.meta["job_args"], flags)


def execute(
    job: str | type[MRJob],
    inputs: Sequence[str],
    job_args: Sequence[str],
    flags: dict[str, Any],
) -> int:
    """Submit a job as ``flags`` (name to value) say, and wait for it unless detached; return the exit code."""
    from mrcelery.cli.progress import Display, print_detached, see_through  # noqa: PLC0415 - help needs no client
    from mrcelery.client.settle import settle  # noqa: PLC0415 - help needs no client

    how = Flags.take(flags)
    with Display(how.quiet, how.as_json and not how.dry_run) as display:
        settled = settle(
            job,
            inputs,
            how.output,
            args=job_args,
            jobconf=_definitions(how.defines),
            client_token=flags.pop("client_token", None) or "",
            ahead=not how.dry_run,
            **flags,
        )
        for sentence in settled.ignored():
            say(f"mrcelery: warning: {sentence}", err=True)
        from mrcelery.client.submission import Submission  # noqa: PLC0415 - the cluster starts meanwhile

        submission = Submission.load(settled, wants_results=how.prints, on_upload=display.upload)
        if how.dry_run:
            _print_plan(submission, how.as_json)
            return 0
        _check(submission, how)
        if submission.runner == "local":
            # kill: unwind, so that the cluster is stopped and its folder removed
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        handle = submission.submit(display.watch if submission.runner == "inline" else None)
        with handle:
            if how.detach:
                print_detached(handle, as_json=how.as_json)
                return 0
            try:
                code = see_through(
                    handle,
                    display,
                    lambda found: _after(found, handle, submission),
                    always=how.output is not None,
                    then=(lambda: write_bytes(handle.output())) if how.prints else None,
                )
            except KeyboardInterrupt:
                display.close()
                return _interrupted(handle, submission)
            if not (how.quiet or how.as_json):
                if submission.runner != "celery":
                    _print_counters(handle)
                if code == 0 and submission.options.max_bad_records:
                    _warn_of_skipped(handle)
            return code


def _warn_of_skipped(handle: JobHandle) -> None:
    """Warn of skipped records: a reducer that always raises leaves an empty output, and its job succeeds."""
    from mrcelery.schema.object_keys import BAD_RECORDS  # noqa: PLC0415 - help needs no keys

    report = handle.report()
    if report.bad_records:
        kept = (
            f"{report.output}/{BAD_RECORDS}" if report.output else "give -o OUTPUT to have them with their tracebacks"
        )
        records = f"{report.bad_records:,} bad record{'' if report.bad_records == 1 else 's'}"
        say(f"mrcelery: warning: {records} skipped: {kept}", err=True)


def _print_counters(handle: JobHandle) -> None:
    """Print the counters that the job itself has set: with its cluster they are gone."""
    counters: Counters = {}
    with suppress(MRCeleryError):
        counters = handle.counters()
    own = {group: names for group, names in counters.items() if not group.startswith(SHUFFLE)}
    if own:
        say(f"mrcelery: counters of job {handle.id}", err=True)
        print_counters(own, err=True)


def _definitions(defines: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in defines:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"-D {text!r} is not NAME=VALUE: write for example -D my.setting=3")
        found[key] = value
    return found


def _check(submission: Submission, how: Flags) -> None:
    if how.detach and submission.runner != "celery":
        raise UsageError(
            f"--detach needs a fleet: the {submission.runner} runner ends with this command; "
            "give --broker, or leave --detach out"
        )
    if how.detach and submission.brings_home:
        raise UsageError(
            f"--detach cannot copy results to {submission.output}: give an s3:// OUTPUT, or leave -o out and "
            "run `mrcelery fetch JOB DIR` later"
        )
    if how.as_json and submission.output is None and submission.runner != "celery":
        raise UsageError("--json prints events, so the results need another place: give -o OUTPUT")


def _interrupted(handle: JobHandle, submission: Submission) -> int:
    if submission.runner == "celery":
        results = f"fetch {handle.id} {submission.output}" if handle.bring_home else f"cat {handle.id}"
        say(
            f"\nDetached: job {handle.id} is still running.\n"
            f"  wait        mrcelery wait {handle.id}\n"
            f"  results     mrcelery {results}\n"
            f"  stop it     mrcelery cancel {handle.id}",
            err=True,
        )
    else:
        handle.cancel()
        say(f"\nmrcelery: job {handle.id} cancelled", err=True)
    return INTERRUPTED


def _after(found: Overview, handle: JobHandle, submission: Submission) -> list[str]:
    """List the commands a user may want next."""
    if submission.runner == "celery":
        return picture.after_fleet(found, submission.output or "")
    return picture.after_here(found, submission.config.storage, submission.output or "")


def _print_plan(submission: Submission, as_json: bool) -> None:
    plan, reducers, cost = submission.plan()
    ships = submission.ships()
    if as_json:
        print_json(
            {
                "map_tasks": plan.splits,
                "reduce_tasks": reducers,
                "files": plan.files,
                "bytes": plan.bytes,
                "requests": cost.requests,
                "dollars": cost.dollars,
                "ships": [{"name": one.name, "path": str(one.path), "bytes": one.bytes} for one in ships],
            }
        )
        return
    say(f"map tasks (M)     {plan.splits:,}")
    for number, count in enumerate(reducers):
        step = f", step {number}" if len(reducers) > 1 else ""
        say(f"reduce tasks (R)  {count:,}{step}")
    say(f"input             {plan.files:,} {'file' if plan.files == 1 else 'files'}, {show_size(plan.bytes)}")
    requests = ", ".join(f"{count:,} {kind}" for kind, count in cost.requests.items() if count)
    say(f"S3 requests       {requests or 'none'}")
    say(f"S3 price          ${cost.dollars:.4f} for requests, without storage and traffic")
    total = show_size(sum(one.bytes for one in ships))
    say(f"code and files    {len(ships):,} {'file' if len(ships) == 1 else 'files'}, {total}")
    for one in ships:
        say(f"  {show_size(one.bytes):>10}  {on_a_line(one.name)}  ({on_a_line(str(one.path))})")
