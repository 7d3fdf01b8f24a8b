"""Word count with one call per block of lines, as an Arrow table, and a declared reducer."""

from pyarrow import compute as pc
from pyarrow import table

from mrcelery import MRJob, ops


class WordCountBatch(MRJob):
    BATCH = "table"

    def mapper_batch(self, lines):
        counts = pc.list_flatten(pc.split_pattern(lines["line"], " ")).combine_chunks().value_counts()
        found = table({"key": counts.field("values"), "value": counts.field("counts")})
        return found.filter(pc.not_equal(found["key"], ""))

    reducer = ops.Sum()


if __name__ == "__main__":
    WordCountBatch.run()
