"""Starts a local runner for a job, preloading the large modules that the job's file will import."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mrcelery.config import Config
from mrcelery.runners.base import Runner, storage_root

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob


def local_runner(config: Config, job: type[MRJob] | str) -> Runner:
    """Start a local cluster for a job, which may not be loaded yet."""
    from mrcelery.runners.local import LocalRunner  # noqa: PLC0415 - a fleet's client starts no cluster

    return LocalRunner(workers_of(config), storage_root(config) or None, _foreseen(job), config.memory)


def _foreseen(job: type[MRJob] | str) -> list[str]:
    """List fork-safe modules, slow to import, that the job's file mentions."""
    try:
        file = sys.modules[job.__module__].__file__ if isinstance(job, type) else job.partition(".py:")[0]
        text = Path(file if file and file.endswith(".py") else f"{file}.py").read_bytes()
    except (OSError, KeyError, AttributeError):
        return []
    # Keyed records and tables use Arrow, even if the file does not name it.
    arrow = any(word in text for word in (b"pyarrow", b"records:", b"BATCH"))
    return [
        *(["numpy"] if b"numpy" in text else []),
        *(["pandas"] if b"pandas" in text else []),
        *(["pyarrow.compute"] if arrow else []),
    ]


def workers_of(config: Config) -> int:
    """Return the number of processes of a local cluster."""
    return config.workers or os.cpu_count() or 1
