"""The word counts of a text are ``collections.Counter``'s: for any M and R, on every runner and storage."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.runners.local import LocalRunner
from tests.support import generate
from tests.support.services import WORD_COUNT, Fleet, redis_server

MAPS = (1, 7, 64)
REDUCERS = (1, 4, 16)


@dataclass
class WordCount:
    """A job, its input, and what the input's words count up to."""

    job: str
    book: Path
    expected: Counter[str]

    def cut(self, maps: int, reducers: int) -> dict[str, Any]:
        """Options of a run of so many tasks."""
        return {"split_size": -(-self.book.stat().st_size // maps), "reducers": reducers}


def write_book(path: Path) -> None:
    """Write a text of a few hundred KB with all that a text may hold."""
    lines = generate.text(4000, seed=3).encode().splitlines()
    odd = (b"caf\xe9 \xff\xfe na\xc3", b"", b"\x00 nul\x0bvt", "a\u2028b \u00a0d \U0001f600".encode(), b"c\r in\rx")
    for number in range(len(lines)):
        if number % 97 == 0:
            lines[number] += b" " + odd[number // 97 % len(odd)]
    endings = (b"\n", b"\n", b"\r\n")
    data = b"".join(line + endings[number % 3] for number, line in enumerate(lines)) + b"no newline at the end"
    assert 200_000 < len(data) < 600_000
    path.write_bytes(data)


@pytest.fixture(scope="module")
def count(tmp_path_factory: pytest.TempPathFactory) -> WordCount:
    folder = tmp_path_factory.mktemp("count")
    job, book = folder / "wc.py", folder / "book.txt"
    job.write_text(dedent(WORD_COUNT))
    write_book(book)
    return WordCount(str(job), book, Counter(book.read_bytes().decode("utf-8", "surrogateescape").split()))


def check(handle: mrcelery.JobHandle, output: Path, maps: int, reducers: int, expected: Counter[str]) -> None:
    """The output, part by part, and that the job really was cut as asked."""
    totals = {stage.kind: stage.total for stage in handle.status().stages}
    assert totals == {"map": maps, "reduce": reducers}
    report = handle.report()
    assert report.totals.tasks == maps + reducers
    names = [f"part-{number:05d}" for number in range(reducers)]
    assert sorted(path.name for path in output.iterdir()) == ["_SUCCESS", *names]
    found: dict[str, int] = {}
    for name in names:
        pairs = [tuple(map(json.loads, line.split("\t"))) for line in (output / name).read_text().splitlines()]
        keys = [key for key, _ in pairs]
        assert keys == sorted(set(keys))  # in order, each once
        assert not found.keys() & set(keys)  # and in one partition
        found.update(pairs)
    assert found == expected
    assert report.totals.records_out == len(expected)
    assert report.counters["text"]["words"] == len(expected)
    assert report.counters["text"]["lines"] == report.totals.records_in


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "storage")
    return f"s3://{request.getfixturevalue('bucket')}/{os.urandom(6).hex()}"


@pytest.mark.parametrize("reducers", REDUCERS)
@pytest.mark.parametrize("maps", MAPS)
def test_inline(count: WordCount, storage: str, tmp_path: Path, maps: int, reducers: int) -> None:
    output = tmp_path / "out"
    settings = {"runner": "inline", "storage": storage, **count.cut(maps, reducers)}
    with mrcelery.run(count.job, str(count.book), str(output), **settings) as handle:
        check(handle, output, maps, reducers, count.expected)


@pytest.mark.parametrize("reducers", REDUCERS)
@pytest.mark.parametrize("maps", MAPS)
def test_fleet(fleet: Fleet, count: WordCount, storage: str, tmp_path: Path, maps: int, reducers: int) -> None:
    output = tmp_path / "out"
    settings = {**fleet.settings, "storage": storage, **count.cut(maps, reducers)}
    with mrcelery.run(count.job, str(count.book), str(output), **settings) as handle:
        check(handle, output, maps, reducers, count.expected)


@pytest.fixture(scope="module")
def clusters(bucket: str) -> Iterator[dict[str, LocalRunner]]:
    """A local cluster per storage, for many jobs: starting one takes longer than a job."""
    with redis_server():
        pass  # a server must be there, else this skips
    found = {"folder": LocalRunner(2), "s3": LocalRunner(2, f"s3://{bucket}/{os.urandom(6).hex()}")}
    yield found
    for runner in found.values():
        runner.close()


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, clusters: dict[str, LocalRunner], monkeypatch: pytest.MonkeyPatch
) -> LocalRunner:
    """The local cluster with the storage that the parameter names; local runs use it instead of starting one."""
    found = clusters[request.param]
    monkeypatch.setattr(found, "close", lambda: None)  # the handle would stop it after the first job
    monkeypatch.setattr("mrcelery.client.submission.local_runner", lambda config, job: found)
    return found


@pytest.mark.parametrize(
    ("cluster", "maps", "reducers"),
    [("folder", maps, reducers) for maps in MAPS for reducers in REDUCERS] + [("s3", 7, 4), ("s3", 1, 16)],
    indirect=["cluster"],
)
@pytest.mark.usefixtures("cluster")
def test_local(count: WordCount, tmp_path: Path, maps: int, reducers: int) -> None:
    output = tmp_path / "out"
    settings = {"runner": "local", **count.cut(maps, reducers)}
    with mrcelery.run(count.job, str(count.book), str(output), **settings) as handle:
        check(handle, output, maps, reducers, count.expected)


def test_several_files_and_steps_agree_on_every_runner(fleet: Fleet, tmp_path: Path) -> None:
    """Two steps over a folder, a gzip file and an empty file among them."""
    import gzip

    source = tmp_path / "in"
    source.mkdir()
    texts = {"a.txt": "x y\n", "b.txt": "", "c.txt": "y z z\r\n", "_hidden": "no\n"}
    for name, content in texts.items():
        (source / name).write_bytes(content.encode())
    with gzip.open(source / "d.txt.gz", "wb") as packed:
        packed.write(b"z w")
    job = tmp_path / "twice.py"
    job.write_text(
        dedent(
            """
            from mrcelery import MRJob, MRStep

            class Twice(MRJob):
                def steps(self):
                    return [MRStep(mapper=self.words, reducer=self.total), MRStep(reducer=self.by_count),
                            MRStep(mapper=self.swap)]

                def words(self, _, line):
                    for word in line.split():
                        yield word, 1

                def total(self, word, counts):
                    yield sum(counts), (word, None)

                def by_count(self, count, words):
                    yield count, sorted(words)

                def swap(self, count, words):
                    assert all(type(pair) is tuple for pair in words)
                    yield [word for word, _ in words], count
            """
        )
    )
    expected = [(["w", "x"], 1), (["y"], 2), (["z"], 3)]
    for settings in ({"runner": "inline"}, fleet.settings, {"runner": "local", "workers": 2}):
        with mrcelery.run(str(job), str(source), reducers=3, split_size=4, **settings) as handle:
            assert sorted(handle) == expected
            assert {stage.step for stage in handle.status().stages} == {0, 1, 2}
