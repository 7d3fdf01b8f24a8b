"""The jobs of the chaos suite. Lines of their input say how long to sleep, so that faults meet running tasks."""

from __future__ import annotations

import os
import time

from mrcelery import MRJob, MRStep, ops

SLEEP = "~sleep"
"""Prefix of a line without data; the seconds to sleep follow."""


class Slow(MRJob):
    """Has ``--map-seconds`` and ``--reduce-seconds``, the sleep before a task's records in jobs that ask for it."""

    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--map-seconds", type=float, default=0.0)
        self.add_passthru_arg("--reduce-seconds", type=float, default=0.0)

    def rest_before_map(self):
        time.sleep(self.options.map_seconds)

    def rest_before_reduce(self):
        time.sleep(self.options.reduce_seconds)

    def words(self, line):
        """Return the line's words; for a line that asks to sleep, sleep and return none."""
        if line.startswith(SLEEP):
            time.sleep(float(line.split()[1]))
            return []
        self.increment_counter("text", "lines")
        return line.split()


class WordCount(Slow):
    """Counts words with a combiner, and with counters in both stages."""

    reducer_init = Slow.rest_before_reduce

    def mapper(self, _, line):
        for word in self.words(line):
            self.increment_counter("text", "words")
            yield word, 1

    def combiner(self, word, counts):
        yield word, sum(counts)

    def reducer(self, word, counts):
        self.increment_counter("text", "distinct words")
        yield word, sum(counts)


class TwoSteps(Slow):
    """Groups words by how often they occur: the second step reads the output of the first step's reducer."""

    def count_words(self, _, line):
        for word in self.words(line):
            yield word, 1

    def sum_up(self, word, counts):
        self.increment_counter("first", "words")
        yield word, sum(counts)

    def by_number(self, word, number):
        time.sleep(0.002)
        yield number, word

    def gather(self, number, words):
        self.increment_counter("second", "numbers")
        yield number, sorted(words)

    def steps(self):
        return [
            MRStep(mapper=self.count_words, reducer_init=self.rest_before_reduce, reducer=self.sum_up),
            MRStep(mapper=self.by_number, reducer=self.gather),
        ]


class MapOnly(Slow):
    """Has no reducer: the outputs of its map tasks are the job's output."""

    def mapper(self, _, line):
        words = self.words(line)
        if words:
            yield words[0], len(words)


class TotalOrder(Slow):
    """Sorts keys in one order over all part files, each with all its values."""

    PARTITIONER = "range"
    reducer_init = Slow.rest_before_reduce

    def mapper(self, _, line):
        words = self.words(line)
        for at, word in enumerate(words):
            yield (word, at), len(words)

    def reducer(self, key, values):
        for value in sorted(values):
            yield key, value


class BadRecords(Slow):
    """Skips lines that raise. It sleeps before its records: a record at which it dies twice would be skipped too."""

    mapper_init = Slow.rest_before_map
    reducer_init = Slow.rest_before_reduce

    def mapper(self, _, line):
        if line.startswith(SLEEP):
            return
        self.increment_counter("text", "lines")
        if line.startswith("bad"):
            raise ValueError(line)
        for word in line.split():
            yield word, 1

    def reducer(self, word, counts):
        yield word, sum(counts)


class Declared(Slow):
    """Has a declared reducer, which makes no Python call per record."""

    reducer = ops.Sum()

    def mapper(self, _, line):
        for word in self.words(line):
            yield word, len(word)


class Everybody(MRJob):
    """Ends when ``--processes`` tasks run at the same time, so that each process has one."""

    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--processes", type=int)
        self.add_passthru_arg("--folder")

    def mapper(self, _, line):
        open(os.path.join(self.options.folder, f"{line}.{os.getpid()}"), "w").close()
        while len({name.partition(".")[0] for name in os.listdir(self.options.folder)}) < self.options.processes:
            time.sleep(0.02)
        yield line, os.getpid()
