"""``mrcelery hello``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mrcelery.cli.common import Age, Filled, connection_options, epilog, json_option, print_json
from mrcelery.cli.terminal import say
from mrcelery.client.submission import Submission
from mrcelery.config import RUNNERS
from mrcelery.errors import WaitTimeoutError, mask
from mrcelery.jobstore.presence import workers_seen
from mrcelery.jobstore.redis import RedisJobStore

if TYPE_CHECKING:
    from mrcelery.client.api import JobHandle
    from mrcelery.client.submission import Submission
    from mrcelery.reporting.overview import Overview

_TEXT = "hello map\nhello shuffle\nhello reduce\n"
_EXPECTED = {"hello": 3, "map": 1, "reduce": 1, "shuffle": 1}


@click.command(
    epilog=epilog("mrcelery hello", "mrcelery hello --broker redis://host --storage s3://bucket/mr --timeout 20s")
)
@click.option("-r", "--runner", type=click.Choice(RUNNERS), help="Where to run.")
@connection_options
@click.option("--queue", type=Filled(), metavar="NAME", help="Celery queue  [celery]")
@click.option(
    "--timeout", type=Age(), default="60s", show_default=True, metavar="TIME", help="Give up after this time."
)
@json_option
def command(timeout: float, as_json: bool, **settings: Any) -> int:
    """Count four words: plan, map, shuffle, reduce and output, on the runner that is configured.

    Prints on stderr how long each stage took and which workers ran it.
    """

    started = time.monotonic()
    with _pipe(_TEXT) as text:
        submission = Submission.prepare(
            "mrcelery.examples.word_count:WordCount", text, name="hello", ahead=True, **settings
        )
        with submission.submit() as handle:
            try:
                handle.wait(timeout, on_event=lambda event: say(f"mrcelery: {event}", err=True))
            except WaitTimeoutError:
                handle.cancel()
                raise WaitTimeoutError(_why(handle, submission, timeout)) from None
            counts = dict(handle.results())
            seconds = time.monotonic() - started
            stages = list(_stages(handle.overview()))
            job = handle.id
    right = counts == _EXPECTED
    if as_json:
        print_json({
            "works": right, "job": job, "runner": submission.runner, "seconds": seconds, "counts": counts,
            "stages": stages,
        })  # fmt: skip
        return 0 if right else 1
    for word, count in sorted(counts.items()):
        say(f"{word}\t{count}")
    for stage in stages:
        where = f"  on {', '.join(stage['workers'])}" if stage["workers"] else ""
        say(f"{stage['stage']:<10} {stage['seconds']:6.2f} s{where}", err=True)
    verdict = "works" if right else f"gives a wrong result, expected {_EXPECTED}: please report this"
    say(f"mrcelery {verdict}: job {job} on the {submission.runner} runner, {seconds:.2f} s", err=True)
    return 0 if right else 1


@contextmanager
def _pipe(text: str) -> Iterator[str]:
    """Make an input that is sent along with the job: the machines of a fleet do not see a file of this one."""
    read, write = os.pipe()
    try:
        os.write(write, text.encode())
        os.close(write)
        yield f"/dev/fd/{read}"
    finally:
        os.close(read)


def _stages(found: Overview) -> Iterator[dict[str, Any]]:
    """List how long each stage took, in seconds, and where it ran."""
    for number, stage in enumerate(found.stages):
        if number == 0:
            yield {"stage": "wait, plan", "seconds": stage.entered - found.created, "workers": []}
        workers = sorted({one.worker.rpartition(" ")[0] for one in stage.attempts})
        yield {"stage": stage.kind, "seconds": stage.ended - stage.entered, "workers": workers}


def _why(handle: JobHandle, submission: Submission, timeout: float) -> str:
    """Explain why the job did not end: no worker listens, or the workers are busy."""

    queue, broker = submission.options.queue, mask(submission.config.broker, whole=True)
    store = handle.runner.store if handle.runner is not None else None
    after = f"hello did not end in {timeout:g} s"
    if not isinstance(store, RedisJobStore) or submission.runner != "celery":
        return f"{after}: give it a longer --timeout"
    listening = [one for one in workers_seen(store) if queue in one.queues and not one.silent]
    if not listening:
        return (
            f"{after}: no worker listens on queue {queue} at {broker}: start one with "
            f"`mrcelery worker --broker {broker} --queue {queue}`, or see `mrcelery doctor`"
        )
    return (
        f"{after}, though {len(listening)} worker(s) listen on queue {queue}: they may be busy; give a longer "
        "--timeout, or see `mrcelery doctor` and the workers' logs"
    )
