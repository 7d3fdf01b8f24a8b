"""Jobs with partitioners: total order against Python's own sort, and keys that agree in a field in one part file."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.runners.local import LocalRunner
from tests.support import generate
from tests.support.services import WORD_COUNT, redis_server

JobFile = Callable[..., str]

RANGED = """
    import ast
    from mrcelery import MRJob

    class Ranged(MRJob):
        PARTITIONER = "range"
        OUTPUT = "text"

        def mapper(self, _, line):
            number, _, key = line.partition(" ")
            yield ast.literal_eval(key), int(number)

        def reducer(self, key, numbers):
            for number in numbers:
                yield None, f"{number} {key!r}"
"""

rng = random.Random(7)
MIXED = [None, 0, 1, -2.5, 10**30, "", "a", "é", b"", b"\xff", (), (1,), (1, "a"), (1, None), (2, (3, b"x"))]
KEYS: dict[str, list[Any]] = {
    "text": ["".join(rng.choices("abcé\U0001f600", k=rng.randrange(6))) for _ in range(3000)],
    "int": [rng.randrange(-(1 << 70), 1 << 70) for _ in range(2000)] + [rng.randrange(100) for _ in range(1000)],
    "tuple": [(rng.randrange(10), rng.choice("abc"), rng.random()) for _ in range(3000)],
    "mixed": rng.choices(MIXED, k=3000),
    "duplicates": ["hot"] * 2500 + [f"{i:03}" for i in range(250)] + [f"z{i:03}" for i in range(250)],
    "ten": list("jihgfedcba"),
}
rng.shuffle(KEYS["duplicates"])


def documented(key: Any) -> tuple[Any, ...]:
    """The order of keys that README promises, of the types above."""
    if isinstance(key, tuple):
        return (4, tuple(map(documented, key)))
    return (0,) if key is None else (1 if isinstance(key, (int, float)) else 2 if isinstance(key, str) else 3, key)


def write(folder: Path, keys: list[Any]) -> tuple[Path, list[str]]:
    """The input, and the lines that a job must leave."""
    file = folder / "keys.txt"
    lines = [f"{number} {key!r}" for number, key in enumerate(keys)]
    file.write_text("".join(line + "\n" for line in lines))
    order = sorted(range(len(keys)), key=lambda i: documented(keys[i]))  # stable, as the job is
    return file, [lines[i] for i in order]


def parts(output: Path) -> list[list[str]]:
    return [path.read_text().splitlines() for path in sorted(output.glob("part-*"))]


def check(output: Path, reducers: int, expected: list[str]) -> None:
    found = parts(output)
    assert len(found) == reducers
    assert [line for part in found for line in part] == expected
    keys = [{line.partition(" ")[2] for line in part} for part in found]
    distinct = set().union(*keys)
    assert sum(map(len, keys)) == len(distinct)  # each key in one part file
    assert sum(map(bool, keys)) >= min(reducers, len(distinct)) * 0.8


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "storage")
    return f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"


@pytest.mark.parametrize("reducers", [1, 4, 16])
@pytest.mark.parametrize("kind", KEYS)
def test_total_order(job_file: JobFile, tmp_path: Path, storage: str, kind: str, reducers: int) -> None:
    file, expected = write(tmp_path, KEYS[kind])
    with mrcelery.run(
        job_file(RANGED),
        str(file),
        str(tmp_path / "out"),
        runner="inline",
        storage=storage,
        reducers=reducers,
        split_size=file.stat().st_size // 5 + 1,
    ) as handle:
        assert handle.report().totals.records_out == len(expected)
    check(tmp_path / "out", reducers, expected)


@pytest.fixture(scope="module")
def clusters(bucket: str) -> Iterator[dict[str, LocalRunner]]:
    """A local cluster per storage, for several jobs."""
    with redis_server():
        pass  # a server must be there, else this skips
    found = {"folder": LocalRunner(2), "s3": LocalRunner(2, f"s3://{bucket}/{os.urandom(6).hex()}")}
    yield found
    for runner in found.values():
        runner.close()


@pytest.mark.parametrize(("where", "kind"), [("folder", "mixed"), ("folder", "text"), ("s3", "duplicates")])
def test_total_order_on_the_local_runner(
    clusters: dict[str, LocalRunner],
    monkeypatch: pytest.MonkeyPatch,
    job_file: JobFile,
    tmp_path: Path,
    where: str,
    kind: str,
) -> None:
    cluster = clusters[where]
    monkeypatch.setattr(cluster, "close", lambda: None)  # the handle would stop it after the first job
    monkeypatch.setattr("mrcelery.client.submission.local_runner", lambda config, job: cluster)
    file, expected = write(tmp_path, KEYS[kind])
    out = str(tmp_path / "out")
    with mrcelery.run(job_file(RANGED), str(file), out, runner="local", reducers=4, split_size=9000) as handle:
        skew = handle.counters()["mrcelery shuffle, step 0"]
        assert handle.report().counters["mrcelery shuffle, step 0"] == skew
    check(tmp_path / "out", 4, expected)
    assert (skew["partitions"], skew["empty partitions"]) == (4, 0)
    assert skew["records, largest partition"] >= max(Counter(map(repr, KEYS[kind])).values()) * 0.9


def test_a_run_that_was_spilled_and_is_read_in_pieces(job_file: JobFile, tmp_path: Path, storage: str) -> None:
    """Many blocks a run, of which each reduce task reads its own; less memory than data."""
    keys = [rng.randrange(10**12) for _ in range(120_000)]
    file, expected = write(tmp_path, keys)
    with mrcelery.run(
        job_file(RANGED),
        str(file),
        str(tmp_path / "out"),
        runner="inline",
        storage=storage,
        reducers=8,
        split_size=file.stat().st_size // 2 + 1,
        memory=1 << 20,
    ) as handle:
        skew = handle.counters()["mrcelery shuffle, step 0"]
    check(tmp_path / "out", 8, expected)
    largest = max(map(len, parts(tmp_path / "out")))
    assert largest < 1.15 * len(keys) / 8
    assert skew["records, largest partition"] == pytest.approx(largest, rel=0.1)


DECLARED = """
    from mrcelery import MRJob, ops

    class WordCount(MRJob):
        reducer = ops.Sum()

        def mapper(self, _, line):
            for word in line.split():
                yield word, 1
