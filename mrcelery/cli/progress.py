"""Progress of a waiting command: a bar per stage on stderr, on a terminal only."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from mrcelery.api import JobStatus

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mrcelery.events import Event

_QUIET_SECONDS = 0.5
"""A job that ends sooner shows nothing, and does not pay for the import of rich."""


class Bars:
    """A context manager; its methods are called as a job or an upload moves on."""

    def __init__(self, quiet: bool = False) -> None:
        self.on = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._since = time.monotonic()
        self._rich: Progress | None = None
        self._fetched = 0
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars off the terminal."""
        if self._rich is not None:
            self._rich.stop()

    def job(self, status: JobStatus) -> None:
        """Show a job's stages; called at each look of a wait."""
        for stage in status.stages:
            self._show(f"step {stage.step} {stage.kind}", stage.done, stage.total, "tasks")

    def event(self, event: Event) -> None:
        """Say what happens to a job, on stderr; also where there are no bars."""
        if self._rich is not None:
            self._rich.console.print(f"mrcelery: {event}", markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(f"mrcelery: {event}", err=True)

    def upload(self, name: str, sent: int, size: int) -> None:
        """Show a file on its way to storage; sizes in bytes."""
        self._show(f"upload {name}", sent, size, "bytes")

    def download(self, name: str, size: int) -> None:
        """Show a part file on its way home; called with the bytes of each piece."""
        self._fetched += size
        self._show("fetch", self._fetched, None, "bytes")

    def _show(self, label: str, done: int, total: int | None, unit: str) -> None:
        if not self.on or time.monotonic() - self._since < _QUIET_SECONDS:
            return
        if self._rich is None:
            self._rich = _rich_progress()
            self._rich.start()
        if label not in self._bars:
            self._bars[label] = self._rich.add_task(label, total=total, unit=unit)
        self._rich.update(self._bars[label], completed=done, total=total)


def _rich_progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
    ]
    return Progress(*columns, console=Console(stderr=True), transient=True)
