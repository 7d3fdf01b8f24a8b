"""``mrcelery report``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli.common import JOB, connection_options, epilog, json_option, print_json, write_bytes
from mrcelery.cli.terminal import say
from mrcelery.client.api import attach
from mrcelery.errors import UsageError
from mrcelery.storage.addresses import FILE, local


@click.command(
    epilog=epilog(
        "mrcelery report JOB",
        "mrcelery report JOB --open",
        "mrcelery report JOB -o - > page.html",
        "mrcelery report JOB --json",
    )
)
@JOB
@click.option("-o", "--output", "path", metavar="FILE", help="File to write, - for stdout  [JOB.html]")
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
@connection_options
@json_option
def command(job: str, path: str | None, opens: bool, as_json: bool, **settings: Any) -> None:
    """Write JOB's page as one self-contained HTML file, and print the file's path.

    For an ended job the page is its report; for a running job, its present state. --json prints report.json instead.
    """
    if opens and (as_json or path == "-"):
        raise UsageError("--open needs a file: leave --json out, or give -o FILE")
    file = local(f"{job}.html" if path is None else path, FILE) if path != "-" else ""
    with attach(job, **settings) as handle:
        if as_json:
            print_json(handle.report())
            return
        page = handle.page()
    if not file:
        write_bytes([page])
        return
    try:
        with open(file, "wb") as out:
            out.write(page)
    except OSError as e:
        raise UsageError(f"cannot write {file} ({e.strerror}): give another -o FILE") from None
    say(file)
    if opens:
        click.launch(file)
