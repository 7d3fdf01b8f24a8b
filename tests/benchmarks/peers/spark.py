"""PySpark on this machine, RDDs or DataFrames. Arguments: api, workload, input, output, workers."""

import json
import os
import re
import sys
from operator import add

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

WORD = re.compile(r"\w+")


def url(line):
    return line.split(" ", 7)[6].partition("?")[0]


def postings(line):
    document = json.loads(line)
    return [(word, document["id"]) for word in set(WORD.findall(document["text"].lower()))]


def rdd(context, workload, path, output):
    lines = context.textFile("file://" + path)
    if workload == "sort":
        lines.sortBy(lambda line: line[:10]).saveAsTextFile(output)
    elif workload == "grep":
        pattern = re.compile(os.environ["BENCH_PATTERN"])
        lines.filter(pattern.search).saveAsTextFile(output)
    elif workload == "index":
        found = lines.flatMap(postings).groupByKey()
        found.map(lambda pair: f"{pair[0]}\t{','.join(sorted(pair[1]))}").saveAsTextFile(output)
    else:
        keys = lines.flatMap(str.split) if workload == "wordcount" else lines.map(url)
        counts = keys.map(lambda key: (key, 1)).reduceByKey(add)
        counts.map(lambda pair: f"{pair[0]}\t{pair[1]}").saveAsTextFile(output)


def dataframe(session, workload, path, output):
    lines = session.read.text("file://" + path)
    if workload == "sort":
        found = lines.orderBy(F.substring("value", 1, 10))
    elif workload == "grep":
        found = lines.where(F.col("value").rlike(os.environ["BENCH_PATTERN"]))
    elif workload == "index":
        words = F.regexp_extract_all(F.lower("text"), F.lit(r"(?U)(\w+)"), 1)
        pairs = session.read.json("file://" + path).select("id", F.explode(F.array_distinct(words)).alias("word"))
        lists = pairs.groupBy("word").agg(F.sort_array(F.collect_list("id")).alias("ids"))
        found = lists.select(F.concat_ws("\t", "word", F.array_join("ids", ",")))
    else:
        if workload == "wordcount":
            keys = lines.select(F.explode(F.split("value", " ")).alias("key"))
        else:
            target = F.split("value", " ")[6]
            keys = lines.select(F.substring_index(target, "?", 1).alias("key"))
        found = keys.groupBy("key").count().select(F.concat_ws("\t", "key", F.col("count").cast("string")))
    found.write.text(output)


def main(api, workload, path, output, workers):
    builder = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", "4g").config("spark.sql.shuffle.partitions", 2 * int(workers))
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    if api == "rdd":
        rdd(session.sparkContext, workload, path, output)
    else:
        dataframe(session, workload, path, output)
    session.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
