"""Renders a job for a terminal: while it runs, and when it has ended.

Both are lines of styled pieces, made without a terminal: a live display, ``status`` and a summary show them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

import click

from mrcelery.cli.common import show_seconds
from mrcelery.config import show_size
from mrcelery.errors import on_a_line

if TYPE_CHECKING:
    from mrcelery.reporting.overview import Overview, StageView, Straggler
    from mrcelery.reporting.rates import Speed
    from mrcelery.reporting.report import Report
    from mrcelery.schema.states import State

Piece = tuple[str, str]
"""A text and its style: words of bold, dim and a color."""

Line = list[Piece]

SLOWEST = 3
"""Running attempts that are shown, at most."""

_BAR = 36
"""Width of a bar, at most."""

_INDENT = 4
"""Indent of the lines under a stage's name."""


class Signs(NamedTuple):
    """The symbols of a picture."""

    succeeded: str
    failed: str
    cancelled: str
    running: str
    queued: str
    full: str
    empty: str
    arrow: str
    dot: str
    more: str


UNICODE = Signs("✔", "✘", "■", "▶", "◌", "━", "─", "→", " · ", "…")
ASCII = Signs("+", "x", "#", ">", ".", "#", "-", "->", ", ", "~")


def signs(out: TextIO) -> Signs:
    """Choose the symbols that a stream can encode."""
    try:
        "".join(UNICODE).encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def nobody(found: Overview) -> str:
    """Say that no worker listens on the queue of a job."""
    return f"no worker listens on queue {found.queue or 'celery'}"


def phase(found: Overview, trouble: str = "") -> tuple[str, str]:
    """Return a job's state, what to say of it, and its color. ``trouble``: why it makes no progress just now."""
    if found.state == "succeeded":
        return found.state, "green"
    if found.state == "cancelled":
        return found.state, "magenta"
    if found.state == "failed":
        return _how_failed(found), "red"
    if trouble:
        return f"{found.state}, {trouble}", "yellow"
    if found.state == "queued":
        return found.state, "yellow"
    retries = any(_retries(stage) for stage in found.stages)
    return ("running, with retries", "yellow") if retries else (found.state, "cyan")


def _how_failed(found: Overview) -> str:
    failure = found.failure
    if failure is None:
        return "failed"
    if failure.error == "UserCodeError":
        return "failed in user code"
    if failure.error == "AttemptsLostError":
        return "failed by a worker's death"
    return "failed, broker or storage unreachable" if failure.exit_code == 3 else "failed"


def _retries(stage: StageView) -> bool:
    """Return whether what is left of a stage is mostly tasks that failed before."""
    bad = _bad(stage)
    return stage.state == "running" and bad > 0 and (stage.sums.running == 0 or stage.tasks - stage.succeeded <= bad)


def _bad(stage: StageView) -> int:
    return stage.sums.failed + stage.sums.killed + stage.sums.lost


def running(
    found: Overview,
    speed: Speed,
    width: int = 80,
    height: int = 24,
    *,
    trouble: str = "",
    signs: Signs = UNICODE,
) -> list[Line]:
    """Render a running job in lines of at most ``width`` characters, and about ``height`` lines at most."""
    lines = [_header(found, trouble, signs)]
    if found.message:
        lines.append([("  says ", "dim"), (found.message, "")])
    blocks = [(stage.state, _stage(found, stage, speed, width, signs)) for stage in found.stages]
    slow = [line for stage in found.stages for line in _slowest(stage)]
    if sum(len(block) for _, block in blocks) > height - len(lines) - len(slow) - 1:
        blocks = _folded(blocks, signs)
    lines += [line for _, block in blocks for line in block]
    return [cut(line, width, signs) for line in lines + slow]


def _header(found: Overview, trouble: str, signs: Signs) -> Line:
    word, colour = phase(found, trouble)
    since = found.started or found.created
    lasted = ""
    if since:
        lasted = show_seconds(found.finished - since) if found.finished else clock(found.now - since)
    return [
        (f"{getattr(signs, found.state)} {word}", f"bold {colour}"),
        (f"  {lasted}", ""),
        (f"  {found.job}", "dim"),
    ]


