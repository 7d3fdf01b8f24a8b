"""Engines without Python per record: DuckDB, Polars, pyarrow. Arguments: tool, workload, input, output, workers."""

import os
import sys

PATTERN = os.environ.get("BENCH_PATTERN", "")
SEPARATOR = "\x01"
"""Occurs in no line, so that a line is one column."""


def duckdb(workload, path, output, workers):
    import duckdb

    lines = f"read_csv('{path}', columns={{'line': 'VARCHAR'}}, header=false, delim='{SEPARATOR}', quote='', escape='')"
    counts = "SELECT key, count(*) FROM ({}) WHERE key <> '' GROUP BY key"
    documents = f"read_json('{path}', format='newline_delimited', columns={{'id': 'VARCHAR', 'text': 'VARCHAR'}})"
    # RE2's \\w knows ASCII only
    words = "unnest(list_distinct(regexp_extract_all(lower(text), '[\\p{L}\\p{N}_]+')))"
    query = {
        "wordcount": counts.format(f"SELECT unnest(string_split(line, ' ')) AS key FROM {lines}"),
        "urls": counts.format(f"SELECT split_part(split_part(line, ' ', 7), '?', 1) AS key FROM {lines}"),
        "grep": f"SELECT line FROM {lines} WHERE regexp_matches(line, '{PATTERN}')",
        "sort": f"SELECT line FROM {lines} ORDER BY line[1:10]",
        "index": f"SELECT word, string_agg(id, ',' ORDER BY id) FROM (SELECT {words} AS word, id FROM {documents}) "
        "GROUP BY word",
    }[workload]
    delimiter = SEPARATOR if workload in ("grep", "sort") else "\t"
    database = duckdb.connect(config={"threads": workers, "temp_directory": output + ".tmp"})
    database.execute(f"COPY ({query}) TO '{output}' (FORMAT csv, HEADER false, DELIMITER '{delimiter}', QUOTE '')")


def polars(workload, path, output, workers):
    os.environ["POLARS_MAX_THREADS"] = workers
    import polars as pl

    line = pl.col("line")
    if workload == "index":
        words = pl.col("text").str.to_lowercase().str.extract_all(r"\w+").list.unique()
        found = pl.scan_ndjson(path, schema={"id": pl.String, "text": pl.String})
        found = found.select("id", words.alias("word")).explode("word")
        found = found.group_by("word").agg(pl.col("id").sort().str.join(","))
    else:
        found = pl.scan_csv(path, has_header=False, separator=SEPARATOR, quote_char=None, schema={"line": pl.String})
        if workload == "wordcount":
            found = found.select(line.str.split(" ").explode()).group_by("line").len()
        elif workload == "urls":
            target = line.str.splitn(" ", 8).struct.field("field_6")
            found = found.select(target.str.splitn("?", 2).struct.field("field_0").alias("line")).group_by("line").len()
        elif workload == "grep":
            found = found.filter(line.str.contains(PATTERN))
        else:
            found = found.sort(line.str.slice(0, 10))
    found.sink_csv(output, include_header=False, separator="\t", quote_style="never")


def pyarrow(workload, path, output, workers):
    import pyarrow as pa
    from pyarrow import compute as pc
    from pyarrow import csv

    pa.set_cpu_count(int(workers))
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(column_names=["line"]),
        parse_options=csv.ParseOptions(delimiter=SEPARATOR, quote_char=False),
        convert_options=csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
    )
    line = table["line"]
    if workload in ("wordcount", "urls"):
        keys = pc.list_flatten(pc.split_pattern(line, " "))
        if workload == "urls":
            keys = pc.list_element(pc.split_pattern(line, " ", max_splits=7), 6)
            keys = pc.list_element(pc.split_pattern(keys, "?", max_splits=1), 0)
        table = pa.table({"key": keys}).group_by("key").aggregate([([], "count_all")])
    else:
        if workload == "grep":
            line = line.filter(pc.match_substring_regex(line, PATTERN))
        else:
            line = line.take(pc.sort_indices(pc.utf8_slice_codeunits(line, 0, 10)))
        write_lines(pc.binary_join_element_wise(line, "", "\n"), output)
        return
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    csv.write_csv(table, output, options)


def write_lines(column, output):
    """The text of all values as it lies in memory: CSV would want to quote it."""
    import numpy as np

    with open(output, "wb") as out:
        for chunk in column.chunks:
            _, offsets, text = chunk.buffers()
            ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            if len(chunk):
                out.write(text[int(ends[0]) : int(ends[-1])])


if __name__ == "__main__":
    {"duckdb": duckdb, "polars": polars, "pyarrow": pyarrow}[sys.argv[1]](*sys.argv[2:])
