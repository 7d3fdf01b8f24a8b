"""Records of 100 bytes in order of their first 10, in total order over the part files: columns all the way."""

from mrcelery import MRJob, ops


class SortRecords(MRJob):
    INPUT = "records:100,key=10"
    OUTPUT = "records"
    PARTITIONER = "range"

    reducer = ops.Identity()


if __name__ == "__main__":
    SortRecords.run()
