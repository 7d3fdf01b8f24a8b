"""``mrcelery doctor``."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import click

from mrcelery import __version__
from mrcelery.cli.common import connection_options, epilog, json_option, print_json
from mrcelery.config import Config, mask
from mrcelery.errors import MRCeleryError


@click.command(epilog=epilog("mrcelery doctor", "mrcelery doctor --storage s3://bucket/prefix --json"))
@connection_options
@json_option
def command(as_json: bool, **settings: Any) -> int:
    """Check that the broker answers, and that the storage keeps the rules that the commits need."""
    config = Config.load(settings)
    found = [{"check": "mrcelery", "ok": True, "says": f"{__version__}, Python {platform.python_version()}"}]
    code = 0
    for name, target, check in (
        ("broker", config.broker, _broker),
        ("storage", config.storage, _storage),
    ):
        if not target:
            found.append({"check": name, "ok": True, "says": "not configured: the local runner needs none"})
            continue
        problem, exit_code = _try(check, config)
        code = code or exit_code
        found.append({"check": name, "ok": not problem, "says": problem or f"{mask(target)} works"})
    if as_json:
        print_json(found)
    else:
        for line in found:
            click.echo(f"{'ok  ' if line['ok'] else 'FAIL'}  {line['check']}: {line['says']}")
    return code


def _try(check: Callable[[Config], None], config: Config) -> tuple[str, int]:
    try:
        check(config)
    except MRCeleryError as e:
        return str(e), e.exit_code
    return "", 0


def _broker(config: Config) -> None:
    from mrcelery.executor.fleet import FleetRunner

    runner = FleetRunner(config.broker, config.result_backend or None)
    try:
        runner.store.jobs(1)
    finally:
        runner.close()


def _storage(config: Config) -> None:
    from mrcelery.api import storage_root
    from mrcelery.storage import check, open_storage

    check(open_storage(storage_root(config)))
