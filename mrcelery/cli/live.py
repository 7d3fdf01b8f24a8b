"""A picture on a terminal that is redrawn in place, with messages above it.

Imported, and rich with it, only once a job takes long enough to be shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from mrcelery.cli.picture import Line
from mrcelery.errors import on_a_line, visible


class LiveView:
    """A picture on stderr; nothing of it stays after :meth:`stop`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        # Drawn at each poll and not by a thread. What user code or we write to stdout is data, and is not redirected.
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()

    def show(self, picture: Callable[[int, int], list[Line]]) -> None:
        """Draw the lines that ``picture`` makes for a width and a height."""
        lines = picture(self._console.width - 1, self._console.height)[: self._console.height - 1]
        text = [_text(line) for line in lines]
        self._live.update(Text("\n").join(text), refresh=True)

    def say(self, text: str, style: str) -> None:
        """Print a line above the picture; it stays."""
        self._console.print(Text(visible(text), style=style))

    def stop(self) -> None:
        """Remove the picture from the terminal."""
        self._live.stop()


class Transfers:
    """Progress bars of files being transferred."""

    def __init__(self) -> None:
        columns: list[Any] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TimeElapsedColumn(),
        ]
        self._rich = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._bars: dict[str, TaskID] = {}
        self._rich.start()

    def show(self, label: str, done: int, total: int | None) -> None:
        """Show ``done`` bytes of a file, of a total that may be unknown."""
        if label not in self._bars:
            self._bars[label] = self._rich.add_task(on_a_line(label), total=total)
        self._rich.update(self._bars[label], completed=done, total=total)

    def stop(self) -> None:
        """Remove the bars from the terminal."""
        self._rich.stop()


def _text(line: Line) -> Text:
    pieces = [(on_a_line(text), style) for text, style in line]
    return Text.assemble(*pieces, no_wrap=True, overflow="crop", end="")
