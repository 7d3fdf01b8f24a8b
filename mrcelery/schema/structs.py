"""The records sent over the wire and written to storage: frozen, versioned, as JSON.

A reader rejects an unknown version (:func:`mrcelery.schema.encoding.decode`), so that a fleet with two versions of
mrcelery fails with a clear message instead of a wrong result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mrcelery.schema.decoders import decoder
from mrcelery.schema.states import State

VERSION = 1
"""Version of every record below and of the storage layout (see :mod:`mrcelery.schema.object_keys`)."""

Kind = Literal["map", "reduce"]
Counters = dict[str, dict[str, int]]
Requests = dict[str, int]
"""Requests to S3 as they are billed, GET, PUT, LIST and DELETE (HEAD as GET, a copy as PUT); separately, as RETRY,
requests that the endpoint refused temporarily and that were repeated.
"""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Base of all stored records; ``v`` is checked by :func:`mrcelery.schema.encoding.decode`."""

    v: int = VERSION


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A piece of one input file: bytes ``[start, end)``; ``end`` is -1 if the size is not known.

    ``size`` is the whole file's size in bytes (-1: not known). A compressed file is always one extent, from 0 to its
    size. ``block`` marks a file in mrcelery's block format, which one step of a job leaves for the next. ``tag`` is the
    file's tag at planning time ("": not known); on a plan page it is in a table, see :class:`PlanPage`.
    """

    uri: str
    start: int
    end: int
    size: int
    block: bool = False
    tag: str = ""


class Split(msgspec.Struct, frozen=True, array_like=True):
    """The input of one map task: one extent, or several small files packed together, in order."""

    index: int
    extents: tuple[Extent, ...]

    @property
    def bytes(self) -> int:
        """Return the split's known input bytes."""
        return sum(e.end - e.start for e in self.extents if e.end > e.start)


class PlanPage(Record, frozen=True, kw_only=True):
    """Up to :data:`mrcelery.planning.splits.PAGE` splits of one step, in order.

    ``tags`` contains the tags of the files by their URI, once however many extents a file is cut into.
    """

    splits: tuple[Split, ...]
    tags: dict[str, str] = {}


class PlanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The totals of a plan: M, input files and bytes, and the SHA-256 (hex) of each plan page."""

    splits: int
    files: int
    bytes: int
    pages: tuple[str, ...] = ()


class Partitioner(msgspec.Struct, frozen=True):
    """How a step's keys are partitioned, see :mod:`mrcelery.job.partitioners`.

    ``kind`` ``own`` is the job's ``partition()``, or stable hash if it has none.
    """

    kind: Literal["own", "hash", "range", "field"] = "own"
    fields: tuple[tuple[int, int], ...] = ()
    """For ``field``: first and last field of each range, from 1; 0 as the last one means the key's last field."""
    separator: str = "\t"
    """For ``field``: the separator between the fields of a string."""


class StepSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A step's properties that the coordinator needs without loading the user's code."""

    has_reducer: bool
    reducers: int
    """R; 0 for a map-only step, -1 in a request that leaves the choice to the coordinator."""
    name: str = ""
    partitioner: Partitioner = Partitioner()

    @property
    def total_order(self) -> bool:
        """Return whether map tasks write one run each, which the barrier divides among the reduce tasks."""
        return self.partitioner.kind == "range" and self.reducers > 1


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one job, named as on the command line; sizes are in bytes."""

    reducers: int | None = None
    split_size: int = 64 << 20
    workers: int = 0
    """Processes that run the job, if known and if the split size was not given; else 0."""
    memory: int = 512 << 20
    max_attempts: int = 4
    storage_patience: float = 600.0
    """Seconds that a task waits for a storage that is away, in all its attempts."""
    max_bad_records: int = 0
    speculative: bool = True
    input_format: str = "text"
    output_format: str = "json"
    compress: str = "none"
    allow_pickle: bool = False
    overwrite: bool = False
    keep: bool = False
    """Keep the intermediate data of a job that succeeded."""
    queue: str = "celery"
    jobconf: dict[str, str] = {}


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The shipped code: a zip, addressed by content."""

    sha256: str
    size: int
    entry: str
    """``module:Class`` to import once the bundle is on the path."""


class Request(Record, frozen=True, kw_only=True):
    """A client's request; the fleet's coordinator turns it into a :class:`JobSpec`.

    ``blobs`` maps the SHA-256 of each small local input, sent through the job store, to its name.
    """

    job: str
    name: str
    owner: str
    created: float
    inputs: tuple[str, ...]
    output: str
    """Where the part files go: a URI that the workers can reach, or "" for the job's own storage."""
    storage: str
    steps: tuple[StepSpec, ...]
    args: tuple[str, ...]
    options: JobOptions
    bundle: Bundle
    blobs: dict[str, str] = {}
    small_results: bool = False
    """True: the client prints the results, so send them through the job store if they are small."""
    given: dict[str, str] = {}
    """With a client token, a digest of each aspect of the submission: a repeat must match."""


class JobSpec(Record, frozen=True, kw_only=True):
    """The immutable description of a job, ``spec.json``: a request with its inputs planned."""

    request: Request
    plan: PlanSummary
    steps: tuple[StepSpec, ...]
    """The request's steps, each with its R."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A record's exact bytes with an optional HMAC-SHA256 over them."""

    body: msgspec.Raw
    signature: str = ""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One committed object: partition number, key in storage, bytes, records and CRC-32 of its bytes.

    A map task's run in total order has ``partition`` 0 and an index in its bytes ``[end, bytes)``, see
    :mod:`mrcelery.shuffle.index`. In a :class:`ShuffleInput` it is the piece ``[start, end)`` of such a run, whole
    blocks without a file's head and end: ``bytes`` and ``records`` are the piece's, ``crc32`` is 0.
    """

    partition: int
    key: str
    bytes: int
    records: int
    crc32: int
    start: int = 0
    end: int = -1
    """-1: the whole object."""
    tag: str = ""
    """For a result: the object's tag when it was committed, see :class:`mrcelery.storage.base.ObjectInfo`."""


