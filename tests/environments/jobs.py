"""Jobs that need what an environment may lack, beside the examples and the README's."""

from mrcelery import MRJob


class Times(MRJob):
    """Moves times of Parquet's rows through a shuffle, as what their types are here."""

    INPUT = "parquet"

    def mapper(self, _, row):
        yield row["n"] % 3, [row["stamp"], row["zoned"], row["old"], row["took"], row["nested"]]

    def reducer(self, key, rows):
        yield key, [[f"{type(value).__name__} {value}" for value in row] for row in rows]


class MovedTimes(MRJob):
    """Moves the table's columns, and has objects at the output only."""

    INPUT = "parquet"

    def mapper_batch(self, table):
        return table.select(["n", "stamp"])

    def reducer(self, key, stamps):
        yield key, [f"{type(stamp).__name__} {stamp}" for stamp in stamps]


class Fine(MRJob):
    """Meets a time that no microsecond holds."""

    INPUT = "parquet"

    def mapper(self, _, row):
        yield row["n"], str(row["fine"])
