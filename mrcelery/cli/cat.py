"""``mrcelery cat``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mrcelery.cli.common import Filled, connection_options, epilog, write_bytes
from mrcelery.cli.terminal import say
from mrcelery.client import results
from mrcelery.client.api import attach
from mrcelery.errors import InputError
from mrcelery.schema import object_keys
from mrcelery.storage import open_storage
from mrcelery.storage.addresses import OUTPUT, is_remote, parse


@click.command(epilog=epilog("mrcelery cat JOB | head", "mrcelery cat s3://bucket/counts", "mrcelery cat ./counts"))
@click.argument("source", type=Filled(), metavar="JOB|OUTPUT")
@connection_options
def command(source: str, **settings: Any) -> None:
    """Print the results of a job, or the part files of an OUTPUT: in order, decompressed."""
    if is_remote(source, OUTPUT) or source.lower().startswith("file:") or "/" in source or Path(source).is_dir():
        _output(source)
        return
    with attach(source, **settings) as handle:
        write_bytes(handle.output())


def _output(uri: str) -> None:
    address = parse(uri, OUTPUT)
    uri = str(address)
    if not address.scheme and not Path(uri).is_dir():
        raise InputError(f"output {uri} does not exist: give a job id or an OUTPUT")
    storage = open_storage(uri)
    names = results.part_names(storage, uri)
    if storage.stat(object_keys.SUCCESS) is None:
        say(f"mrcelery: {uri} has no {object_keys.SUCCESS}: its job has not succeeded (yet)", err=True)
    write_bytes(results.content(storage, names))
