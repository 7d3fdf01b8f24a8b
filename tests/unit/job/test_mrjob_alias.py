"""Job files that import mrjob, whether it is installed or not."""

from __future__ import annotations

import importlib
import io
import logging
import sys
from io import StringIO
from itertools import pairwise
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery import protocols
from mrcelery.job import mrjob_alias as compat
from mrcelery.job.base import MRJob
from mrcelery.job.hooks import hooks
from mrcelery.job.mrjob_alias import mrjob_alias

SOURCE = """
from mrjob.job import MRJob
from mrjob.step import MRStep
from mrjob.protocol import JSONValueProtocol
import mrjob.util

class MRWords(MRJob):
    OUTPUT_PROTOCOL = JSONValueProtocol

    def steps(self):
        return [MRStep(mapper=self.mapper_get, reducer=self.reducer_sum), MRStep(reducer=self.reducer_max)]

    def mapper_get(self, _, line):
        self.increment_counter("a,b", "c,d")
        yield line, 1

    def reducer_sum(self, word, counts):
        yield None, (sum(counts), word)

    def reducer_max(self, _, pairs):
        yield max(pairs)
"""


def test_a_job_of_mrjob_is_a_job_of_ours_with_its_protocols() -> None:
    namespace: dict[str, object] = {"__name__": "words"}
    with mrjob_alias():
        exec(SOURCE, namespace)
    job = namespace["MRWords"]([])  # type: ignore[operator]
    assert isinstance(job, MRJob)
    first, last = hooks(job, 0), hooks(job, 1)
    assert first.input_protocol is not None
    assert first.internal_protocol is not None
    assert last.output_protocol is not None
    assert first.input_protocol.read(b"caf\xe9") == (None, "café")
    assert first.internal_protocol.write(None, (1, "a")) == b'null\t[1, "a"]'
    assert last.output_protocol.write(1, "a") == b'"a"'
    assert first.mapper is not None
    assert list(first.mapper(None, "x")) == [("x", 1)]
    assert job.counters == {"a;b": {"c;d": 1}}


def test_the_alias_is_gone_afterwards_and_an_installed_mrjob_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, job = ModuleType("mrjob"), ModuleType("mrjob.job")
    monkeypatch.setitem(sys.modules, "mrjob", theirs)
    monkeypatch.setitem(sys.modules, "mrjob.job", job)
    finders = list(sys.meta_path)
    with mrjob_alias():
        with mrjob_alias():
            pass
        assert importlib.import_module("mrjob.job").MRJob is compat.MRJob
        assert sys.modules["mrjob"] is not theirs
    assert sys.modules["mrjob"] is theirs
    assert sys.modules["mrjob.job"] is job
    assert not [name for name in sys.modules if name.startswith("mrjob.") and name != "mrjob.job"]
    assert sys.meta_path == finders


@pytest.mark.parametrize(
    ("statement", "missing"),
    [
        ("from mrjob.job import MRJobLauncher", "mrjob.job.MRJobLauncher"),
        ("from mrjob.step import JarStep", "mrjob.step.JarStep"),
        ("from mrjob.protocol import UltraJSONProtocol", "mrjob.protocol.UltraJSONProtocol"),
        ("import mrjob.emr", "mrjob.emr"),
        ("from mrjob.fs.s3 import S3Filesystem", "mrjob.fs"),
        ("from mrjob import conf", "mrjob.conf"),
    ],
)
def test_what_is_not_provided_is_named(statement: str, missing: str) -> None:
    with mrjob_alias(), pytest.raises(ImportError, match=f"mrcelery does not provide {missing}"):
        exec(statement, {})


def test_every_protocol_of_ours_is_there() -> None:
    with mrjob_alias():
        module = importlib.import_module("mrjob.protocol")
    assert module.PickleProtocol is protocols.PickleProtocol
    assert module.RawValueProtocol is protocols.TextValueProtocol
    assert not hasattr(module, "__wrapped__")


@given(st.binary(), st.lists(st.integers(0, 20)))
def test_lines_come_whole_however_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    chunks = [data[a:b] for a, b in pairwise(edges)]
    lines = list(compat.to_lines(chunks))
    assert b"".join(lines) == data
    assert lines == io.BytesIO(data).readlines()


def test_output_is_parsed() -> None:
    assert list(compat.MRJob().parse_output([b'"a"\t[1', b", 2]\nnull\t0\n"])) == [("a", [1, 2]), (None, 0)]


def test_properties_are_found_by_both_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("mapreduce_map_input_file", "s3://b/k")
    assert compat.jobconf_from_env("map.input.file") == "s3://b/k"
    assert compat.jobconf_from_env("mapreduce.map.input.file") == "s3://b/k"
    assert compat.jobconf_from_env("user.name", "none") == "none"
    assert compat.jobconf_from_dict({"mapred.reduce.tasks": 3}, "mapreduce.job.reduces") == 3
    assert compat.jobconf_from_dict({}, "x", "y") == "y"


def test_logging_goes_to_the_stream() -> None:
    stream, logger = StringIO(), logging.getLogger("a job")
    compat.log_to_stream("a job", stream)
    logger.info("seen")
    logger.debug("not seen")
    logger.handlers.clear()
    assert stream.getvalue() == "seen\n"
