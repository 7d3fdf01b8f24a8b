"""Shows the job that a command waits for: a live picture on a terminal, lines elsewhere, or events as JSON."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import click

from mrcelery import events
from mrcelery.cli import picture
from mrcelery.cli.common import show_seconds
from mrcelery.cli.errors import show_error
from mrcelery.cli.terminal import say
from mrcelery.errors import JobCancelledError, JobFailedError, MRCeleryError, UsageError
from mrcelery.schema.states import FINAL

if TYPE_CHECKING:
    from mrcelery.cli.live import LiveView, Transfers
    from mrcelery.client.handle import JobHandle
    from mrcelery.events import Event
    from mrcelery.reporting.overview import Overview
    from mrcelery.reporting.report import Report
    from mrcelery.reporting.timeline import Narrator, Progress, StageStarted, StageSucceeded

QUIET_SECONDS = 0.5
"""Run time up to which a job shows nothing, and rich is not imported."""

PLAIN_QUIET_SECONDS = 5.0
"""Run time up to which a job prints no lines without a terminal; if it fails, the error comes first."""

POLL_SECONDS = 0.5
"""Seconds between two polls for the display; the job's end is polled for more often."""

POLL_SHARE = 0.05
"""Share of the time that the polls may take, on a slow connection."""

PLAIN_SECONDS = 10.0
"""Seconds between two lines on the progress of a stage, without a terminal."""

Mode = Literal["off", "json", "plain", "live"]


