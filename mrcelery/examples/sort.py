"""Lines sorted by their first 10 bytes.

Paper, section 2.3, "Distributed Sort", with the keys of section 5.3. Input: lines of any bytes. Output: the
same lines; those with equal keys keep the order of the input. Each part file is sorted, because a
reducer gets its keys in order (section 4.2), and so is their concatenation, because the range
partitioner gives each reducer the keys between two bounds. In the paper the user knows these bounds; here
they come from a sample of the keys::

    mrcelery submit mrcelery.examples.sort:Sort records.txt -o sorted -R 4
    cat sorted/part-*
"""

from mrcelery import MRJob


class Sort(MRJob):
    """Sorts lines by their first 10 bytes."""

    INPUT = "lines"
    OUTPUT = "text"
    PARTITIONER = "range"

    def mapper(self, _, line):
        yield line[:10], line

    def reducer(self, _, lines):
        for line in lines:
            yield None, line


if __name__ == "__main__":
    Sort.run()