def _stage(found: Overview, stage: StageView, speed: Speed, width: int, signs: Signs) -> list[Line]:
    label = name_of(found, stage).ljust(max(len(name_of(found, other)) for other in found.stages))
    head: Line = [(f"  {_sign(stage, signs)} ", _colour(stage)), (label, "bold"), ("  ", "")]
    if stage.state == "queued" or not stage.entered:
        return [[*head, (stage.state, "dim")]]
    again: Line = [(f"  {_bad(stage):,} retried", "yellow")] if _bad(stage) else []
    if stage.state != "running":
        seconds = clock(max(0.0, stage.ended - stage.entered))
        tasks = f"{stage.succeeded:,} of {stage.tasks:,}" if stage.succeeded < stage.tasks else f"{stage.tasks:,}"
        told = [f"{tasks} task{'' if stage.tasks == 1 else 's'} in {seconds}"]
        told.append(f"{count(stage.sums.records_in)} records")
        told += [show_size(stage.sums.bytes_in)] if stage.sums.bytes_in else []
        told += [f"{show_size(size)} shuffled"] if (size := _shuffled(found, stage)) else []
        room = width - sum(len(text) for text, _ in [*head, *again])
        return [[*head, (_fitting(told, room, signs), ""), *again]]
    counts = f"  {stage.succeeded:,}/{stage.tasks:,}  {stage.sums.running:,} running"
    room = width - sum(len(text) for text, _ in [*head, *again]) - len(counts)
    bar = _bar(stage.succeeded / stage.tasks if stage.tasks else 0.0, max(6, min(_BAR, room)), signs)
    first: Line = [*head, *bar, (counts, ""), *again]
    room = width - _INDENT
    told = _rates(found, stage, speed, means=True)
    if len(signs.dot.join(told)) > room:
        told = _rates(found, stage, speed, means=False)
    return [first, [(" " * _INDENT + _fitting(told, room, signs), "")]] if told else [first]


def _rates(found: Overview, stage: StageView, speed: Speed, *, means: bool) -> list[str]:
    """List a stage's rates; ``means``: include the mean of bytes, as of records."""
    rates = speed.of(stage, found.now)
    told = []
    if stage.left >= 0:
        told.append(f"{clock(stage.left)} left")
    if rates.mean_records >= 0:
        now = rates.records if rates.records >= 0 else rates.mean_records
        told.append(f"{count(now)} records/s, mean {count(rates.mean_records)}")
    if rates.mean_bytes > 0:
        now = rates.bytes if rates.bytes >= 0 else rates.mean_bytes
        told.append(f"{show_size(int(now))}/s" + (f", mean {show_size(int(rates.mean_bytes))}" if means else ""))
    if size := _shuffled(found, stage):
        told.append(f"shuffle {show_size(size)}")
    return told


def _shuffled(found: Overview, stage: StageView) -> int:
    from mrcelery.reporting.timeline import shuffled  # noqa: PLC0415 - only a drawn picture needs it

    return shuffled(found, stage)


def _slowest(stage: StageView) -> list[Line]:
    running = stage.running[:SLOWEST]
    if not running:
        return []
    workers = [_middle(one.worker, 30) for one in running]
    wide = max(map(len, workers))
    tasks = max(len(f"{one.task:,}") for one in running)
    return [
        [
            ("    slowest" if number == 0 else " " * 11, "dim"),
            (f"  {stage.kind} {one.task:>{tasks},}  {clock(one.seconds):>6}  {count(one.rate):>5}/s", ""),
            (_marks(one), "yellow"),
            (f"  {worker.ljust(wide)}", "dim"),
        ]
        for number, (one, worker) in enumerate(zip(running, workers, strict=True))
    ]


def _marks(one: Straggler) -> str:
    marks = (["straggler"] if one.slow else []) + (["backup runs"] if one.backed_up else [])
    return f"  {', '.join(marks)}" if marks else ""


def _folded(blocks: list[tuple[State, list[Line]]], signs: Signs) -> list[tuple[State, list[Line]]]:
    """Fold stages that have succeeded into one line, and those to come into another."""
    folded: list[tuple[State, list[Line]]] = []
    for state in ("succeeded", "running", "queued"):
        some = [block for block in blocks if block[0] == state]
        if state == "running" or len(some) < 2:
            folded += some
            continue
        style = "green" if state == "succeeded" else "dim"
        folded.append((state, [[(f"  {getattr(signs, state)} {len(some)} stages {state}", style)]]))
    return folded


def summary(found: Overview, report: Report | None, after: Sequence[str] = (), *, signs: Signs = UNICODE) -> list[Line]:
    """Render an ended job: its end, what it read and wrote, and the commands a user may want next."""
    from mrcelery.reporting.report import totals_of  # noqa: PLC0415 - only a drawn picture needs it

    totals = report.totals if report is not None else totals_of(found)
    lines = [_header(found, "", signs)]
    if totals.records_in or totals.bytes_in:
        shuffle = f" {signs.arrow} shuffle {show_size(totals.shuffle_bytes)}" if totals.shuffle_bytes else ""
        lines += rows("input", [f"{totals.records_in:,} records, {show_size(totals.bytes_in)}{shuffle}"])
    if report is not None and found.state == "succeeded":
        files = f"{len(report.parts):,} part file{'' if len(report.parts) == 1 else 's'}"
        where = f" at {found.output}" if found.output else ""
        lines += rows("output", [f"{totals.records_out:,} records, {show_size(totals.bytes_out)} in {files}{where}"])
    lines += rows("tasks", _tasks(found.stages))
    if bad := sum(stage.sums.bad_records for stage in found.stages):
        lines += rows("skipped", [f"{bad:,} bad records"], "yellow")
    return lines + rows("next", after, "bold")


