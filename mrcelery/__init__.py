"""MapReduce on Celery: write a mapper and a reducer, run them here or on the fleet you already have.

::

    from mrcelery import MRJob

    class WordCount(MRJob):
        def mapper(self, _, line):
            for word in line.split():
                yield word, 1

        def reducer(self, word, counts):
            yield word, sum(counts)

    if __name__ == "__main__":
        WordCount.run()

Names are imported on first use: ``import mrcelery`` itself loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrcelery.version import __version__ as __version__

if TYPE_CHECKING:
    from celery import Celery

    from mrcelery import ops
    from mrcelery.celeryapp import install
    from mrcelery.client.api import JobHandle, JobStatus, StageStatus, attach, run, submit
    from mrcelery.errors import (
        JobCancelledError,
        JobFailedError,
        MRCeleryError,
        UnreachableError,
        UsageError,
        WaitTimeoutError,
    )
    from mrcelery.job.base import MRJob
    from mrcelery.job.step import MRStep
    from mrcelery.worker.app import use_transports
    from mrcelery.worker.leases import transport_options

    app: Celery

_HOMES = {
    "MRJob": "job.base",
    "MRStep": "job.step",
    "run": "client.api",
    "submit": "client.api",
    "attach": "client.api",
    "JobHandle": "client.api",
    "JobStatus": "client.api",
    "StageStatus": "client.api",
    "MRCeleryError": "errors",
    "UsageError": "errors",
    "UnreachableError": "errors",
    "JobFailedError": "errors",
    "JobCancelledError": "errors",
    "WaitTimeoutError": "errors",
    "install": "celeryapp",
    "transport_options": "worker.leases",
    "use_transports": "worker.app",
}

__all__ = [
    "JobCancelledError",
    "JobFailedError",
    "JobHandle",
    "JobStatus",
    "MRCeleryError",
    "MRJob",
    "MRStep",
    "StageStatus",
    "UnreachableError",
    "UsageError",
    "WaitTimeoutError",
    "app",
    "attach",
    "install",
    "ops",
    "run",
    "submit",
    "transport_options",
    "use_transports",
]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("mrcelery.ops")
    if name == "app":
        value = import_module("mrcelery.celeryapp").configured_app()  # loaded by `celery -A mrcelery`
    elif name in _HOMES:
        value = getattr(import_module(f"mrcelery.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module 'mrcelery' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
