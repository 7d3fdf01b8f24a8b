"""Planning: inputs to files, files to splits, splits to plan pages, and what the job's requests cost.

All of it streams: a plan of 100,000 files holds one page of splits in memory. The number and order
of splits is a pure function of the listing and the split size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

from mrcelery.errors import ConfigError, CorruptDataError, InputError, StorageUnreachableError
from mrcelery.formats.base import InputFormat
from mrcelery.formats.compression import compression_of
from mrcelery.records import Extent, PlanPage, PlanSummary, Split, StepSpec, encode
from mrcelery.storage import ObjectInfo, Storage, locate, scheme_of
from mrcelery.storage.folder import FolderStorage
from mrcelery.storage.globs import Glob, has_magic, hidden

PAGE = 1000
"""Splits of one plan page."""

OPEN_COST = 4 << 20
"""Bytes that opening a file counts as when small files are packed (as in Spark)."""

SMALLEST = 4 << 20
"""Bytes that a split has at least where it is made smaller than asked for."""

TASKS_EACH = 2
"""Map tasks for each worker at least, so that one that is slow is made up for."""

SLOP = 1.1
"""How much longer than the split size a file's last extent may be (as in Hadoop)."""


class InputFile(NamedTuple):
    """A file of the input: its address, its size in bytes (-1: not known), and whether it may be cut."""

    uri: str
    size: int
    splittable: bool


def list_inputs(inputs: Iterable[str], fmt: InputFormat) -> Iterator[InputFile]:
    """The files of each input, in the order given; within a folder, a prefix or a glob, in order of name.

    A folder stands for all files below it, but for those whose name, or a folder's name on the way,
    begins with ``_`` or ``.``; a file that is named itself is taken whatever its name. Raises
    :class:`InputError` for an input that matches nothing.
    """
    for uri in inputs:
        try:
            scheme = scheme_of(uri)
            storage, key = locate(uri)
        except ConfigError as e:
            raise InputError(str(e)) from None
        if scheme in ("http", "https"):
            yield _http_file(uri, fmt)
            continue
        begin = f"{storage.uri}/" if scheme in ("s3", "memory") else "/"
        found = False
        try:
            for info in _objects(storage, key, folder=uri.endswith("/")):
                found = True
                yield _file(begin + info.key, info.size, fmt)
        except StorageUnreachableError as e:
            if scheme in ("", "file"):
                raise InputError(f"input {uri} cannot be listed: {e}") from None
            raise
        if not found:
            raise InputError(
                f"input {uri} matches no file (names that begin with _ or . are passed over): "
                "give a file, a folder, a glob or an s3:// address that exists"
            )


def _objects(storage: Storage, key: str, folder: bool) -> Iterator[ObjectInfo]:
    """The objects an input stands for: the one with this key, or those a glob or a folder holds."""
    if key and not folder and (info := storage.stat(key)) is not None:
        yield info
        return
    if has_magic(key) and not _is_folder(storage, key):
        glob = Glob(key)
        found, match = _walk(storage, glob.prefix, glob.enter), glob.match
    else:
        prefix = key.rstrip("/") + "/" if key else ""

        def shown(key: str) -> bool:
            return not any(map(hidden, key[len(prefix) :].split("/")))

        found, match = _walk(storage, prefix, shown), shown
    for info in found:
        # A key that ends in a slash is how consoles show an empty folder.
        if not info.key.endswith("/") and match(info.key):
            yield info


def _is_folder(storage: Storage, key: str) -> bool:
    path = storage.local_path(key.rstrip("/"))
    return path is not None and os.path.isdir(path)


def _walk(storage: Storage, prefix: str, enter: Callable[[str], bool]) -> Iterator[ObjectInfo]:
    if isinstance(storage, FolderStorage):
        return storage.list(prefix, enter)
    return storage.list(prefix)


def _file(uri: str, size: int, fmt: InputFormat, ranges: bool = True) -> InputFile:
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise InputError(f"the file name {uri!r} is not UTF-8: rename the file") from None
    return InputFile(uri, size, fmt.splittable and ranges and size >= 0 and not compression_of(uri))


def _http_file(uri: str, fmt: InputFormat) -> InputFile:
    from mrcelery.storage.http import HttpStorage

    storage, key = locate(uri)
    assert isinstance(storage, HttpStorage)
    found = storage.look(key)
    if found is None:
        raise InputError(f"input {uri} does not exist (HTTP 404): correct the address")
    return _file(uri, found[0], fmt, ranges=found[1])


