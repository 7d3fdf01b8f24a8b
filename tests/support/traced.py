"""A job that leaves a trace of each of its tasks, and waits or fails as its files say."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.errors import WaitTimeoutError

QUICK = {"MRCELERY_VISIBILITY_TIMEOUT": "4"}

# Each mapper and reducer leaves a file with a unique name for each run, and waits while its gate exists.
TRACED = """
    import os, time, uuid
    from mrcelery import MRJob

    class Traced(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--folder")

        def ran(self, what):
            folder = self.options.folder
            open(os.path.join(folder, f"{what}.{uuid.uuid4().hex}"), "w").close()
            while os.path.exists(os.path.join(folder, f"wait-{what}")):
                time.sleep(0.02)
            if os.path.exists(os.path.join(folder, f"fail-{what}")):
                raise ValueError(f"{what} is told to fail")

        def mapper(self, _, line):
            self.ran(line)
            yield line[:1], 1

        def reducer(self, key, values):
            self.ran("reduce-" + key)
            yield key, sum(values)
"""

LINES = ["a1", "a2", "b1", "b2", "c1", "c2"]

COUNTS = {"a": 2, "b": 2, "c": 2}


class Traced:
    """A job that leaves a trace of each of its tasks: six maps and two reducers."""

    def __init__(self, folder: Path, file: str) -> None:
        self.file = file
        self.folder = folder / "traces"
        self.folder.mkdir()
        self.text = folder / "lines.txt"
        self.text.write_text("".join(f"{line}\n" for line in LINES))

    def submit(self, **settings: Any) -> mrcelery.JobHandle:
        args = ["--folder", str(self.folder)]
        return mrcelery.submit(self.file, str(self.text), args=args, split_size=3, reducers=2, **settings)

    def runs(self) -> dict[str, int]:
        """Return how often each task has run."""
        found: dict[str, int] = {}
        for name in os.listdir(self.folder):
            if re.fullmatch(r".*\.[0-9a-f]{32}", name):
                found[name.partition(".")[0]] = found.get(name.partition(".")[0], 0) + 1
        return found

    def gate(self, name: str) -> Path:
        path = self.folder / name
        path.touch()
        return path


def look_once(handle: mrcelery.JobHandle) -> None:
    """Look at the job once, as a wait does before it finds the job lost."""
    with pytest.raises(WaitTimeoutError):
        handle.wait(0)
