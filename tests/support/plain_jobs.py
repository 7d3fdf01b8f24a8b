"""The least of jobs and hooks."""

from __future__ import annotations

from typing import Any

from mrcelery.job.base import MRJob


class WordCount(MRJob):
    def mapper(self, _: Any, line: str) -> Any:
        for word in line.split():
            yield word, 1

    def combiner(self, word: str, counts: Any) -> Any:
        yield word, sum(counts)

    def reducer(self, word: str, counts: Any) -> Any:
        yield word, sum(counts)


def identity(key: Any, value: Any) -> Any:
    yield key, value


PLAIN = """
    class Job(MRJob):
        def mapper(self, _, line):
            yield line, 1
"""
