"""Word count with a declared reducer."""

from mrcelery import MRJob, ops


class WordCountSum(MRJob):
    def mapper(self, _, line):
        for word in line.split():
            yield word, 1

    reducer = ops.Sum()


if __name__ == "__main__":
    WordCountSum.run()
