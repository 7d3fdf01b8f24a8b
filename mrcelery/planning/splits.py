"""Planning: files to splits, splits to plan pages, and R if a job does not set it.

All of it streams: a plan of 100,000 files holds one page of splits in memory. The number and order of splits is a pure
function of the listing and the split size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from msgspec.structs import replace

from mrcelery.errors import CorruptDataError, UsageError
from mrcelery.planning.listing import InputFile
from mrcelery.schema.encoding import encode
from mrcelery.schema.structs import Extent, PlanPage, PlanSummary, Split, StepSpec

MOST_SPLITS = 1_000_000
"""Most map tasks (M) of a job."""

PAGE = 1000
"""Splits of one plan page."""

LAST = "last"
"""The signed mark of the last page of a later step's plan, by which a missing last page is noticed."""

OPEN_COST = 4 << 20
"""Bytes that opening a file counts as when small files are packed (as in Spark)."""

SMALLEST = 4 << 20
"""Smallest split in bytes if the split size is reduced to fit the input."""

TASKS_EACH = 2
"""Minimum map tasks per worker, so that the others make up for a slow one."""

SLOP = 1.1
"""A file's last extent may be this many times the split size (as in Hadoop)."""


def fitted(files: Iterable[InputFile], split_size: int, workers: int) -> tuple[Iterable[InputFile], int]:
    """Fit the split size to the input, so that each of ``workers`` processes has a few map tasks.

    Returns the files and a split size: less than ``split_size`` for a small input, but never below :data:`SMALLEST`.
    Unchanged if ``workers`` is 0, if there are many files, or if a file's size is not known.
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
    """Cut files into splits of about ``split_size`` bytes, numbered from 0 in the order of the files.

    A file that may be cut gives extents of ``split_size`` bytes, the last one up to 10 % longer to avoid a tiny
    additional one; any other file is one extent; an empty one gives none. Consecutive extents share a split while the
    sum of ``max(bytes, OPEN_COST)`` stays within ``split_size``.
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
    for uri, size, splittable, tag in files:
        start = 0
        if splittable:
            while size - start > split_size * SLOP:
                yield Extent(uri, start, start + split_size, size, tag=tag)
                start += split_size
        if size != 0:
            yield Extent(uri, start, size, size, tag=tag)


def write_plan(splits: Iterable[Split], put: Callable[[int, bytes], object]) -> PlanSummary:
    """Pass each page of :data:`PAGE` splits, encoded, to ``put(page number, bytes)``, and sum up.

    In the summary, ``files`` counts files with at least one byte, ``bytes`` those of known size. Raises
    :class:`UsageError` for more than :data:`MOST_SPLITS`.
    """
    source = iter(splits)
    pages: list[str] = []
    count = files = size = 0
    while page := tuple(islice(source, PAGE)):
        data = encode(_paged(page))
        put(len(pages), data)
        pages.append(hashlib.sha256(data).hexdigest())
        count += len(page)
        if count > MOST_SPLITS:
            raise UsageError(
                f"the inputs would make more than {MOST_SPLITS:,} map tasks, each a message and a commit: give "
                "a larger --split-size, or larger files"
            )
        size += sum(split.bytes for split in page)
        files += sum(extent.start == 0 for split in page for extent in split.extents)
    return PlanSummary(splits=count, files=files, bytes=size, pages=tuple(pages))


def _paged(splits: tuple[Split, ...]) -> PlanPage:
    """Make a page with its files' tags in a table; an extent keeps its own tag if that differs from the table's."""
    tags: dict[str, str] = {}
    for split in splits:
        for extent in split.extents:
            if extent.tag:
                tags.setdefault(extent.uri, extent.tag)
    if not tags:
        return PlanPage(splits=splits)
    bare = (
        Split(split.index, tuple(replace(e, tag="") if e.tag == tags.get(e.uri) else e for e in split.extents))
        for split in splits
    )
    return PlanPage(splits=tuple(bare), tags=tags)


def page_of(task: int) -> int:
    """Return the number of the plan page with the split of map task ``task``."""
    return task // PAGE


def find_split(page: PlanPage, task: int) -> Split:
    """Find the split of map task ``task`` on its page. Raises :class:`CorruptDataError` if it is another page."""
    at = task % PAGE
    if at >= len(page.splits) or page.splits[at].index != task:
        raise CorruptDataError(f"plan page {page_of(task)} does not hold the split of task {task}: submit again")
    split = page.splits[at]
    if not page.tags:
        return split
    return replace(split, extents=tuple(replace(e, tag=e.tag or page.tags.get(e.uri, "")) for e in split.extents))


REDUCER_BYTES = 32 << 20
"""Input bytes per reduce task if the job does not set R."""


MOST_REDUCERS = 64
"""Largest R if the job does not set it."""


def with_reducers(step: StepSpec, plan: PlanSummary) -> StepSpec:
    """Return the step with its R, chosen by input size if the job does not set it."""
    if not step.has_reducer:
        return replace(step, reducers=0)
    if step.reducers > 0:
        return step
    return replace(step, reducers=min(MOST_REDUCERS, max(1, -(-plan.bytes // REDUCER_BYTES))))
