"""Formats of the user's own, and the names that settle what a job reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mrcelery import MRJob
from mrcelery.client.submission import Submission
from mrcelery.errors import JobLoadError, UsageError, UserCodeError
from mrcelery.formats import RecordBlock, input_format, output_format
from mrcelery.formats.custom import MOST_PAIRS
from mrcelery.formats.naming import INPUTS, Name, check_jobconf, parse, settle, to_ship
from mrcelery.schema.structs import Extent

EXTENT = Extent("memory://own/a", 0, 3, 3)


class Numbers:
    splittable = True

    def read(self, extent: Extent, max_record: int) -> Iterator[Any]:
        for i in range(extent.start, 10_000):
            yield i, str(i)


class Blocks:
    def read(self, extent: Extent, max_record: int) -> Iterator[Any]:
        yield RecordBlock(None, ["a"], extent.uri, lambda i: 7)
        yield RecordBlock(None, ["b"], extent.uri)


class Counting:
    suffix = ".n"
    needs_records = True

    def __init__(self) -> None:
        self.seen: list[int] = []

    def encode(self, keys: list[Any], values: list[Any]) -> bytes:
        self.seen += values
        return b"."

    def finish(self) -> bytes:
        return f"{self.seen}".encode()


class Failing:
    def read(self, extent: Extent, max_record: int) -> Iterator[Any]:
        yield None, 1
        raise ValueError("no such thing")

    def encode(self, keys: list[Any], values: list[Any]) -> Any:
        return values[0].nope


class Strange:
    def read(self, extent: Extent, max_record: int) -> Iterator[Any]:
        yield 1

    def encode(self, keys: list[Any], values: list[Any]) -> Any:
        return "text"


class Job(MRJob):
    INPUT = Numbers()
    OUTPUT = Counting()

    def mapper(self, key: Any, value: Any) -> Iterator[Any]:
        yield key, value


def job(reader: Any, writer: Any = None) -> Any:
    class Own(MRJob):
        INPUT: ClassVar[Any] = reader
        OUTPUT: ClassVar[Any] = writer

    return Own()


def test_a_job_with_its_own_formats() -> None:
    options = Submission.prepare(Job, "in.txt", runner="inline").options
    assert (options.input_format, options.output_format) == ("own:splittable=true", "own:suffix=.n")
    # what the coordinator makes of them, without the job
    assert input_format(options.input_format).splittable is True
    assert output_format(options.output_format).suffix == ".n"
    # a flag wins over the class
    options = Submission.prepare(Job, "in.txt", runner="inline", input_format="jsonl", output_format="csv").options
    assert (options.input_format, options.output_format) == ("jsonl", "csv")


def test_pairs_become_blocks() -> None:
    blocks = list(input_format("own:splittable=true", job=Job()).read(EXTENT, 100))
    assert [k for b in blocks for k in b.keys or ()] == list(range(10_000))
    assert [v for b in blocks for v in b.values] == [str(i) for i in range(10_000)]
    assert max(len(b.values) for b in blocks) == MOST_PAIRS
    assert blocks[0].offset_of(0) == -1


def test_blocks_stay_blocks() -> None:
    assert settle(Blocks, {}, "INPUT") == "own:splittable=false"
    blocks = list(input_format("own", job=job(Blocks)).read(EXTENT, 100))
    assert [list(b.values) for b in blocks] == [["a"], ["b"]]
    assert blocks[0].offset_of(0) == 7


def test_one_file_leaves_nothing_in_the_next() -> None:
    for _ in range(2):
        writer = output_format("own:suffix=.n", Job())
        assert writer.encode([None], [1]) == b"."
        assert writer.finish() == b"[1]"  # type: ignore[attr-defined]
        assert writer.needs_records is True  # type: ignore[attr-defined]
    assert Job.OUTPUT.seen == []


def test_a_format_by_name() -> None:
    name = f"{__name__}:Numbers"
    text = settle(name, {}, "INPUT")
    assert Name.of(text) == Name("own", {"class": name, "splittable": "true"})
    assert sum(len(b.values) for b in input_format(text).read(EXTENT, 100)) == 10_000
    assert to_ship(text, MRJob) == (str(Path(__file__).parents[2]),)  # the package that this module is in
    assert to_ship(text, Job) == ()  # it travels with the job
    assert to_ship("csv:header=false", Job) == to_ship("own:splittable=true", Job) == ()
    assert to_ship(settle("mrcelery.examples.own_format:Paragraphs", {}, "INPUT"), Job) == ()


def test_what_a_format_raises_is_the_users() -> None:
    reader = input_format("own", job=job(Failing()))
    with pytest.raises(UserCodeError, match="ValueError: no such thing") as caught:
        list(reader.read(EXTENT, 100))
    assert "in read" in caught.value.traceback
    assert caught.value.file == EXTENT.uri
    with pytest.raises(UserCodeError, match="AttributeError") as caught:
        output_format("own", job(None, Failing())).encode([None], [1])
    assert "values[0].nope" in caught.value.traceback
    with pytest.raises(UserCodeError, match=r"not a \(key, value\) pair"):
        list(input_format("own", job=job(Strange())).read(EXTENT, 100))
    with pytest.raises(UserCodeError, match="return bytes"):
        output_format("own", job(None, Strange())).encode([None], [1])


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        (3, UsageError, "INPUT is not a format, as it has no method read"),
        (Counting(), UsageError, "has no method read"),
        ("record:80", UsageError, "unknown input format 'record:80': use one of text, .* records:N"),
        (f"{__name__}:Nope", JobLoadError, "has no Nope"),
        (f"{__name__}:Counting", UsageError, "has no method read"),
        ("exe", UsageError, "or pkg.module:Class"),
        ("own", UsageError, "names no format"),
    ],
)
def test_what_is_no_format(given: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        settle(given, {}, "INPUT")


def test_arguments_from_the_job_configuration() -> None:
    conf = {"csv.header": "false", "csv.delimiter": ";", "csv.columns": "a,b", "parquet.columns": "x", "other.x": "1"}
    check_jobconf(conf)
    assert settle("csv", conf, "INPUT") == "csv:delimiter=%3B,header=false"
    assert settle("csv:header=true", conf, "INPUT") == "csv:delimiter=%3B,header=true"
    assert settle("tsv", conf, "OUTPUT") == "tsv:columns=a%2Cb,header=false"
    assert settle("parquet", conf, "INPUT") == "parquet:columns=x"
    assert settle("text", conf, "INPUT") == "text"
    assert settle("records:80", {}, "INPUT") == "records:80"
    with pytest.raises(UsageError, match=r"csv\.haeder is unknown"):
        check_jobconf({"csv.haeder": "1"})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("csv:header=maybe", "true or false"),
        ("csv:delimiter=ab", "one character"),
        ("csv:delimiter=%0A", "one character"),
        ("csv:nope=1", "has no argument 'nope': it takes header"),
        ("text:4", "it takes none"),
        ("parquet:columns=a%2Ca", "names that differ"),
    ],
)
def test_wrong_arguments(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        input_format(text)


def test_names_survive_their_text() -> None:
    name = Name("csv", {"delimiter": ",", "quote": "%", "header": "a=b"})
    assert parse(str(name), INPUTS) == name


class Protocols(Job):
    class OUTPUT_PROTOCOL:
        def read(self, line: bytes) -> Any: ...

        def write(self, key: Any, value: Any) -> bytes:
            raise NotImplementedError


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"output_format": "parquet"}, "give -o OUTPUT"),
        ({"output_format": "parquet", "compress": "gzip"}, "leave --compress out"),
        ({"job": Protocols, "output_format": "csv"}, "has an output protocol"),
        ({"input_format": "csv", "jobconf": {"csv.x": "1"}}, "jobconf csv.x is unknown"),
    ],
)
def test_what_formats_cannot_do(options: dict[str, Any], why: str) -> None:
    job_class = options.pop("job", Job)
    with pytest.raises(UsageError, match=why):
        Submission.prepare(job_class, "in.txt", runner="inline", **options)