class Commit(Record, frozen=True, kw_only=True):
    """The result of one task's winning attempt, ``commit.json``."""

    job: str
    step: int
    kind: Kind
    task: int
    attempt: str
    parts: tuple[Part, ...]
    counters: Counters
    records_in: int
    records_out: int
    bytes_in: int
    bytes_out: int
    seconds: float
    host: str
    began: float = 0.0
    """Epoch seconds."""
    worker: str = ""
    """The worker's name and, after a space, the process's id."""
    requests: Requests = {}
    bad_records: int = 0
    """Records (for a reduce task: keys) that were skipped."""
    bad_key: str = ""
    """The object that contains them, one :class:`BadRecord` per line."""


class BadRecord(Record, frozen=True, kw_only=True):
    """A record that a task skipped, or a key of a reduce task; one JSON line under ``_bad_records/``."""

    job: str
    step: int
    kind: Kind
    task: int
    attempt: str
    file: str
    offset: int
    """Bytes into the uncompressed file; -1 if not known."""
    record: str
    """Its ``repr()``, shortened."""
    error: str
    traceback: str


class Losses(Record, frozen=True, kw_only=True):
    """Known facts about a task's attempts whose process died."""

    reason: str = ""
    """How the latest of them ended."""
    deaths: tuple[tuple[int, int], ...] = ()
    """For each that was in user code: the number in the task of its first record being processed, and their count."""


class ShuffleInput(Record, frozen=True, kw_only=True):
    """One reduce task's input: the committed parts of its partition, in order of map task.

    In total order the parts are pieces of runs, from which the task takes the keys in ``[low, high)`` (each a key as
    written by :func:`mrcelery.shuffle.index.encode_key`; None: no bound).
    """

    partition: int
    low: bytes | None = None
    high: bytes | None = None
    parts: tuple[Part, ...]


class Failure(Record, frozen=True, kw_only=True):
    """Why a job failed: the message shown first, and where it happened."""

    error: str
    """Class name of the error in :mod:`mrcelery.errors`."""
    message: str
    exit_code: int = 1
    traceback: str = ""
    """The user's own traceback, if user code raised."""
    job: str = ""
    step: int = -1
    kind: str = ""
    task: int = -1
    attempt: str = ""
    file: str = ""
    offset: int = -1
    record: str = ""


class End(Record, frozen=True, kw_only=True):
    """How a generation of a job ended: written once, before its end is recorded anywhere else."""

    job: str
    generation: int
    state: State
    finished: float
    failure: str = ""
    """A JSON :class:`Failure`, if it failed."""


class Retry(Record, frozen=True, kw_only=True):
    """The start of a later generation of a job: written once, before it is recorded anywhere else."""

    job: str
    generation: int
    retried: float


class Presence(Record, frozen=True, kw_only=True):
    """A worker's record about itself, published while it lives."""

    queues: tuple[str, ...]
    """The queues it listens on."""
    processes: int
    every: float
    """Seconds between two publications."""
    at: float = 0.0
    """When this record was published, in epoch seconds by the worker's own clock."""
    host: str = ""
    versions: dict[str, str] = {}
    """The versions of ``python``, ``mrcelery`` and ``celery``."""
    visibility: float = 0.0
    """Its visibility timeout in seconds."""
    arrow: bool = False
    """Whether it can read Parquet and make tables."""
    signed: bool = False
    """Whether it accepts signed jobs only."""
    sick: str = ""
    """Why it takes no tasks now, if its machine makes them fail."""


def add_counters(into: Counters, counters: Counters) -> None:
    """Add counters to ``into``, in place."""
    for group, names in counters.items():
        sums = into.setdefault(group, {})
        for name, amount in names.items():
            sums[name] = sums.get(name, 0) + amount


def add_requests(into: Requests, requests: Mapping[str, int]) -> None:
    """Add requests to ``into``, in place."""
    for kind, number in requests.items():
        into[kind] = into.get(kind, 0) + number


def requests_field(what: str, requests: Mapping[str, int]) -> dict[str, str]:
    """Make the job's field with the requests of one coordinator step; the same ``what`` replaces it."""
    return {f"requests.{what}": msgspec.json.encode(requests).decode()}


def add_coordinator_requests(into: Requests, fields: Mapping[str, str]) -> None:
    """Add the requests recorded in a job's fields to ``into``, in place."""
    for name, value in fields.items():
        if name.startswith("requests."):
            add_requests(into, decoder(Requests)(value))


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a job's commits."""

    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    shuffle_bytes: int = 0
    tasks: int = 0
    requests: Requests = {}
    """For a stage: requests by its committed attempts; for a job: also the coordinator's, until its report."""


class StageSummary(Record, frozen=True, kw_only=True):
    """Sums over the commits of one stage, ``step-<s>/<kind>.json``."""

    counters: Counters
    totals: Totals
    skew: dict[str, int] = {}
    """For map tasks: how the partitions differ in size, as counters (:mod:`mrcelery.shuffle.skew`)."""
    bad_records: int = 0
    bad_keys: tuple[str, ...] = ()
    """The objects that contain the skipped records."""

    def all_counters(self, step: int) -> Counters:
        """Return the job's own counters, with those of the step's partitions in a separate group."""
        return {**self.counters, **({f"mrcelery shuffle, step {step}": self.skew} if self.skew else {})}
