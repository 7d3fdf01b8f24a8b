"""``mrcelery doctor``."""

from __future__ import annotations

from typing import Any

import click

from mrcelery.cli.common import Filled, connection_options, epilog, json_option, print_json, print_table, show_seconds
from mrcelery.cli.terminal import say
from mrcelery.config import Config
from mrcelery.doctor.checks import Doctor
from mrcelery.errors import UnreachableError, on_a_line

_SIGNS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command(epilog=epilog("mrcelery doctor", "mrcelery doctor --storage s3://bucket/prefix --json"))
@connection_options
@click.option("--queue", type=Filled(), metavar="NAME", help="Celery queue of the jobs  [celery]")
@json_option
def command(as_json: bool, **settings: Any) -> int:
    """Check broker, storage, clocks and workers, and say what to do about what is wrong.

    Exits with 0, even if there are warnings, and with 3 if something fails. With --json: ok, findings (check,
    level ok, warn or fail, saw, do) and workers.
    """

    doctor = Doctor(Config.load(settings))
    findings = []
    for finding in doctor.findings():
        findings.append(finding)
        if not as_json:
            say(f"{_SIGNS[finding.level]}  {finding.check}: {on_a_line(finding.saw)}")
            if finding.do:
                say(f"      {on_a_line(finding.do)}")
    failed = any(finding.level == "fail" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": findings, "workers": doctor.workers})
    elif doctor.workers:
        click.echo()
        print_table(
            ("WORKER", "HOST", "QUEUES", "PROCESSES", "PYTHON", "MRCELERY", "CELERY", "CLOCK", "SEEN"),
            (
                (
                    w.name,
                    w.host,
                    ",".join(w.queues),
                    str(w.processes),
                    *(w.versions.get(name, "?") for name in ("python", "mrcelery", "celery")),
                    f"{round(w.skew, 1) + 0.0:+.1f} s",  # no -0.0
                    f"{show_seconds(w.age)} ago{', lost' if w.silent else ''}",
                )
                for w in doctor.workers
            ),
        )
    if not as_json and any(finding.level != "ok" for finding in findings):
        click.echo("\nFor more, see `mrcelery help troubleshooting`.")
    return UnreachableError.exit_code if failed else 0