class Display:
    """Shows jobs and file transfers; a context manager, whose methods are called as they progress.

    ``quiet``: show nothing (with ``as_json``: only the last event).
    """

    def __init__(self, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet = quiet
        self.mode: Mode = "json" if as_json else "off" if quiet else "live" if _terminal() else "plain"
        self.shown = False
        """Whether anything of the job was shown."""
        self._began = time.monotonic()
        quiet_for = {"json": 0.0, "plain": PLAIN_QUIET_SECONDS}.get(self.mode, QUIET_SECONDS)
        self._due = self._began + quiet_for
        self._signs = picture.signs(sys.stderr)
        self._narrator: Narrator | None = None
        self._plain: dict[tuple[int, str], float] = {}
        self._last: Overview | None = None
        self._no_workers = False
        self._no_broker = False
        self._view: LiveView | None = None
        self._transfers: Transfers | None = None
        self._fetched = 0
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.unwatch()
        for shown in (self._view, self._transfers):
            if shown is not None:
                shown.stop()
        self._view = self._transfers = None

    # -- a job ----------------------------------------------------------------------------------

    def watch(self, handle: JobHandle) -> None:
        """Poll a job that runs in this process from a thread, until :meth:`unwatch`."""
        if self.mode == "off" or (self.mode == "json" and self.quiet):
            return
        if self.mode == "live":
            # A picture would overwrite what the job or a debugger prints.
            self.mode, self._due = "plain", self._began + PLAIN_QUIET_SECONDS

        def poll_on() -> None:
            while not self._stop.wait(0.05 if self.mode == "json" else POLL_SECONDS):
                self.poll(handle)

        self._watcher = threading.Thread(target=poll_on, daemon=True)
        self._watcher.start()

    def unwatch(self) -> None:
        """Stop that thread, if it runs."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def poll(self, handle: JobHandle) -> None:
        """Read a job and show it, if it is time to."""
        if time.monotonic() < self._due or self.mode == "off" or (self.mode == "json" and self.quiet):
            return
        began = time.monotonic()
        with suppress(UsageError):  # a broker that restarted empty may not know it for a moment
            self._show(handle.glance())
            took = time.monotonic() - began
            self._due = began + took + max(POLL_SECONDS, took / POLL_SHARE)

    def _show(self, found: Overview) -> None:
        if found.state in FINAL:
            return  # it ended after the waiting client's own poll: of one that failed, the user's traceback comes first
        for event in self._news(found):
            self._emit(event)
        self.shown = True
        self._last = found
        if self.mode == "live":
            if self._view is None:
                from mrcelery.cli.live import LiveView  # noqa: PLC0415 - rich takes longer than a small job

                self.close()
                self._view = LiveView()
            self._draw(found)

    def _news(self, found: Overview) -> list[Event]:
        from mrcelery.reporting import timeline  # noqa: PLC0415 - short jobs show no progress

        news: list[Event] = []
        if self._narrator is None:
            self._narrator = timeline.Narrator()
            if self.mode == "json":
                news.append(timeline.submitted(found))
            elif self.mode == "plain" and found.finished == 0:
                self._say(f"job {found.job}: {picture.phase(found)[0]}")
        return news + self._narrator.observe(found)

    def _draw(self, found: Overview) -> None:
        assert self._narrator is not None
        assert self._view is not None
        speed = self._narrator.speed
        trouble = "broker not reachable" if self._no_broker else picture.nobody(found) if self._no_workers else ""
        self._view.show(
            lambda width, height: picture.running(found, speed, width, height, trouble=trouble, signs=self._signs)
        )

    def event(self, event: Event) -> None:
        """Show an event, as :meth:`mrcelery.JobHandle.wait` reports it."""

        again = isinstance(event, events.NoWorkers) and self._no_workers
        if isinstance(event, (events.NoWorkers, events.WorkersFound)):
            self._no_workers = isinstance(event, events.NoWorkers)
        if isinstance(event, (events.BrokerLost, events.BrokerBack)):
            self._no_broker = isinstance(event, events.BrokerLost)
        # The picture shows it all the time.
        if not (again and self._view is not None):
            good = isinstance(event, (events.BrokerBack, events.StorageBack, events.WorkersFound, events.WorkersWell))
            self._emit(event, style="green" if good else "yellow")
        if self._view is not None and self._last is not None:
            self._draw(self._last)

    def _emit(self, event: Event, style: str = "yellow") -> None:
        from mrcelery.reporting import timeline  # noqa: PLC0415 - short jobs show no progress

        if self.mode == "json":
            if not self.quiet:
                click.echo(timeline.line(event), nl=False)
        elif isinstance(event, (timeline.StageStarted, timeline.StageSucceeded, timeline.Progress)):
            if self.mode == "plain" and self._worth_a_line(event):
                self._say(str(event))
        else:
            self._say(str(event), style)

    def _worth_a_line(self, event: StageStarted | StageSucceeded | Progress) -> bool:
        from mrcelery.reporting import timeline  # noqa: PLC0415 - short jobs show no progress

        stage = event.step, event.kind
        if isinstance(event, timeline.Progress) and event.at - self._plain.get(stage, 0.0) < PLAIN_SECONDS:
            return False
        self._plain[stage] = event.at
        return True

    def _say(self, text: str, style: str = "") -> None:
        if self.mode == "off":
            return
        if self._view is not None:
            self._view.say(f"mrcelery: {text}", style)
        else:
            say(f"mrcelery: {text}", err=True)

    def ends(self, always: bool) -> bool:
        """Return whether :meth:`end` has anything to show."""
        return self.mode == "json" or self.shown or (always and self.mode == "live")

    def end(self, found: Overview, report: Report | None, after: Sequence[str] = ()) -> None:
        """Show how a job ended, and the commands a user may want next; call it only if it :meth:`ends`."""
        if self.mode == "json":
            from mrcelery.reporting import timeline  # noqa: PLC0415 - short jobs show no progress

            if not self.quiet:
                for event in self._news(found):
                    self._emit(event)
            click.echo(timeline.line(timeline.ended(found, report)), nl=False)
            return
        if self.shown and found.state == "succeeded":  # otherwise the error was shown just now
            for event in self._news(found):
                self._emit(event)
        self.close()
        if self.mode == "live":
            picture.echo(picture.summary(found, report, after, signs=self._signs), err=True)
        else:
            told = "; next: " + ", ".join(after) if after else ""
            lasted = show_seconds(found.finished - (found.started or found.created))
            self._say(f"job {found.job}: {picture.phase(found)[0]} after {lasted}{told}")

    # -- files ----------------------------------------------------------------------------------

    def upload(self, name: str, sent: int, size: int) -> None:
        """Show the upload of a file; sizes in bytes."""
        self._move(f"upload {name}", sent, size)

    def download(self, name: str, size: int) -> None:
        """Show the download of a part file; called with the bytes of each piece."""
        self._fetched += size
        self._move("fetch", self._fetched, None)

    def _move(self, label: str, done: int, total: int | None) -> None:
        if self.mode != "live" or time.monotonic() - self._began < QUIET_SECONDS:
            return
        if self._transfers is None:
            from mrcelery.cli.live import Transfers  # noqa: PLC0415 - rich takes longer than a small job

            self._transfers = Transfers()
        self._transfers.show(label, done, total)


def see_through(
    handle: JobHandle,
    display: Display,
    after: Callable[[Overview], Sequence[str]],
    timeout: float | None = None,
    *,
    always: bool = False,
    then: Callable[[], None] | None = None,
) -> int:
    """Wait for a job's end and show it meanwhile; return the exit code.

    ``after`` makes the commands a user may want next; ``then`` is called before they are shown if the job has
    succeeded, with nothing else on the terminal.
    """
    display.unwatch()
    error: JobFailedError | JobCancelledError | None = None
    watches = display.mode != "off"
    try:
        handle.wait(timeout, (lambda _: display.poll(handle)) if watches else None, display.event)
    except (JobFailedError, JobCancelledError) as e:
        error = e
    found, report = None, None
    if display.ends(always or error is not None):
        with suppress(MRCeleryError):  # its end is known; the storage may be unreachable from here
            found = handle.glance()
            report = handle.report() if error is None else None
    if error is not None:
        display.close()
        show_error(error)
    elif then is not None:
        display.close()
        then()
    if found is not None:
        display.end(found, report, after(found))
    return error.exit_code if error is not None else 0


def print_detached(handle: JobHandle, *, as_json: bool) -> None:
    """Print the id of a job that nobody waits for, or its event ``submitted``."""
    if as_json:
        from mrcelery.reporting import timeline  # noqa: PLC0415 - only --json needs it

        click.echo(timeline.line(timeline.submitted(handle.glance())), nl=False)
    else:
        say(handle.id)


def _terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
