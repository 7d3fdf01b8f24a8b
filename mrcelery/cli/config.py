"""``mrcelery config``."""

from __future__ import annotations

import json

import click

from mrcelery.cli.common import epilog, json_option, print_table
from mrcelery.config import Config


@click.group()
def command() -> None:
    """Show settings and where they come from."""


@command.command(epilog=epilog("mrcelery config show", "MRCELERY_BROKER=redis://host mrcelery config show --json"))
@json_option
def show(as_json: bool) -> None:
    """Print each setting with its value and origin; secrets are masked."""
    found = Config.load().show()
    if as_json:
        click.echo(json.dumps({s.name: {"value": s.value, "origin": s.origin} for s in found}, indent=2))
        return
    print_table(
        ("SETTING", "VALUE", "ORIGIN", "MEANING"),
        ((s.name, "-" if s.value in (None, "") else str(s.value), s.origin, s.help) for s in found),
    )
