"""Dask bag, on processes or on a LocalCluster. Arguments: scheduler, workload, input, output, workers."""

import json
import os
import re
import sys
from collections import Counter
from contextlib import nullcontext

import dask
import dask.bag

WORD = re.compile(r"\w+")


def url(line):
    return line.split(" ", 7)[6].partition("?")[0]


def count_words(lines):
    counts = Counter()
    for line in lines:
        counts.update(line.split())
    return [counts]


def count_urls(lines):
    return [Counter(map(url, lines))]


def postings(document):
    document = json.loads(document)
    return [(word, document["id"]) for word in set(WORD.findall(document["text"].lower()))]


def added(ids, pair):
    ids = ids or []  # no list to begin with: all keys would share it
    ids.append(pair[1])
    return ids


def merged(counters):
    total = Counter()
    for counter in counters:
        total.update(counter)
    return total


def joined(one, other):
    return (one or []) + other


def word_of(pair):
    return pair[0]


def main(scheduler, workload, path, output, workers):
    size = os.path.getsize(path)
    bag = dask.bag.read_text(path, blocksize=max(1 << 20, min(64 << 20, size // int(workers) + 1)))
    if scheduler == "distributed":
        from dask.distributed import Client, LocalCluster

        cluster = LocalCluster(n_workers=int(workers), threads_per_worker=1, dashboard_address=None)
        context = Client(cluster)
    else:
        cluster = nullcontext()
        context = dask.config.set(scheduler="processes", num_workers=int(workers))
    with cluster, context, open(output, "w", encoding="utf-8") as out:
        if workload in ("wordcount", "urls"):
            if scheduler == "distributed":
                # Tuned: one Counter a partition. The bag's own frequencies() is three times as slow there.
                count = count_words if workload == "wordcount" else count_urls
                pairs = merged(bag.map_partitions(count).compute()).items()
            elif workload == "wordcount":
                pairs = bag.map(str.split).flatten().frequencies().compute()
            else:
                pairs = bag.map(url).frequencies().compute()
            out.writelines(f"{key}\t{count}\n" for key, count in pairs)
        elif workload == "grep":
            pattern = re.compile(os.environ["BENCH_PATTERN"])
            out.writelines(bag.filter(pattern.search).compute())
        else:
            found = bag.map(postings).flatten().foldby(word_of, added, None, joined, None).compute()
            out.writelines(f"{word}\t{','.join(sorted(ids))}\n" for word, ids in found)


if __name__ == "__main__":
    main(*sys.argv[1:])
