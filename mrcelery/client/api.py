"""Run jobs from scripts, notebooks and web apps: :func:`run`, :func:`submit`, :func:`attach`.

A call here finds its settings like the command line does (:mod:`mrcelery.config`); a keyword argument
takes the place of a flag.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mrcelery.client.handle import JobHandle
from mrcelery.config import Config
from mrcelery.errors import UsageError
from mrcelery.reporting.status import JobStatus, StageStatus
from mrcelery.runners.base import connect, storage_root

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob

__all__ = ["JobHandle", "JobStatus", "StageStatus", "attach", "run", "submit"]


def run(
    job: type[MRJob] | str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    runner: str | None = None,
    **options: Any,
) -> JobHandle:
    """Run a job and wait for its end.

    - ``job`` is a job class, ``"file.py"``, ``"file.py:Class"`` or ``"pkg.module:Class"``.
    - ``inputs`` is one or more files, folders, globs, ``s3://`` or ``http(s)://`` addresses, as text or as a
      :class:`pathlib.Path`.
    - ``output`` is a folder or an ``s3://`` address. If it is None, read the results from the handle.
    - ``options`` are those of :func:`submit`.

    Raises :class:`JobFailedError`, :class:`JobCancelledError`, and the errors of :func:`submit`.
    """
    handle = submit(job, inputs, output, runner=runner, **options)
    try:
        handle.wait()
    except BaseException:
        handle.close()
        raise
    return handle


def submit(
    job: type[MRJob] | str | os.PathLike[str],
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    runner: str | None = None,
    **options: Any,
) -> JobHandle:
    """Start a job; on a fleet this returns at once, and the job runs without its client.

    ``job``, ``inputs`` and ``output`` are those of :func:`run`. ``options`` are settings by name (``broker``,
    ``storage``, ``reducers``, ``split_size`` and so on) and these:

    - ``args``: the job's own arguments, a list of text.
    - ``name``: the name of the job; by default, the name of its class.
    - ``client_token``: the same token returns the job that was submitted with it. Raises :class:`UsageError` if job,
      inputs, output or options differ.
    - ``overwrite``: replace what ``output`` holds.
    - ``keep``: keep the intermediate data of a job that succeeded.
    - ``jobconf``: the job configuration, a mapping.
    - ``py_files``, ``files``, ``archives``: lists of paths to ship.

    Raises :class:`UsageError` if the job, an input, an output or an option is wrong, and :class:`UnreachableError` if
    the broker or the storage does not answer.
    """
    from mrcelery.client.submission import Submission  # noqa: PLC0415 - job files import this module

    return Submission.prepare(job, inputs, output, runner=runner, ahead=True, **options).submit()


def attach(job: str, **options: Any) -> JobHandle:
    """Return a handle on a job that was submitted elsewhere or earlier; ``options`` are settings.

    Raises :class:`ConfigError` if neither a broker nor a storage is configured, :class:`UsageError` for an empty id.
    """
    if not job.strip():
        raise UsageError("the job id is empty, perhaps from a shell variable that is not set: see `mrcelery list`")
    config = Config.load(options)
    return JobHandle(job, connect(config), storage=storage_root(config))
