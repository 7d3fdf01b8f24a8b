"""run, submit and attach, over the inline runner."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery import MRJob
from mrcelery.client.api import StageStatus, attach
from mrcelery.errors import (
    ConfigError,
    JobFailedError,
    OutputExistsError,
    UsageError,
)
from mrcelery.protocols import ReprProtocol
from tests.support.word_count import TEXT, WordCount, inline

pytestmark = pytest.mark.usefixtures("alone")


class Repr(WordCount):
    OUTPUT_PROTOCOL = ReprProtocol

    def reducer(self, word: str, counts: Any) -> Any:
        yield (word,), {sum(counts)}


class Broken(MRJob):
    def mapper(self, _: None, line: str) -> Any:
        raise ValueError(f"cannot take {line[:5]}")
        yield


def test_results() -> None:
    with inline(WordCount) as job:
        assert dict(job.results()) == Counter(TEXT.split())
        assert dict(job) == dict(job.results())
        assert sorted(job.output_lines())[0] == b'"be"\t2'
        assert job.counters() == {"words": {"seen": 10}}
        status = job.status()
        assert (status.state, status.name, job.failure()) == ("succeeded", "WordCount", None)
        assert status.stages == (StageStatus(0, "map", 1, 1), StageStatus(0, "reduce", 1, 1))
        assert job.report().totals.records_in == 2


def test_many_reducers_and_several_inputs(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text(TEXT)
    inputs = ["in.txt", "more.txt"]
    with mrcelery.run(WordCount, inputs, runner="inline", reducers=4, split_size="8B") as job:
        assert dict(job) == Counter((TEXT * 2).split())
        assert len(job.report().parts) == 4


@pytest.mark.parametrize("spec", ["{}/wc.py", "{}/wc.py:Count"])
def test_a_job_by_its_file(tmp_path: Path, spec: str) -> None:
    (tmp_path / "wc.py").write_text(
        "from mrcelery import MRJob\nclass Count(MRJob):\n"
        "    def mapper(self, _, line):\n        yield None, len(line)\n"
    )
    with inline(spec.format(tmp_path)) as job:
        assert sorted(job) == [(None, 18), (None, 20)]


def test_arguments_reach_the_job(tmp_path: Path) -> None:
    (tmp_path / "arg.py").write_text(
        "from mrcelery import MRJob\nclass Arg(MRJob):\n"
        "    def configure_args(self):\n        super().configure_args()\n"
        "        self.add_passthru_arg('--sign', default='+')\n"
        "    def mapper(self, _, line):\n        yield None, self.options.sign\n"
    )
    with inline("arg.py", args=["--sign=-x"]) as job:
        assert [value for _, value in job] == ["-x", "-x"]
    with pytest.raises(UsageError, match="--sing"):
        inline("arg.py", args=["--sing", "x"])


def test_a_protocol_reads_its_own_results() -> None:
    with inline(Repr) as job:
        assert dict(job) == {(word,): {n} for word, n in Counter(TEXT.split()).items()}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"output_format": "text"}, (None, "be\t2")),
        ({"compress": "gzip"}, ("be", 2)),
        ({"compress": "zstd"}, ("be", 2)),
    ],
)
def test_other_outputs(options: dict[str, str], line: tuple[Any, Any]) -> None:
    with inline(WordCount, **options) as job:
        assert min(job) == line


def test_an_output_folder(tmp_path: Path) -> None:
    with inline(WordCount, "out") as job:
        assert dict(job) == Counter(TEXT.split())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["_SUCCESS", "part-00000"]
    with pytest.raises(OutputExistsError):
        inline(WordCount, "out")
    inline(WordCount, "out", overwrite=True).close()


def test_fetch(tmp_path: Path) -> None:
    with inline(WordCount) as job:
        job.fetch("home")
        assert (tmp_path / "home" / "part-00000").read_bytes() == b"".join(job.output())
        with pytest.raises(OutputExistsError):
            job.fetch("home")


def test_the_users_error() -> None:
    with pytest.raises(JobFailedError) as caught:
        inline(Broken)
    failure = caught.value.failure
    assert "cannot take to be" in str(caught.value)
    assert "cannot take" in failure.traceback
    assert str(Path(mrcelery.__file__).parent) not in failure.traceback
    assert (failure.offset, Path(failure.file).name, caught.value.exit_code) == (0, "in.txt", 1)


def test_a_failed_job_has_no_results() -> None:
    with mrcelery.submit(Broken, "in.txt", runner="inline") as job:
        assert job.status().state == "failed"
        assert "cannot take" in job.status().message
        with pytest.raises(JobFailedError):
            job.results()


def test_data_of_a_storage_outlives_its_runner(tmp_path: Path) -> None:
    with inline(WordCount, storage="store") as job:
        name = job.id
    with attach(name, storage="store") as later:
        assert dict(later) == Counter(TEXT.split())
        assert (later.status().state, later.counters()) == ("succeeded", {"words": {"seen": 10}})
        with pytest.raises(ConfigError, match="--broker"):
            later.cancel()
    with attach("other-job", storage="store") as other, pytest.raises(UsageError, match="not known"):
        other.status()


def test_temporary_data_goes_with_the_handle() -> None:
    job = inline(WordCount)
    folder = Path(job.runner.storage) if job.runner else Path()
    assert folder.is_dir()
    job.close()
    assert not folder.exists()


def test_paths_are_addresses_too(tmp_path: Path) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    expected = dict(inline(WordCount).results())
    with mrcelery.run(WordCount, Path("in.txt"), out, runner="inline", storage=store) as handle:
        assert dict(handle.results()) == expected
        handle.fetch(tmp_path / "home")
    assert (out / "_SUCCESS").exists()
    assert (tmp_path / "home/_SUCCESS").exists()
    assert (store / "jobs").is_dir()
    with mrcelery.run(WordCount, [Path("in.txt"), "in.txt"], runner="inline") as handle:
        assert dict(handle.results())["to"] == 2 * expected["to"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"inputs": ""}, "an INPUT is empty"),
        ({"inputs": ["in.txt", ""]}, "an INPUT is empty"),
        ({"inputs": 3}, "inputs are 3"),
        ({"inputs": [3]}, "input 3 is not an address"),
        ({"output": ""}, "OUTPUT .* is empty"),
        ({"output": "gs://b/o"}, "Google Cloud Storage"),
        ({"output": Path("s3://b/o")}, "give it as text"),
        ({"storage": ""}, "--storage is empty"),
        ({"storage": "hdfs://n/x"}, "HDFS"),
    ],
)
def test_wrong_addresses_are_refused_before_anything_runs(options: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        mrcelery.submit(WordCount, **{"inputs": "in.txt", "runner": "inline", **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt"]


def test_no_job_has_an_empty_id(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the job id is empty"):
        attach("", storage=str(tmp_path))


def test_a_memory_serves_no_other_process() -> None:
    for options in ({"storage": "memory://m"}, {"output": "memory://m"}):
        with pytest.raises(ConfigError, match="cannot serve the local runner"):
            mrcelery.submit(WordCount, "in.txt", runner="local", **options)
