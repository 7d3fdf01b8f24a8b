"""The jobs as mrjob's users write them. Arguments: workload, input, output, workers."""

import os
import re
import sys

from mrjob.job import MRJob
from mrjob.protocol import RawValueProtocol


class Counting(MRJob):
    def combiner(self, key, counts):
        yield key, sum(counts)

    def reducer(self, key, counts):
        yield key, sum(counts)


class WordCount(Counting):
    def mapper(self, _, line):
        for word in line.split():
            yield word, 1


class UrlCount(Counting):
    def mapper(self, _, line):
        yield line.split(" ", 7)[6].partition("?")[0], 1


class Grep(MRJob):
    OUTPUT_PROTOCOL = RawValueProtocol

    def mapper_init(self):
        self.pattern = re.compile(os.environ["BENCH_PATTERN"])

    def mapper(self, _, line):
        if self.pattern.search(line):
            yield None, line


JOBS = {"wordcount": WordCount, "urls": UrlCount, "grep": Grep}

if __name__ == "__main__":
    # mrjob runs this file again for each task, and then without a workload in front.
    workload = os.environ["BENCH_WORKLOAD"]
    if len(sys.argv) > 1 and sys.argv[1] == workload:
        _, input_, output, workers = sys.argv[1:]
        sys.argv[1:] = ["-r", "local", "--no-conf", "--num-cores", workers]
        sys.argv += ["--output-dir", output, "--no-output", input_]
    JOBS[workload].run()
