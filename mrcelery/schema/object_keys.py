"""The keys of all of a job's objects in storage, defined only here.

Layout version 1, relative to the storage root::

    mrcelery.json                                     layout version; written once the storage passed its probe
    inputs/<sha256>/<name>                            local inputs, uploaded once per content
    jobs/<job>/spec.json                              JobSpec in an Envelope (signed if a key is set)
    jobs/<job>/code.zip                               the shipped code
    jobs/<job>/step-<s>/plan-<ppppp>.json             PlanPage: the splits of a thousand map tasks
    jobs/<job>/step-<s>/map-<mmmmm>/part-<rrrrr>.<attempt>      one map attempt's partition r
    jobs/<job>/step-<s>/map-<mmmmm>/run.<attempt>     with the range partitioner instead: its one sorted run, with an
                                                      index at the end (see mrcelery.shuffle.index)
    jobs/<job>/step-<s>/map-<mmmmm>/commit.json       Commit of the attempt that won
    jobs/<job>/step-<s>/shuffle/<rrrrr>.json          ShuffleInput: the input of reduce task r
    jobs/<job>/step-<s>/reduce-<rrrrr>/part-<rrrrr>.<attempt>   one reduce attempt's output
    jobs/<job>/step-<s>/reduce-<rrrrr>/commit.json    Commit of the attempt that won
    jobs/<job>/step-<s>/<kind>.json                   StageSummary of a stage that has succeeded
    jobs/<job>/step-<s>/<kind>-<nnnnn>/log.<attempt>  the attempt's output
    jobs/<job>/output/part-<nnnnn>[.suffix]           results of a job without an OUTPUT
    jobs/<job>/_bad_records/step-<s>-<kind>-<nnnnn>.<attempt>.jsonl   BadRecord: records that an attempt skipped, one
                                                      a line; those of attempts that count stay
    jobs/<job>/end-<g>.json                           End: how generation g of the job ended
    jobs/<job>/retry-<g>.json                         Retry: generation g has begun
    jobs/<job>/report.json                            Report of a job that has ended
    jobs/<job>/report.html                            the same as a self-contained page

An OUTPUT contains part-<nnnnn>[.suffix], copies of _bad_records/, and, last, _SUCCESS, the Report;
while a job copies its part files there, also _PUBLISHING.<job>/<run>/claim.

With a secret, a job's records except its spec have a signature as their last member, ``sig``: PlanPages of later
steps, Commits, ShuffleInputs, StageSummaries, Ends and Reports (see :class:`mrcelery.schema.signing.JobSeal`).

Numbers have at least five digits and grow beyond, so keys sort by number up to 99,999 tasks.
"""

from __future__ import annotations

import re

from mrcelery.schema.task_id import StageId, TaskId

LAYOUT = 1
SUCCESS = "_SUCCESS"
CLAIM = "_PUBLISHING."
JOBS = "jobs/"
INPUTS = "inputs/"
BAD_RECORDS = "_bad_records/"
PART_NAME = re.compile(r"part-(\d{5,})(\.[\w.]+)?")


def shared_input(digest: str, name: str) -> str:
    """Return the key of a local input, uploaded once per content."""
    return f"{INPUTS}{digest}/{name}"


def job_root(job: str) -> str:
    """Return the prefix of all keys of a job."""
    return f"jobs/{job}/"


def spec(job: str) -> str:
    """Return the key of the JobSpec."""
    return f"jobs/{job}/spec.json"


def code(job: str) -> str:
    """Return the key of the shipped code."""
    return f"jobs/{job}/code.zip"


def end(job: str, generation: int) -> str:
    """Return the key of the record that a generation of a job has ended."""
    return f"jobs/{job}/end-{generation}.json"


def retry(job: str, generation: int) -> str:
    """Return the key of the record that a job was retried, and is in this generation."""
    return f"jobs/{job}/retry-{generation}.json"


def report(job: str) -> str:
    """Return the key of the report of a job that has ended."""
    return f"jobs/{job}/report.json"


def report_page(job: str) -> str:
    """Return the key of the report's HTML page."""
    return f"jobs/{job}/report.html"


def output(job: str) -> str:
    """Return the prefix of the keys of a job's results, used if it has no OUTPUT."""
    return f"jobs/{job}/output/"


def step_root(job: str, step: int) -> str:
    """Return the prefix of the keys of a step's data."""
    return f"jobs/{job}/step-{step}/"


def plan_page(job: str, step: int, page: int) -> str:
    """Return the key of a page of a step's plan, from 0."""
    return f"{step_root(job, step)}plan-{page:05d}.json"


def shuffle_input(job: str, step: int, partition: int) -> str:
    """Return the key of the input of a partition's reduce task."""
    return f"{step_root(job, step)}shuffle/{partition:05d}.json"


def task_root(task: TaskId) -> str:
    """Return the prefix of the keys of a task's data."""
    return f"{step_root(task.job, task.step)}{task.kind}-{task.task:05d}/"


def part(task: TaskId, partition: int, attempt: str) -> str:
    """Return the key of the part that an attempt writes for a partition."""
    return f"{task_root(task)}part-{partition:05d}.{attempt}"


def run(task: TaskId, attempt: str) -> str:
    """Return the key of the sorted run that a map attempt writes for the range partitioner."""
    return f"{task_root(task)}run.{attempt}"


def commit(task: TaskId) -> str:
    """Return the key of the task's commit."""
    return f"{task_root(task)}commit.json"


def stage_summary(stage: StageId) -> str:
    """Return the key of the sums over a completed stage."""
    return f"{step_root(stage.job, stage.step)}{stage.kind}.json"


def losses(task: TaskId) -> str:
    """Return the key for which a task's losses are signed; they are kept in the job store, never in storage."""
    return f"{task_root(task)}losses"


def log(task: TaskId, attempt: str) -> str:
    """Return the key of an attempt's output."""
    return f"{task_root(task)}log.{attempt}"


def bad_records_root(job: str) -> str:
    """Return the prefix of the keys of a job's skipped records."""
    return f"{job_root(job)}{BAD_RECORDS}"


def bad_records(task: TaskId, attempt: str) -> str:
    """Return the key of the records that an attempt skipped."""
    return f"{bad_records_root(task.job)}step-{task.step}-{task.kind}-{task.task:05d}.{attempt}.jsonl"


def claim(job: str, run: str) -> str:
    """Return the key at OUTPUT of the claim of a run of the job's last step."""
    return f"{CLAIM}{job}/{run}/claim" if run else f"{CLAIM}{job}"


def lies_below(key: str, root: str) -> bool:
    """Return whether a key read from a record is below ``root``."""
    return key.startswith(root) and ".." not in key.split("/")


def part_name(partition: int, suffix: str) -> str:
    """Return an output file's name, in Hadoop's form."""
    return f"part-{partition:05d}{suffix}"


LEFT_OUT = b"\n[...]\n"
"""Marks the place of output that was not kept."""
