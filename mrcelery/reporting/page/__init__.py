"""The pages of jobs and of one job as HTML: pure functions of their data.

A page is one self-contained file: its data as JSON, and the style and the script that draw it. The page in Flower and
the report kept in storage are the same, except that the first one polls for updates (:class:`Live`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from html import escape
from pathlib import Path

import msgspec

from mrcelery.reporting.overview import Overview
from mrcelery.schema.structs import BadRecord

_BEFORE_POLICY = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src 'self'; connect-src 'self'; """
_BEFORE_TITLE = b"""">
<title>"""
_BEFORE_STYLE = b""" - mrcelery</title>
<style>"""
_BEFORE_DATA = b"""</style>
</head>
<body>
<main id="page"><noscript>This page needs JavaScript; <code>mrcelery status</code> shows the same.</noscript></main>
<script type="application/json" id="data">"""
_BEFORE_SCRIPT = b"""</script>
<script>"""
_END = b"""</script>
</body>
</html>
"""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Excerpts from storage shown with a job, limited in size."""

    logs: dict[str, str] = {}
    """The output of failed attempts, by ``<step>.<kind>.<task>.<attempt>``."""
    bad_records: tuple[BadRecord, ...] = ()
    more_bad_records: int = 0
    """1 if there are more than these."""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """Where a page polls for updates, and which actions it offers."""

    base: str = ""
    """Prefix of all paths: Flower's ``url_prefix``."""
    actions: bool = False
    """Whether jobs may be cancelled and retried from here."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the list of jobs. Times are epoch seconds, 0 if not yet known; ``progress`` is 0 to 1."""

    job: str
    name: str = ""
    owner: str = ""
    state: str
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    progress: float = 0.0
    stage: str = ""
    """The running stage, whose tasks ``succeeded`` and ``tasks`` count. For an ended job they count all tasks."""
    succeeded: int = 0
    tasks: int = 0
    failed: int = 0
    """Attempts of a running stage that failed, or were lost with their process or worker."""
    message: str = ""
    """Why it failed, or its last ``set_status`` message."""


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """The list of jobs, newest first, at the time ``now``."""

    jobs: Sequence[Row]
    now: float


def job_page(
    found: Overview, evidence: Evidence | None = None, live: Live | None = None, workers: int | None = None
) -> bytes:
    """Render the page of a job; without ``live`` its report.

    ``workers``: how many listen on its queue, None if not known.
    """
    told = {"kind": "job", "overview": found, "evidence": evidence, "live": live, "workers": workers}
    return _html(found.name or found.job, msgspec.json.encode(told))


def jobs_page(found: Jobs, live: Live) -> bytes:
    """Render the page of all jobs."""
    return _html("Jobs", msgspec.json.encode({"kind": "jobs", "jobs": found.jobs, "now": found.now, "live": live}))


def _html(title: str, data: bytes) -> bytes:
    # In a script element nothing is escaped, and only "<" could end it or begin a comment; in JSON it occurs only in
    # strings.
    inert = data.replace(b"<", b"\\u003c")
    named = escape(title).encode("utf-8", "replace")
    style, script = _asset("page.css"), _asset("page.js")
    # The second line of defense: a browser runs only this script, whatever the data contains.
    policy = f"style-src '{_digest(style)}'; script-src '{_digest(script)}'".encode()
    return b"".join((_BEFORE_POLICY, policy, _BEFORE_TITLE, named, _BEFORE_STYLE, style, _BEFORE_DATA, inert,
                     _BEFORE_SCRIPT, script, _END))  # fmt: skip


@cache
def _digest(asset: bytes) -> str:
    return f"sha256-{b64encode(sha256(asset).digest()).decode()}"


@cache
def _asset(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
