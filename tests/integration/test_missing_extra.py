"""Workers without the extra ``arrow``, alone or next to others, leave tasks that need it to workers that have it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

import mrcelery
from mrcelery import events
from mrcelery.errors import WaitTimeoutError
from tests.support.services import Quiet, results, workers

pytest.importorskip("pyarrow")

# Python runs this when it starts; after that find_spec and imports find no pyarrow, as if it were not installed.
BARE = """
from importlib.machinery import PathFinder
found = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] == "pyarrow" else found(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
"""

IMPORTS = """
import pyarrow
from mrcelery import MRJob

class Lines(MRJob):
    def mapper(self, _, line):
        yield line, len(pyarrow.array([line]))
    def reducer(self, line, counts):
        yield line, sum(counts)
"""

TABLES = """
from mrcelery import MRJob, ops

class Lines(MRJob):
    BATCH = "table"
    reducer = ops.Sum()

    def mapper_batch(self, table):
        return table.append_column("n", [[1] * len(table)])
"""


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """Environment of a worker that cannot import pyarrow."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BARE)
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("source", [IMPORTS, TABLES], ids=["imports", "tables"])
def test_another_worker_takes_them(
    source: str, quiet: Quiet, bare: dict[str, str], job_file: Callable[..., str], text: Path
) -> None:
    with ExitStack() as stack:
        for numbers, env in ((range(1), bare), (range(1, 2), {})):
            folder = quiet.folder / f"workers-{numbers[0]}"
            url = quiet.server.tcp_url
            stack.enter_context(workers(folder, url, numbers, queue=quiet.name, concurrency=1, env=env))
        with mrcelery.submit(
            job_file(source), str(text), split_size=20, reducers=2, max_attempts=1, **quiet.settings
        ) as job:
            job.wait(60)
            assert results(job) == {"a rose is a rose": 1, "is a rose": 1}
            stages = job.overview().stages
    ran = [one for stage in stages for one in stage.attempts if one.outcome == "succeeded"]
    assert len(ran) == 4
    assert all(one.worker.startswith(f"{quiet.name}-1@") for one in ran)


def test_without_another_the_job_waits_and_says_what_is_missing_where(
    quiet: Quiet, bare: dict[str, str], job_file: Callable[..., str], text: Path, word_count: str
) -> None:
    seen: list[events.Event] = []
    with mrcelery.submit(job_file(IMPORTS), str(text), max_attempts=1, **quiet.settings) as job:
        with workers(quiet.folder / "first", quiet.server.tcp_url, queue=quiet.name, concurrency=1, env=bare):
            with pytest.raises(WaitTimeoutError):
                job.wait(6, on_event=seen.append)
            assert job.status().state == "running"
            (said,) = {event.message for event in seen if isinstance(event, events.TaskRetried)}
            assert "imports pyarrow, which is not installed here: pip install 'mrcelery[arrow]'" in said
            assert f"missing on {quiet.name}-0@here; no worker on queue {quiet.name} has them" in said
            with mrcelery.submit(word_count, str(text), **quiet.settings) as other:  # this job runs meanwhile
                other.wait(30)
        with workers(quiet.folder / "second", quiet.server.tcp_url, range(1, 2), queue=quiet.name, concurrency=1):
            job.wait(60)
            assert results(job) == {"a rose is a rose": 1, "is a rose": 1}


def test_a_job_that_waits_can_be_cancelled(
    quiet: Quiet, bare: dict[str, str], job_file: Callable[..., str], text: Path
) -> None:
    with (
        quiet.workers(1, env=bare),
        mrcelery.submit(job_file(IMPORTS), str(text), **quiet.settings) as job,
        pytest.raises(mrcelery.errors.JobCancelledError),
    ):
        with pytest.raises(WaitTimeoutError):
            job.wait(4)
        job.cancel()
        job.wait(30)
