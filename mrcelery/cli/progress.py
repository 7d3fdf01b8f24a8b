"""What a waiting command shows of its job: a live picture on a terminal, lines elsewhere, or events as JSON."""

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

from mrcelery.cli import picture
from mrcelery.cli.common import show_seconds
from mrcelery.cli.errors import show_error
from mrcelery.errors import JobCancelledError, JobFailedError, MRCeleryError, UsageError
from mrcelery.states import FINAL

if TYPE_CHECKING:
    from mrcelery.cli.live import LiveView, Transfers
    from mrcelery.events import Event
    from mrcelery.handle import JobHandle
    from mrcelery.overview import Overview
    from mrcelery.report import Report
    from mrcelery.story import Narrator, Progress, StageStarted, StageSucceeded

QUIET_SECONDS = 0.5
"""A job that ends sooner shows nothing, and does not pay for the import of rich."""

PLAIN_QUIET_SECONDS = 5.0
"""Nor does one that ends so soon where there is no terminal: of one that fails, why is said first."""

POLL_SECONDS = 0.5
"""How often a job is looked at to be shown; to know when it ends, more often."""

POLL_SHARE = 0.05
"""Part of the time that the looks may take, on a slow line."""

PLAIN_SECONDS = 10.0
"""How often a line tells how far a stage is, where there is no terminal."""

Mode = Literal["off", "json", "plain", "live"]


class Display:
    """A context manager; its methods are called as a job or a file moves on.

    ``quiet``: show nothing (of ``as_json``: the last event only).
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
        """Look at a job from a thread, while it runs in this process, until :meth:`unwatch`."""
        if self.mode == "off" or (self.mode == "json" and self.quiet):
            return
        if self.mode == "live":
            # A picture would be in the way of what the job prints, and of a debugger.
            self.mode, self._due = "plain", self._began + PLAIN_QUIET_SECONDS

        def poll_on() -> None:
            while not self._stop.wait(0.05 if self.mode == "json" else POLL_SECONDS):
                self.poll(handle)

        self._watcher = threading.Thread(target=poll_on, daemon=True)
        self._watcher.start()

    def unwatch(self) -> None:
        """Stop that thread, where there is one."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def poll(self, handle: JobHandle) -> None:
        """Look at a job where it is time to, and show it."""
        if time.monotonic() < self._due or self.mode == "off" or (self.mode == "json" and self.quiet):
            return
        began = time.monotonic()
        with suppress(UsageError):  # a broker that came back empty may not know it for a moment
            found = handle.glance()
            if found.state in FINAL:
                return  # it ended since it was last seen to run: of one that failed, why is said before anything else
            self._show(found)
            took = time.monotonic() - began
            self._due = began + took + max(POLL_SECONDS, took / POLL_SHARE)

    def _show(self, found: Overview) -> None:
        for event in self._news(found):
            self._tell(event)
        self.shown = True
        self._last = found
        if self.mode == "live":
            if self._view is None:
                from mrcelery.cli.live import LiveView

                self.close()
                self._view = LiveView()
            self._draw(found)

    def _news(self, found: Overview) -> list[Event]:
        from mrcelery import story

        news: list[Event] = []
        if self._narrator is None:
            self._narrator = story.Narrator()
            if self.mode == "json":
                news.append(story.submitted(found))
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
        """Say what happens to a job, as :meth:`mrcelery.JobHandle.wait` tells it."""
        from mrcelery import events

        again = isinstance(event, events.NoWorkers) and self._no_workers
        if isinstance(event, (events.NoWorkers, events.WorkersFound)):
            self._no_workers = isinstance(event, events.NoWorkers)
        if isinstance(event, (events.BrokerLost, events.BrokerBack)):
            self._no_broker = isinstance(event, events.BrokerLost)
        # The picture says it all the time.
        if not (again and self._view is not None):
            good = isinstance(event, (events.BrokerBack, events.StorageBack, events.WorkersFound))
            self._tell(event, style="green" if good else "yellow")
        if self._view is not None and self._last is not None:
            self._draw(self._last)

    def _tell(self, event: Event, style: str = "yellow") -> None:
        from mrcelery import story

        if self.mode == "json":
            if not self.quiet:
                click.echo(story.line(event), nl=False)
        elif isinstance(event, (story.StageStarted, story.StageSucceeded, story.Progress)):
            if self.mode == "plain" and self._worth_a_line(event):
                self._say(str(event))
        else:
            self._say(str(event), style)

    def _worth_a_line(self, event: StageStarted | StageSucceeded | Progress) -> bool:
        from mrcelery import story

        stage = event.step, event.kind
        if isinstance(event, story.Progress) and event.at - self._plain.get(stage, 0.0) < PLAIN_SECONDS:
            return False
        self._plain[stage] = event.at
        return True

    def _say(self, text: str, style: str = "") -> None:
        if self.mode == "off":
            return
        if self._view is not None:
            self._view.say(f"mrcelery: {text}", style)
        else:
            click.echo(f"mrcelery: {text}", err=True)

    def ends(self, always: bool) -> bool:
        """Whether :meth:`end` has anything to show."""
        return self.mode == "json" or self.shown or (always and self.mode == "live")

    def end(self, found: Overview, report: Report | None, after: Sequence[str] = ()) -> None:
        """Show how a job ended, and the commands that one may want next, where it :meth:`ends`."""
        if self.mode == "json":
            from mrcelery import story

            if not self.quiet:
                for event in self._news(found):
                    self._tell(event)
            click.echo(story.line(story.ended(found, report)), nl=False)
            return
        if self.shown and found.state == "succeeded":  # of another, why it ended was said just now
            for event in self._news(found):
                self._tell(event)
        self.close()
        if self.mode == "live":
            picture.echo(picture.summary(found, report, after, signs=self._signs), err=True)
        else:
            told = "; next: " + ", ".join(after) if after else ""
            lasted = show_seconds(found.finished - (found.started or found.created))
            self._say(f"job {found.job}: {picture.phase(found)[0]} after {lasted}{told}")

    # -- files ----------------------------------------------------------------------------------

    def upload(self, name: str, sent: int, size: int) -> None:
        """Show a file on its way to storage; sizes in bytes."""
        self._move(f"upload {name}", sent, size)

    def download(self, name: str, size: int) -> None:
        """Show a part file on its way home; called with the bytes of each piece."""
        self._fetched += size
        self._move("fetch", self._fetched, None)

    def _move(self, label: str, done: int, total: int | None) -> None:
        if self.mode != "live" or time.monotonic() - self._began < QUIET_SECONDS:
            return
        if self._transfers is None:
            from mrcelery.cli.live import Transfers

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
    """Wait for a job's end and show it meanwhile; returns the exit code.

    ``after`` makes the commands that one may want next; ``then`` is called before they are shown, where the job has
    succeeded, with the terminal left alone.
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
        with suppress(MRCeleryError):  # how it ended is known; the storage may be out of this client's reach
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


def _terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
