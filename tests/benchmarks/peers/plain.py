"""What one writes by hand: multiprocessing, a Counter for each range of the file.

Arguments: workload, input, output, workers.
"""

import json
import os
import re
import sys
from collections import Counter, defaultdict
from multiprocessing import Pool

WORD = re.compile(r"\w+")
BLOCK = 16 << 20


def ranges(path, pieces):
    """The file in pieces that end with a line."""
    cuts, size = [0], os.path.getsize(path)
    with open(path, "rb") as file:
        for number in range(1, pieces):
            file.seek(max(cuts[-1], size * number // pieces))
            file.readline()
            cuts.append(file.tell())
    return [(path, start, end) for start, end in zip(cuts, [*cuts[1:], size], strict=True) if start < end]


def lines(piece):
    path, start, end = piece
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            yield line
            start += len(line)
            if start >= end:
                return


def words(piece):
    counts = Counter()
    for line in lines(piece):
        counts.update(line.split())
    return counts


def urls(piece):
    counts = Counter()
    counts.update(line.split(b" ", 7)[6].partition(b"?")[0] for line in lines(piece))
    return counts


def grep(piece):
    pattern = re.compile(os.environ["BENCH_PATTERN"].encode())
    path, start, end = piece
    found = []
    with open(path, "rb") as file:
        file.seek(start)
        while start < end:
            block = file.read(min(BLOCK, end - start))
            if start + len(block) < end:
                block += file.readline()
            start += len(block)
            last = 0
            for match in pattern.finditer(block):
                if match.start() >= last:
                    first = block.rfind(b"\n", 0, match.start()) + 1
                    last = block.find(b"\n", match.end()) + 1
                    found.append(block[first:last])
    return found


def index(piece):
    found = defaultdict(list)
    for line in lines(piece):
        document = json.loads(line)
        for word in set(WORD.findall(document["text"].lower())):
            found[word].append(document["id"])
    return dict(found)


def main(workload, path, output, workers):
    work = {"wordcount": words, "urls": urls, "grep": grep, "index": index}[workload]
    with Pool(int(workers)) as pool, open(output, "wb") as out:
        results = pool.imap(work, ranges(path, int(workers)))
        if workload == "grep":
            for found in results:
                out.writelines(found)
        elif workload == "index":
            total = defaultdict(list)
            for found in results:
                for word, ids in found.items():
                    total[word] += ids
            out.writelines(f"{word}\t{','.join(sorted(ids))}\n".encode() for word, ids in total.items())
        else:
            total = Counter()
            for counts in results:
                total.update(counts)
            out.writelines(b"%s\t%d\n" % pair for pair in total.items())


if __name__ == "__main__":
    main(*sys.argv[1:])