"""


COLUMNS = """
    from mrcelery import MRJob, ops

    class Columns(MRJob):
        PARTITIONER = "range"
        OUTPUT = "text"
        reducer = ops.Identity()

        def mapper_batch(self, lines):
            import pyarrow as pa
            numbers, keys = zip(*(line.split(" ") for line in lines))
            return pa.table({"key": pa.array(map(int, keys), pa.int64()), "value": pa.array(map(int, numbers))})
"""


@pytest.mark.parametrize("reducer", ["Identity", "Count"])
def test_columns_in_total_order(job_file: JobFile, tmp_path: Path, storage: str, reducer: str) -> None:
    pytest.importorskip("pyarrow")
    keys = [rng.randrange(10**6) for _ in range(60_000)]
    file, _ = write(tmp_path, keys)
    with mrcelery.run(
        job_file(COLUMNS.replace("Identity", reducer)),
        str(file),
        str(tmp_path / "out"),
        runner="inline",
        storage=storage,
        reducers=8,
        split_size=file.stat().st_size // 3 + 1,
        memory=1 << 20,
    ):
        pass
    found = parts(tmp_path / "out")
    rows = [tuple(map(int, line.split("\t"))) for part in found for line in part]
    numbered = sorted((key, number) for number, key in enumerate(keys))
    assert rows == (numbered if reducer == "Identity" else sorted(Counter(keys).items()))
    assert max(map(len, found)) < 1.15 * len(rows) / 8


@pytest.mark.parametrize("source", [WORD_COUNT, DECLARED, WORD_COUNT.replace("from mrcelery", "from mrjob.job")])
def test_word_count_in_total_order(job_file: JobFile, tmp_path: Path, source: str) -> None:
    text = tmp_path / "book.txt"
    text.write_text(generate.text(2000, seed=5))
    with mrcelery.run(
        job_file(source), str(text), str(tmp_path / "out"), runner="inline", reducers=4, split_size=20_000,
        partitioner="range",
    ):  # fmt: skip
        pass
    pairs = [tuple(map(json.loads, line.split("\t"))) for part in parts(tmp_path / "out") for line in part]
    assert dict(pairs) == Counter(text.read_text().split())
    # With mrjob's protocol keys are ordered as it writes them.
    by = json.dumps if "mrjob" in source else str
    assert [key for key, _ in pairs] == sorted({key for key, _ in pairs}, key=by)
    sizes = list(map(len, parts(tmp_path / "out")))
    assert max(sizes) < 1.3 * sum(sizes) / 4


STEPS = """
    from mrcelery import MRJob, MRStep

    class Steps(MRJob):
        def steps(self):
            conf = {"mapreduce.job.partitioner.class": "org.apache.hadoop.mapred.lib.TotalOrderPartitioner"}
            return [MRStep(mapper=self.words, reducer=self.total), MRStep(reducer=self.by_count, jobconf=conf)]

        def words(self, _, line):
            for word in line.split():
                yield word, 1

        def total(self, word, counts):
            yield (sum(counts), word), None

        def by_count(self, key, _):
            yield key
