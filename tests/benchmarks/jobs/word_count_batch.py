"""Word count with one call per block of lines, and a declared reducer."""

from collections import Counter

from mrcelery import MRJob, ops


class WordCountBatch(MRJob):
    def mapper_batch(self, lines):
        return Counter(" ".join(lines).split())

    reducer = ops.Sum()


if __name__ == "__main__":
    WordCountBatch.run()
