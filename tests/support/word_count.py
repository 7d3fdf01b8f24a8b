"""A word count, and how to run it in the test's own process."""

from __future__ import annotations

from typing import Any

import mrcelery
from mrcelery import MRJob
from mrcelery.client.api import JobHandle

TEXT = "to be or not to be\nthat is the question\n"


class WordCount(MRJob):
    def mapper(self, _: None, line: str) -> Any:
        for word in line.split():
            self.increment_counter("words", "seen")
            yield word, 1

    def reducer(self, word: str, counts: Any) -> Any:
        yield word, sum(counts)


def inline(job: type[MRJob] | str, output: str | None = None, **options: Any) -> JobHandle:
    return mrcelery.run(job, "in.txt", output, runner="inline", **options)
