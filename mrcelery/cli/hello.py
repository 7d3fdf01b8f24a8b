"""``mrcelery hello``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click

from mrcelery.cli.common import connection_options, epilog
from mrcelery.config import RUNNERS

_TEXT = "hello map\nhello shuffle\nhello reduce\n"
_EXPECTED = {"hello": 3, "map": 1, "reduce": 1, "shuffle": 1}


@click.command(epilog=epilog("mrcelery hello", "mrcelery hello --broker redis://host --storage s3://bucket/mr"))
@click.option("-r", "--runner", type=click.Choice(RUNNERS), help="Where to run.")
@connection_options
def command(**settings: Any) -> int:
    """Count four words: plan, map, shuffle, reduce and output, on the runner that is configured."""
    from mrcelery.submission import Submission

    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mrcelery-") as folder:
        text = Path(folder) / "hello.txt"
        text.write_text(_TEXT)
        submission = Submission.prepare(
            "mrcelery.examples.word_count:WordCount", str(text), name="hello", ahead=True, **settings
        )
        with submission.submit() as handle:
            handle.wait()
            counts = dict(handle.results())
            job = handle.id
    for word, count in sorted(counts.items()):
        click.echo(f"{word}\t{count}")
    right = counts == _EXPECTED
    verdict = "works" if right else f"gives a wrong result, expected {_EXPECTED}: please report this"
    seconds = time.monotonic() - started
    click.echo(f"mrcelery {verdict}: job {job} on the {submission.runner} runner, {seconds:.2f} s", err=True)
    return 0 if right else 1
