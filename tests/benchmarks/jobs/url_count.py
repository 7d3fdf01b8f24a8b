"""Requests of each path in an access log, the plain class."""

from mrcelery import MRJob


class UrlCount(MRJob):
    def mapper(self, _, line):
        yield line.split(" ", 7)[6].partition("?")[0], 1

    def combiner(self, path, counts):
        yield path, sum(counts)

    def reducer(self, path, counts):
        yield path, sum(counts)


if __name__ == "__main__":
    UrlCount.run()
