"""A job that is submitted and has not started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.runners.inline import InlineRunner


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[OpenJobs, str]]:
    """Makes a job that is submitted, and its runtime; nothing has run."""

    def submit(source: str, signing_key: str | None = None, text: str = "a\n", **options: Any) -> tuple[OpenJobs, str]:
        kept: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(InlineRunner, "submit", lambda self, *request: kept.append(request))
            (tmp_path / "job.py").write_text("import os, sys, logging\nfrom mrcelery import MRJob\n" + dedent(source))
            (tmp_path / "in.txt").write_text(text)
            mrcelery.submit(
                f"{tmp_path}/job.py", f"{tmp_path}/in.txt", runner="inline", storage=f"{tmp_path}/storage",
                signing_key=signing_key or "", **options,
            ).close()  # fmt: skip
        request, envelope, code, blobs = kept[0]
        store = MemoryJobStore()
        from mrcelery.runners.enter import enter

        enter(store, request, envelope, code, blobs)
        return OpenJobs(store, scratch=f"{tmp_path}/scratch", signing_key=signing_key), request.job

    return submit
