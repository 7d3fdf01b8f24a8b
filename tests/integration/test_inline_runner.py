"""The inline runner runs in this process, starts no other, and leaves nothing behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import mrcelery
from tests.support.services import command, environment, results

JobFile = Callable[..., str]


def test_it_is_this_process_and_output_is_let_through(job_file: JobFile, text: Path) -> None:
    job = job_file(
        """
        import os
        from mrcelery import MRJob

        class Here(MRJob):
            def mapper(self, _, line):
                print("seen:", line)
                yield os.getpid(), 1

            def reducer(self, pid, ones):
                yield pid, sum(ones)
        """
    )
    with mrcelery.run(job, str(text), runner="inline") as handle:
        assert results(handle) == {os.getpid(): 2}
    done = command("submit", "-r", "inline", job, text, "--no-output")
    assert done.stdout == "seen: a rose is a rose\nseen: is a rose\n"


def test_a_debugger_works(job_file: JobFile, text: Path) -> None:
    job = job_file(
        """
        from mrcelery import MRJob

        class Debug(MRJob):
            def mapper(self, _, line):
                breakpoint()
                yield line, 1
        """
    )
    done = command("submit", "-r", "inline", job, text, stdin="p 'line is ' + line\nc\np 'then ' + line\nc\n")
    assert done.returncode == 0, done.stderr
    assert "'line is a rose is a rose'" in done.stdout
    assert "'then is a rose'" in done.stdout


def test_nothing_is_left(word_count: str, text: Path, tmp_path: Path) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    env = environment(TMPDIR=str(place), MRCELERY_RUNNER="inline")
    done = command("submit", word_count, text, env=env)
    assert done.returncode == 0, done.stderr
    assert list(place.iterdir()) == []
    assert command("submit", word_count, "-", env=env, stdin="a b a\n").returncode == 0
    assert list(place.iterdir()) == []


def test_this_process_is_as_before(
    monkeypatch: pytest.MonkeyPatch, job_file: JobFile, text: Path, tmp_path: Path
) -> None:
    """A job that fails leaves the working directory of this process unchanged and the temporary folder empty."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    job = job_file(
        """
        import os
        from mrcelery import MRJob

        class Fails(MRJob):
            def mapper(self, _, line):
                os.chdir("/")
                raise KeyError(line)
        """,
        "fails_inline.py",
    )
    before = os.getcwd()
    with pytest.raises(mrcelery.JobFailedError, match="KeyError: 'a rose is a rose'"):
        mrcelery.run(job, str(text), runner="inline")
    assert os.getcwd() == before
    assert list(place.iterdir()) == []


def test_a_storage_that_is_given_keeps_the_results(word_count: str, text: Path, tmp_path: Path) -> None:
    storage = str(tmp_path / "storage")
    with mrcelery.run(word_count, str(text), runner="inline", storage=storage) as handle:
        job = handle.id
        found = results(handle)
    with mrcelery.attach(job, storage=storage) as later:
        assert later.status().state == "succeeded"
        assert dict(later) == found
        assert later.counters() == {"text": {"lines": 2, "words": 3}}