"""


def test_one_step_of_several(job_file: JobFile, tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text(generate.text(1000, seed=6))
    out = tmp_path / "out"
    with mrcelery.run(job_file(STEPS), str(text), str(out), runner="inline", reducers=3, split_size=20_000) as handle:
        groups = {group for group in handle.counters() if group.startswith("mrcelery")}
    pairs = [tuple(map(json.loads, line.split("\t"))) for part in parts(out) for line in part]
    assert pairs == sorted((count, word) for word, count in Counter(text.read_text().split()).items())
    assert groups == {"mrcelery shuffle, step 0", "mrcelery shuffle, step 1"}


BY_FIELD = """
    from mrcelery import MRJob

    class Visits(MRJob):
        def mapper(self, _, line):
            user, _, page = line.partition(" ")
            yield {key}, 1

        def reducer(self, key, ones):
            yield key, sum(ones)
"""

HADOOP = """
    from mrjob.job import MRJob

    class Visits(MRJob):
        PARTITIONER = "org.apache.hadoop.mapred.lib.KeyFieldBasedPartitioner"
        JOBCONF = {"mapreduce.partition.keypartitioner.options": "-k1,1"}

        def mapper(self, _, line):
            user, _, page = line.partition(" ")
            yield (user, page), 1

        def reducer(self, key, ones):
            yield key, sum(ones)
"""


OWN = """
    from mrjob.job import MRJob

    class Visits(MRJob):
        def partition(self, key, n):
            user, page = key  # as the reducer gets it
            return int(user.removeprefix("user")) % n
""" + HADOOP[HADOOP.index("\n        def mapper") :]


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (BY_FIELD.replace("{key}", "(user, page)"), {"partitioner": "field:1"}),
        (BY_FIELD.replace("{key}", "f'{page}\\t{user}'"), {"partitioner": "field:2"}),
        (
            BY_FIELD.replace("{key}", "f'{user},{page}'"),
            {
                "jobconf": {
                    "mapreduce.job.partitioner.class": "KeyFieldBasedPartitioner",
                    "mapreduce.partition.keypartitioner.options": "-k1,1",
                    "mapreduce.map.output.key.field.separator": ",",
                }
            },
        ),
        (HADOOP, {}),
        (OWN, {}),
    ],
)
def test_keys_that_agree_in_a_field_are_in_one_part_file(
    job_file: JobFile, tmp_path: Path, source: str, options: dict[str, Any]
) -> None:
    visits = [(f"user{rng.randrange(40)}", f"page{rng.randrange(30)}") for _ in range(3000)]
    log = tmp_path / "log.txt"
    log.write_text("".join(f"{user} {page}\n" for user, page in visits))
    out = tmp_path / "out"
    with mrcelery.run(job_file(source), str(log), str(out), runner="inline", reducers=4, split_size=9000, **options):
        pass
    where = defaultdict(set)
    counted = {}
    for number, part in enumerate(parts(out)):
        for line in part:
            key, count = map(json.loads, line.split("\t"))
            text = key if isinstance(key, str) else " ".join(key)
            user, page = (next(w for w in text.replace(",", " ").split() if w.startswith(p)) for p in ("user", "page"))
            where[user].add(number)
            counted[user, page] = count
    assert counted == Counter(visits)
    assert all(len(numbers) == 1 for numbers in where.values())
    assert len(set().union(*where.values())) == 4


def test_a_name_that_does_not_exist_is_refused_before_anything_starts(job_file: JobFile, text: Path) -> None:
    with pytest.raises(mrcelery.errors.UsageError, match="partitioner ranges is not supported"):
        mrcelery.submit(job_file(WORD_COUNT), str(text), runner="inline", partitioner="ranges")
