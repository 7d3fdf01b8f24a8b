"""A job as a file, its input, and what a command left."""

from __future__ import annotations

import json
from typing import Any

TEXT = "a b c\nb c\nc\n"

JOB = """
from mrcelery import MRJob

class WordCount(MRJob):
    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--min", type=int, default=0, help="least count")
        self.add_passthru_arg("--also", nargs="*", default=[])
        self.add_passthru_arg("-q", "--question", action="store_true")

    def mapper(self, _, line):
        if "boom" in line:
            raise ValueError("no bombs")
        for word in line.split() + self.options.also:
            self.increment_counter("words", "seen")
            yield word, 1

    def reducer(self, word, counts):
        count = sum(counts)
        if count >= self.options.min:
            yield word, count

if __name__ == "__main__":
    WordCount.run()
"""


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def last(self) -> Any:
        """The last line of what ``--json`` printed."""
        return json.loads(self.out.splitlines()[-1])

    def counts(self) -> dict[str, int]:
        return {json.loads(k): json.loads(v) for k, v in (line.split("\t") for line in self.out.splitlines())}