def fitted(files: Iterable[InputFile], split_size: int, workers: int) -> tuple[Iterable[InputFile], int]:
    """The files, and the split size with which each of ``workers`` processes has a few map tasks.

    That is less than ``split_size`` where the input is small, but never below :data:`SMALLEST`. Unchanged where
    ``workers`` is 0, there are many files, or a file's size is not known.
    """
    if not workers:
        return files, split_size
    source = iter(files)
    first = list(islice(source, PAGE))
    more = next(source, None)
    if more is not None or any(file.size < 0 for file in first):
        return chain(first, [] if more is None else [more], source), split_size
    share = -(-sum(file.size for file in first) // (workers * TASKS_EACH))
    return first, min(split_size, max(SMALLEST, share))


def cut(files: Iterable[InputFile], split_size: int) -> Iterator[Split]:
    """Splits of about ``split_size`` bytes, numbered from 0 in the order of the files.

    A file that may be cut gives extents of ``split_size`` bytes, the last one up to 10 % longer rather
    than a tiny one more; any other file is one extent; an empty one gives none. Extents that follow
    each other share a split while the sum of ``max(bytes, OPEN_COST)`` stays within ``split_size``.
    """
    index = 0
    packed: list[Extent] = []
    room = split_size
    for extent in _extents(files, split_size):
        length = extent.end - extent.start if extent.end >= 0 else split_size
        cost = max(length, min(OPEN_COST, split_size))
        if packed and cost > room:
            yield Split(index, tuple(packed))
            index, packed, room = index + 1, [], split_size
        packed.append(extent)
        room -= cost
    if packed:
        yield Split(index, tuple(packed))


def _extents(files: Iterable[InputFile], split_size: int) -> Iterator[Extent]:
    for uri, size, splittable in files:
        start = 0
        if splittable:
            while size - start > split_size * SLOP:
                yield Extent(uri, start, start + split_size, size)
                start += split_size
        if size != 0:
            yield Extent(uri, start, size, size)


def write_plan(splits: Iterable[Split], put: Callable[[int, bytes], object]) -> PlanSummary:
    """Give each page of :data:`PAGE` splits, encoded, to ``put(page number, bytes)``, and sum up.

    ``files`` of the summary counts files with at least one byte, ``bytes`` those whose size is known.
    """
    source = iter(splits)
    pages: list[str] = []
    count = files = size = 0
    while page := tuple(islice(source, PAGE)):
        data = encode(PlanPage(splits=page))
        put(len(pages), data)
        pages.append(hashlib.sha256(data).hexdigest())
        count += len(page)
        size += sum(split.bytes for split in page)
        files += sum(extent.start == 0 for split in page for extent in split.extents)
    return PlanSummary(splits=count, files=files, bytes=size, pages=tuple(pages))


def page_of(task: int) -> int:
    """The number of the plan page with the split of map task ``task``."""
    return task // PAGE


def find_split(page: PlanPage, task: int) -> Split:
    """The split of map task ``task`` on its page; :class:`CorruptDataError` where this is another page."""
    at = task % PAGE
    if at >= len(page.splits) or page.splits[at].index != task:
        raise CorruptDataError(f"plan page {page_of(task)} does not hold the split of task {task}: submit again")
    return page.splits[at]


@dataclass(frozen=True, slots=True)
class Cost:
    """S3 requests of a job by how they are billed (HEAD as GET, a copy as PUT), without retries.

    Prices are S3's public list prices, standard storage in us-east-1: PUT, COPY and LIST 0.005, GET
    0.0004 US dollars a thousand; DELETE is free. Storage and traffic are not in it.
    """

    get: int = 0
    put: int = 0
    list: int = 0
    delete: int = 0

    @property
    def dollars(self) -> float:
        """US dollars."""
        return (self.put + self.list) * 0.005 / 1000 + self.get * 0.0004 / 1000

    @property
    def requests(self) -> dict[str, int]:
        """By kind: GET, PUT, LIST, DELETE."""
        return {"GET": self.get, "PUT": self.put, "LIST": self.list, "DELETE": self.delete}


def estimate(
    plan: PlanSummary,
    steps: Sequence[StepSpec],
    *,
    listing: Mapping[str, int],
    reads: int,
    storage_is_s3: bool,
    output_is_s3: bool | None = None,
    processes: int = 1,
) -> Cost:
    """What a job with this plan will ask of S3.

    ``listing`` is what listing the inputs took, ``reads`` the ranges that its extents are read in.
    ``output_is_s3``: whether part files are copied to an OUTPUT on S3 in the end; None: they stay in storage.
    ``processes`` run the job's tasks, and each reads the spec, the code and the plan.

    The model, M being a step's map tasks and R its reducers: each map task reads its extents and writes R
    partitions and a commit; the barrier writes R lists of parts; each reduce task reads its list and M
    partitions and writes a part file and a commit. In total order a map task writes one run, whose index the
    barrier reads, and a reduce task a piece of each. A step's part files are the next step's extents.

    An upper bound on what the job reports, but for retries, attempts beyond a task's first, tasks' logs, lines
    beyond 64 KiB, Parquet (a request or more per column chunk), objects above 8 MiB that are written (a
    request per 8 MiB and two) and the probe of a storage that was never used. It exceeds that by what comes
    with the report and after it, which is the report and its page, ``_SUCCESS``, small results read back and the
    cleaning up, and by partitions that are empty.
    """
    get, lists = reads + listing.get("GET", 0), listing.get("LIST", 0)
    put = delete = 0
    parts = plan.splits
    pages = len(plan.pages)
    written = 4 + pages  # spec.json, code.zip, report.html, report.json, plan pages
    read = 2  # the layout's mark; a spec that is there
    for number, step in enumerate(steps):
        maps = parts
        kept = 1  # a summary of each stage
        if number:
            kept += -(-maps // PAGE)
            pages += -(-maps // PAGE)
            read += maps
        reducers = step.reducers if step.has_reducer else 0
        if reducers:
            kept += maps * (1 if step.total_order else reducers) + maps + reducers + reducers * 2 + 1
            read += reducers * (maps + 1) + (maps if step.total_order else 0)
            parts = reducers
        else:
            kept += maps * 2
        written += kept
        if storage_is_s3:
            lists += -(-kept // 1000)
            delete += -(-kept // 1000)
    if storage_is_s3:
        get += read + processes * (2 + pages)
        put += written
    if output_is_s3:
        put += parts + 2  # the claim and _SUCCESS
        get += 2  # both are looked for
        lists += 3
        delete += 1
    elif storage_is_s3:
        get += parts  # read back, for a folder or for the client
        put += parts if output_is_s3 is None else 0
    return Cost(get, put, lists, delete)
