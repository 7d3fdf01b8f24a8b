"""The jobs of the chaos runs. Lines of their input tell how long to sleep, so that faults meet tasks in the midst."""

from __future__ import annotations

import os
import time

from mrcelery import MRJob, MRStep, ops

SLEEP = "~sleep"
"""How a line begins that is no data: seconds to sleep follow."""


class Slow(MRJob):
    """``--map-seconds``, ``--reduce-seconds``: what a task takes before it begins, where its job says so."""

    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--map-seconds", type=float, default=0.0)
        self.add_passthru_arg("--reduce-seconds", type=float, default=0.0)

    def rest_before_map(self):
        time.sleep(self.options.map_seconds)

    def rest_before_reduce(self):
        time.sleep(self.options.reduce_seconds)

    def words(self, line):
        """The line's words; none of a line that is to sleep at."""
        if line.startswith(SLEEP):
            time.sleep(float(line.split()[1]))
            return []
        self.increment_counter("text", "lines")
        return line.split()


class WordCount(Slow):
    """With a combiner, and counters in both stages."""

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
    """Words by how often they occur: the second step reads what the first has reduced."""

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
    """No reducer: the maps' own outputs are the job's."""

    def mapper(self, _, line):
        words = self.words(line)
        if words:
            yield words[0], len(words)


class TotalOrder(Slow):
    """Keys in one order over all part files, each with all its values."""

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
    """Some lines raise, and are skipped. It sleeps before its records: one at which it dies twice is skipped too."""

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
    """A declared reducer, without a Python call for each record."""

    reducer = ops.Sum()

    def mapper(self, _, line):
        for word in self.words(line):
            yield word, len(word)


class Everybody(MRJob):
    """Ends when as many tasks run at the same time as ``--processes`` says: when each process has one."""

    def configure_args(self):
        super().configure_args()
        self.add_passthru_arg("--processes", type=int)
        self.add_passthru_arg("--folder")

    def mapper(self, _, line):
        open(os.path.join(self.options.folder, f"{line}.{os.getpid()}"), "w").close()
        while len({name.partition(".")[0] for name in os.listdir(self.options.folder)}) < self.options.processes:
            time.sleep(0.02)
        yield line, os.getpid()
