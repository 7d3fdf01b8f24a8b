"""Jobs that need packages that an environment may lack, in addition to the examples and the README's jobs."""

from mrcelery import MRJob


class Times(MRJob):
    """Moves times of Parquet rows through a shuffle, and yields the types that they have in this environment."""

    INPUT = "parquet"

    def mapper(self, _, row):
        yield row["n"] % 3, [row["stamp"], row["zoned"], row["old"], row["took"], row["nested"]]

    def reducer(self, key, rows):
        yield key, [[f"{type(value).__name__} {value}" for value in row] for row in rows]


class MovedTimes(MRJob):
    """Moves the table's columns, which become Python objects only in the reducer."""

    INPUT = "parquet"

    def mapper_batch(self, table):
        return table.select(["n", "stamp"])

    def reducer(self, key, stamps):
        yield key, [f"{type(stamp).__name__} {stamp}" for stamp in stamps]


class Fine(MRJob):
    """Reads a time that microseconds cannot represent."""

    INPUT = "parquet"

    def mapper(self, _, row):
        yield row["n"], str(row["fine"])
