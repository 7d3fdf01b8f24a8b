"""The examples against independent oracles: coreutils, awk, ``collections``, and how the input was made."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

import mrcelery
from mrcelery.errors import ConfigError, UsageError
from mrcelery.shipping.job_file import load_job
from tests.support import generate

Run = Callable[..., dict[str, dict[str, int]]]


def cluster_is_there() -> bool:
    from mrcelery.runners.redis_server import find_server

    try:
        find_server()
    except ConfigError:
        if os.environ.get("CI"):
            raise
        return False
    return True


@pytest.fixture(params=["inline", pytest.param("local", marks=pytest.mark.slow)])
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "local" and not cluster_is_there():
        pytest.skip("the local runner needs a Redis or Valkey server")
    name: str = request.param
    return name


@pytest.fixture(params=[1, 3], ids=["R1", "R3"])
def reducers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture
def run(tmp_path: Path, runner: str) -> Run:
    """Run an example over several splits, with its results in ``tmp_path / "out"``; return its counters."""

    def run(example: str, *inputs: Path, splits: int = 3, **options: Any) -> dict[str, dict[str, int]]:
        size = sum(path.stat().st_size for path in inputs)
        with mrcelery.run(
            f"mrcelery.examples.{example}",
            [str(path) for path in inputs],
            str(tmp_path / "out"),
            runner=runner,
            workers=2,
            split_size=size // splits,
            **options,
        ) as handle:
            maps = next(stage for stage in handle.status().stages if stage.kind == "map")
            assert maps.total >= splits
            # without the counters of partition sizes
            return {group: names for group, names in handle.counters().items() if group[:8] != "mrcelery"}

    return run


def part_files(tmp_path: Path, count: int | None = None) -> list[bytes]:
    """Return the contents of the part files, in order; check that there are ``count`` of them, and ``_SUCCESS``."""
    folder = tmp_path / "out"
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == "_SUCCESS"
    assert names[1:] == [f"part-{i:05}" for i in range(len(names) - 1)]
    assert count in (None, len(names) - 1)
    return [(folder / name).read_bytes() for name in names[1:]]


def pairs(part: bytes) -> list[tuple[Any, Any]]:
    """Parse the records of a part file in the json format."""
    lines = [line.split(b"\t") for line in part.split(b"\n")[:-1]]
    return [(json.loads(key), json.loads(value)) for key, value in lines]


def result(tmp_path: Path, reducers: int) -> dict[Any, Any]:
    """Return all pairs; check that each part file is sorted by key, and that each key is in one file only."""
    parts = [pairs(part) for part in part_files(tmp_path, reducers)]
    for part in parts:
        keys = [key for key, _ in part]
        assert keys == sorted(keys)
    everything = [pair for part in parts for pair in part]
    assert len(dict(everything)) == len(everything)
    if reducers > 1:
        assert sum(bool(part) for part in parts) > 1
    return dict(everything)


def shell(command: str, data: bytes | None = None, **environment: str) -> bytes:
    """Return the output of a shell pipeline, which sorts by bytes, not by the locale."""
    return subprocess.run(
        ["sh", "-c", command],
        input=data,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", **environment},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


def uniq_counts(output: bytes) -> dict[str, int]:
    """Parse the output of ``uniq -c``."""
    lines = [line.split(maxsplit=1) for line in output.decode().splitlines()]
    return {text: int(count) for count, text in lines}


MODULES = ["word_count", "grep", "url_count", "reverse_links", "term_vector", "inverted_index", "sort"]


@pytest.mark.parametrize("module", MODULES)
def test_the_documented_command_names_the_job(module: str) -> None:
    job = f"mrcelery.examples.{module}"
    shown = re.search(r"^    mrcelery submit (\S+) ", importlib.import_module(job).__doc__ or "", re.MULTILINE)
    assert shown is not None
    assert load_job(shown[1]).__module__ == job
    assert load_job(job) is load_job(shown[1])  # the only job class of its module


def test_word_count(tmp_path: Path, run: Run, reducers: int) -> None:
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for seed, file in enumerate(files):
        file.write_text(generate.text(2000, seed))

    run("word_count:WordCount", *files, splits=5, reducers=reducers)

    counted = shell(f"cat {files[0]} {files[1]} | tr -s '[:space:]' '\\n' | grep -v '^$' | sort | uniq -c")
    assert result(tmp_path, reducers) == uniq_counts(counted)


@pytest.mark.parametrize("pattern", ["ab", "^[^e]*$", r"[0-9]\.$|^$", "Größe|東京"])
def test_grep(tmp_path: Path, run: Run, pattern: str) -> None:
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    files[0].write_text(generate.text(1500, 7))
    files[1].write_text(generate.text(1500, 8) + "the end, e.g. 7.")  # without a newline

    run("grep:Grep", *files, splits=4, args=["--pattern", pattern])

    found = shell(f'cat {files[0]} {files[1]} | grep -E "$PATTERN"', PATTERN=pattern, LC_ALL="C.UTF-8")
    assert b"".join(part_files(tmp_path)) == found
    assert found


def test_grep_gives_back_bytes_that_are_no_utf8(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "latin1.txt"
    file.write_bytes("Grüße\nnone\nschöne Grüße\n".encode("latin-1") * 50)

    run("grep:Grep", file, args=["--pattern", "Gr..e"])

    assert b"".join(part_files(tmp_path)) == "Grüße\nschöne Grüße\n".encode("latin-1") * 50


@pytest.mark.parametrize(
    ("args", "said"),
    [(["--pattern", "("], "'(' is not a regular expression"), ([], "--pattern")],
    ids=["malformed", "missing"],
)
def test_grep_refuses_a_pattern_at_once(tmp_path: Path, args: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        mrcelery.submit("mrcelery.examples.grep:Grep", str(tmp_path), runner="inline", args=args)


IS_ENTRY = r"NF >= 7 && $1 ~ /^[^ ]+ - [^ ].* \[[^]]*\] $/ && $2 ~ /^[A-Z]+ [^ ]+ HTTP\/[0-9.]+$/"


def test_url_count(tmp_path: Path, run: Run, reducers: int) -> None:
    log = generate.access_log(3000)
    file = tmp_path / "access.log"
    file.write_text(log)

    counters = run("url_count:UrlCount", file, reducers=reducers)

    cut = '{ split($2, request, " "); sub(/\\?.*/, "", request[2]); print request[2] }'
    counted = shell(f"awk -F'\"' '{IS_ENTRY} {cut}' {file} | sort | uniq -c")
    malformed = int(shell(f"awk -F'\"' '!({IS_ENTRY})' {file} | wc -l"))
    assert result(tmp_path, reducers) == uniq_counts(counted)
    assert counters == {"access log": {"malformed lines": malformed}}
    assert malformed > 10


def test_reverse_links(tmp_path: Path, run: Run, reducers: int) -> None:
    pages = list(generate.pages(300))
    file = tmp_path / "pages.jsonl"
    file.write_text(generate.json_lines({"url": url, "html": html} for url, html, _ in pages))

    counters = run("reverse_links:ReverseLinks", file, reducers=reducers)

    sources = defaultdict(set)
    for url, _, targets in pages:
        for target in targets:
            sources[target].add(url)
    assert result(tmp_path, reducers) == {target: sorted(urls) for target, urls in sources.items()}
    assert counters == {"links": {"malformed": sum(html.count("http://[") for _, html, _ in pages)}}


def test_reverse_links_heeds_base_href(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "pages.jsonl"
    html = "<base href='/docs/'><a href='a.html'>a</a><a href=' b.html '>b</a><a href=''>none</a><a>none</a>"
    file.write_text(json.dumps({"url": "https://example.org/x/y.html", "html": html}) + "\n")

    run("reverse_links:ReverseLinks", file, splits=1, reducers=1)

    assert result(tmp_path, 1) == {
        "https://example.org/docs/a.html": ["https://example.org/x/y.html"],
        "https://example.org/docs/b.html": ["https://example.org/x/y.html"],
    }


def plain_words(text: str) -> list[str]:
    """Return the words in lower case, found by character and not by a regular expression."""
    return "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()


@pytest.mark.parametrize("terms", [3, 10_000])
def test_term_vector(tmp_path: Path, run: Run, reducers: int, terms: int) -> None:
    documents = list(generate.documents(800))
    file = tmp_path / "documents.jsonl"
    nowhere = {"id": "x", "url": "file:///tmp/x", "text": "word"}
    file.write_text(generate.json_lines([*documents, nowhere]))

    counters = run("term_vector:TermVector", file, reducers=reducers, args=["--terms", str(terms)])

    hosts: dict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        hosts[re.sub(":.*", "", urlparse(document["url"]).netloc)].update(plain_words(document["text"]))
    assert result(tmp_path, reducers) == {
        host: [[term, -count] for count, term in sorted((-count, term) for term, count in vector.items())][:terms]
        for host, vector in hosts.items()
    }
    assert counters == {"documents": {"without a host": 1}}


def test_inverted_index(tmp_path: Path, run: Run, reducers: int) -> None:
    documents = list(generate.documents(800, seed=3))
    file = tmp_path / "documents.jsonl"
    file.write_text(generate.json_lines([*reversed(documents), *documents[:50]]))  # some occur twice

    run("inverted_index:InvertedIndex", file, reducers=reducers)

    index = defaultdict(list)
    for document in documents:  # in order of id
        for word in set(plain_words(document["text"])):
            index[word].append(document["id"])
    assert result(tmp_path, reducers) == index


def test_sort(tmp_path: Path, run: Run, reducers: int) -> None:
    file = tmp_path / "records.txt"
    data = generate.sort_records(4000)
    file.write_bytes(data)

    run("sort:Sort", file, splits=5, reducers=reducers)

    parts = part_files(tmp_path, reducers)
    by_key = "sort -s -t '\t' -k1.1,1.10"
    for part in parts:
        assert part
        assert part == shell(by_key, part)
    # Equal keys keep the order of the input, also across part files.
    assert b"".join(parts) == shell(by_key, data)


def test_sort_takes_any_bytes(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "records.bin"
    lines = [bytes((b, 255 - b, 0)) + b"\t\xff" * (b % 7) for b in range(256) if b not in (10, 245)]
    file.write_bytes(b"".join(line + b"\n" for line in lines[::-1]))

    run("sort:Sort", file, splits=4, reducers=1)

    assert part_files(tmp_path, 1) == [shell("sort -s", file.read_bytes())]
