"""``mrcelery fetch``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli.common import JOB, connection_options, epilog
from mrcelery.cli.progress import Display
from mrcelery.client.api import attach
from mrcelery.storage.addresses import FOLDER, local


@click.command(epilog=epilog("mrcelery fetch JOB ./counts"))
@JOB
@click.argument("folder", metavar="DIR")
@click.option("--overwrite", is_flag=True, help="Replace what DIR holds.")
@connection_options
def command(job: str, folder: str, overwrite: bool, **settings: Any) -> None:
    """Copy the part files of JOB into DIR, which appears whole or not at all."""
    local(folder, FOLDER)  # a wrong one need not wait for the broker
    with attach(job, **settings) as handle, Display() as display:
        handle.fetch(folder, overwrite=overwrite, on_bytes=display.download)