def rows(name: str, texts: Sequence[str], style: str = "") -> list[Line]:
    """Return lines under a name, which precedes the first."""
    return [[(f"  {name if number == 0 else '':<9}", "dim"), (text, style)] for number, text in enumerate(texts)]


def _tasks(stages: Iterable[StageView]) -> list[str]:
    stages = [stage for stage in stages if stage.tasks]
    if not stages:
        return []
    succeeded, tasks = sum(stage.succeeded for stage in stages), sum(stage.tasks for stage in stages)
    told = [f"{succeeded:,} of {tasks:,} succeeded" if succeeded < tasks else f"{tasks:,}"]
    # If a broker lost its data meanwhile, fewer attempts than tasks were counted.
    told += [f"{started:,} attempts"] if (started := sum(stage.sums.started for stage in stages)) >= succeeded else []
    if failed := sum(stage.sums.failed for stage in stages):
        told.append(f"{failed:,} failed")
    if lost := sum(stage.sums.killed + stage.sums.lost for stage in stages):
        told.append(f"{lost:,} lost")
    return [", ".join(told)]


def name_of(found: Overview, stage: StageView) -> str:
    """Return the name of a stage in its job."""
    return stage.kind if max(other.step for other in found.stages) == 0 else f"step {stage.step} {stage.kind}"


def _sign(stage: StageView, signs: Signs) -> str:
    return str(getattr(signs, stage.state))


def _colour(stage: StageView) -> str:
    return {"succeeded": "green", "running": "cyan", "failed": "red"}.get(stage.state, "dim")


def _bar(part: float, width: int, signs: Signs) -> Line:
    full = int(part * width)
    return [(signs.full * full, "cyan"), (signs.empty * (width - full), "dim")]


def _fitting(told: Sequence[str], room: int, signs: Signs) -> str:
    """Join as many of the texts as there is room for, the first in any case."""
    text = told[0]
    for more in told[1:]:
        if len(text) + len(signs.dot) + len(more) <= room:
            text += signs.dot + more
    return text


def _middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}..{text[-(most - most // 2 - 1) :]}"


def cut(line: Line, width: int, signs: Signs) -> Line:
    """Cut a line to ``width`` characters at most."""
    found: Line = []
    room = width
    for text, style in line:
        text = on_a_line(text.replace("\n", " "))
        if len(text) > room:
            return [*found, (text[: max(0, room - 1)] + signs.more, style)] if room > 0 else found
        found.append((text, style))
        room -= len(text)
    return found


def clock(seconds: float) -> str:
    """Format a duration in whole seconds: ``42 s``, ``4m05s`` or ``2h07m``."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def count(number: float) -> str:
    """Format ``1234567`` as ``1.2M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scaled = number / (1e3 if unit == "k" else limit)
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def text_of(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(text for text, _ in line).rstrip()


def echo(lines: Iterable[Line], *, err: bool = False) -> None:
    """Print lines; in color on a terminal, unless NO_COLOR is set."""
    plain = bool(os.environ.get("NO_COLOR"))
    for line in lines:
        click.echo(on_a_line(text_of(line)) if plain else "".join(_styled(*piece) for piece in line), err=err)


def _styled(text: str, style: str) -> str:
    text = on_a_line(text)
    words = style.split()
    colour = next((word for word in words if word not in ("bold", "dim")), None)
    return click.style(text, fg=colour, bold="bold" in words or None, dim="dim" in words or None) if style else text


def after_fleet(found: Overview, home: str = "", *, no_workers: bool = False) -> list[str]:
    """List the commands a user may want next for a job on a fleet; ``home``: where its results were copied to."""
    job = found.job
    if no_workers:
        return [f"mrcelery worker --queue {found.queue or 'celery'}", f"mrcelery cancel {job}"]
    if found.state == "succeeded":
        return [f"mrcelery cat {home or found.output or job}", f"mrcelery report {job}", f"mrcelery logs {job}"]
    if found.state == "failed":
        return [f"mrcelery logs {job} --failed", f"mrcelery report {job}", f"mrcelery retry {job}"]
    if found.state == "cancelled":
        return [f"mrcelery retry {job}"]
    return [f"mrcelery wait {job}", f"mrcelery logs {job} -f", f"mrcelery cancel {job}"]


def after_here(found: Overview, storage: str, output: str = "") -> list[str]:
    """List the same for a job that ran on this machine; without a ``storage`` or an output it left nothing there."""
    cat = [f"mrcelery cat {output}"] if output and found.state == "succeeded" else []
    if not storage:
        return cat
    job = f"{found.job} --storage {storage}"
    if found.state == "succeeded":
        return [*(cat or [f"mrcelery cat {job}"]), f"mrcelery report {job}", f"mrcelery logs {job}"]
    return [f"mrcelery logs {job} --failed", f"mrcelery report {job}"]
