"""A job's options, from the configuration and its class; wrong ones are rejected before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mrcelery.config import Config
from mrcelery.errors import UsageError
from mrcelery.formats import compressor, input_format, output_format
from mrcelery.formats.extras import check_installed
from mrcelery.formats.naming import check_jobconf, check_used, settle
from mrcelery.job.base import check_attributes
from mrcelery.runners.preload import workers_of
from mrcelery.schema.structs import JobOptions

if TYPE_CHECKING:
    from mrcelery.job.base import MRJob
    from mrcelery.schema.structs import JobOptions


def job_options(
    config: Config, job: MRJob, jobconf: Mapping[str, str], runner: str, *, overwrite: bool, keep: bool
) -> JobOptions:
    """Settle a job's options: a flag overrides the job's class, which overrides the environment and the files."""

    formats: dict[str, Any] = {"input_format": config.input_format, "output_format": config.output_format}
    all_jobconf = {**_declared_jobconf(job), **jobconf}
    check_jobconf(all_jobconf)
    for setting, attribute in (("input_format", "INPUT"), ("output_format", "OUTPUT")):
        declared = getattr(job, attribute, None)
        if declared is not None and not config.origins.get(setting, "").startswith("--"):
            formats[setting] = declared
        formats[setting] = settle(formats[setting], all_jobconf, attribute)
    check_used(jobconf, formats["input_format"], formats["output_format"])
    # before anything starts: rejects unknown names and arguments
    input_format(formats["input_format"])
    output_format(formats["output_format"])
    compressor(config.compress)
    return JobOptions(
        reducers=config.reducers,
        split_size=config.split_size,
        workers=workers_of(config) if runner == "local" and "split_size" not in config.origins else 0,
        memory=config.memory,
        max_attempts=config.max_attempts,
        storage_patience=config.storage_patience,
        max_bad_records=config.max_bad_records,
        speculative=config.speculative,
        input_format=formats["input_format"],
        output_format=formats["output_format"],
        compress=config.compress,
        allow_pickle=config.allow_pickle,
        overwrite=overwrite,
        keep=keep,
        queue=config.queue,
        jobconf=dict(jobconf),
    )


def _declared_jobconf(job: MRJob) -> Mapping[str, Any]:
    """Return the job class's configuration; raise :class:`UsageError` if it is invalid, or has no effect."""
    check_attributes(type(job))
    found: object = job.jobconf()
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"{type(job).__name__}.jobconf() is {found!r}: make it a dict of names and values")
    return found


def check_formats(options: JobOptions, job: MRJob, runner: str, *, prints: bool) -> None:
    """Raise :class:`UsageError` if the chosen formats do not fit the job, the compression or printing."""
    name = options.output_format.partition(":")[0]
    if name in ("csv", "tsv", "parquet", "records", "own") and job.output_protocol() is not None:
        raise UsageError(
            f"{type(job).__name__} has an output protocol, which writes the results, so that the output format "
            f"{options.output_format} cannot: leave one of the two out"
        )
    if name == "parquet" and options.compress != "none":
        raise UsageError("parquet does its own compression: leave --compress out, or give -D parquet.compression=zstd")
    if name == "parquet" and prints:
        raise UsageError("parquet output cannot be printed: give -o OUTPUT")
    # The client of a fleet need not have its workers' extras.
    if runner != "celery":
        if "parquet" in (name, options.input_format.partition(":")[0]):
            check_installed("parquet")
        if job.BATCH == "table":
            check_installed(f'{type(job).__name__}.BATCH = "table"')
