"""Lines in order of their first 10 bytes.

Paper, section 2.3, "Distributed Sort", with the keys of section 5.3. Input: lines of any bytes. Output: the
same lines; those with equal keys stay in the order of the input. Each part file is sorted, since a
reducer is given its keys in order (section 4.2): one reducer makes one sorted file, and of several
reducers' files each is sorted by itself::

    mrcelery submit mrcelery.examples.sort:Sort records.txt -o sorted -R 1
"""

from mrcelery import MRJob


class Sort(MRJob):
    INPUT = "lines"
    OUTPUT = "text"

    def mapper(self, _, line):
        yield line[:10], line

    def reducer(self, _, lines):
        for line in lines:
            yield None, line


if __name__ == "__main__":
    Sort.run()
