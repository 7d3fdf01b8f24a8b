"""The reduce stage: one partition of every map task in, one part file out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, starmap

from mrcelery.errors import CorruptDataError
from mrcelery.job.step import StepHooks, identity_reducer
from mrcelery.ops import Op
from mrcelery.records.blocks import Block, read_blocks
from mrcelery.records.columns import as_list, is_array
from mrcelery.schema.structs import Part, ShuffleInput
from mrcelery.shuffle.damage import damage
from mrcelery.shuffle.index import framed, sliced
from mrcelery.shuffle.runs import Groups, Run, as_lists, file_chunks, read_run_file
from mrcelery.storage.transfers import carried
from mrcelery.task.arrow_ops import fold_of
from mrcelery.task.context import Task, nowhere, yielding
from mrcelery.task.folding import fold_run
from mrcelery.task.pace import Pairs, columns
from mrcelery.task.sink import Sink, decoded_groups, feed, results
from mrcelery.task.skipping import guarded

FETCHERS = 8
"""Parts fetched at the same time from a storage that is not a folder."""


def run_reduce(task: Task, shuffle_input: ShuffleInput) -> tuple[Part, ...]:
    """Run the attempt and return the part it wrote, even if that is empty.

    Raises the errors of :mod:`mrcelery.errors`; what this attempt wrote counts only once committed.
    """
    with results(task, task.id.task) as (sink, parts):
        runs = _open_runs(task, shuffle_input.parts)
        if shuffle_input.low is not None or shuffle_input.high is not None:
            runs = [partial(sliced, run, shuffle_input.low, shuffle_input.high) for run in runs]
        run = _counted(task, task.merge(runs))
        if task.hooks.reduce_op is not None:
            _reduce_declared(task, run, task.hooks.reduce_op, sink)
        elif _moves(task.hooks):
            for block in run:
                _give(task, sink, block)
        else:
            groups = Groups(as_lists(run))
            task.position.locate = lambda: ("", None, groups.key)
            for pairs in _pairs(task, groups):
                feed(task, pairs, sink)
    return tuple(parts)


def _counted(task: Task, run: Run) -> Run:
    for block in run:
        task.records_in += len(block.keys)
        yield block


def _moves(hooks: StepHooks) -> bool:
    """Check whether the reducer passes its input on unchanged, so that columns need not be converted."""
    around = hooks.reducer_init or hooks.reducer_final
    return hooks.reducer is identity_reducer and not around and hooks.internal_protocol is None


def _give(task: Task, sink: Sink, block: Block) -> None:
    task.poll()
    task.records_out += len(block.keys)
    if sink.encode is None:
        sink.add(*block)
    else:
        pairs = zip(as_list(block.keys), as_list(block.values), strict=True)
        sink.add(*columns([sink.encode(key, value) for key, value in pairs]))


def _reduce_declared(task: Task, run: Run, op: Op, sink: Sink) -> None:
    """Run a declared reducer over accumulators made by the map side."""
    fold = fold_of(op)
    result = op.result
    for keys, values in fold_run(task, run, op):
        task.position.locate = lambda: ("", None, as_list(keys)[0])  # noqa: B023
        if fold is not None and is_array(keys):
            results = fold.result(values)
        else:
            results = task.call(lambda: list(map(result, values)))  # noqa: B023
        _give(task, sink, Block(keys, results))


def _pairs(task: Task, groups: Groups) -> Iterator[Pairs]:
    """Yield the output of the reducer's hooks; user code runs as the iterables are consumed."""
    hooks = task.hooks
    if hooks.reducer_init is not None:
        yield task.call(lambda: yielding(hooks.reducer_init)())  # type: ignore[arg-type]
    grouped = iter(groups)
    if hooks.internal_protocol is not None:
        grouped = decoded_groups(hooks.internal_protocol, grouped)
    if hooks.reducer is not None and task.bad is not None:
        yield guarded(task, yielding(hooks.reducer), grouped, 0)
    elif hooks.reducer is not None:
        yield chain.from_iterable(starmap(yielding(hooks.reducer), grouped))
    else:
        yield ((key, value) for key, values in grouped for value in values)
    task.position.locate = nowhere
    if hooks.reducer_final is not None:
        yield task.call(lambda: yielding(hooks.reducer_final)())  # type: ignore[arg-type]


def _open_runs(task: Task, parts: tuple[Part, ...]) -> list[Callable[[], Run]]:
    """Return a function per part that opens it as a run, in order of map task."""
    task.bytes_in = sum(part.bytes for part in parts)
    local = [task.storage.local_path(part.key) for part in parts]
    if all(path is not None for path in local):
        openers = [
            partial(_read_part, path, part, task.options.allow_pickle)
            for path, part in zip(local, parts, strict=True)
            if path is not None
        ]
    else:
        openers = _fetch(task, parts)
    return [partial(_polled, task, opener, part) for opener, part in zip(openers, parts, strict=True)]


def _read_part(path: str, part: Part, allow_pickle: bool) -> Run:
    with open(path, "rb", buffering=0) as file:
        chunks = file_chunks(file, part.start, _end(part))
        yield from read_blocks(framed(chunks, part), path, allow_pickle=allow_pickle)


def _end(part: Part) -> int | None:
    """Return where a part ends in its object, in the form that storage takes."""
    return None if part.end < 0 else part.end


def _polled(task: Task, opener: Callable[[], Run], part: Part) -> Run:
    """Poll the job at each block of a run: a merge, or a reducer that yields nothing, can take long."""
    with damage(part):
        for block in opener():
            task.poll()
            yield block


def _fetch(task: Task, parts: tuple[Part, ...]) -> list[partial[Run]]:
    """Fetch the parts: into memory up to half the budget, the rest into scratch files."""
    room = task.budget // 2
    in_memory = set()
    for i, part in enumerate(parts):
        if part.bytes <= room:
            room -= part.bytes
            in_memory.add(i)

    def fetch(i: int) -> partial[Run]:
        with damage(parts[i]):
            return bring(i)

    def bring(i: int) -> partial[Run]:
        part = parts[i]
        task.poll()
        if i in in_memory:
            data = task.storage.read(part.key, part.start, _end(part))
            if len(data) != part.bytes:
                raise CorruptDataError(f"{part.key} has {len(data)} bytes and its commit says {part.bytes}")
            return partial(read_blocks, tuple(framed((data,), part)), part.key, allow_pickle=task.options.allow_pickle)
        path = task.scratch_file(f"fetch-{i}")
        with open(path, "wb") as out:
            for chunk in framed(task.storage.stream(part.key, part.start, _end(part)), part):
                out.write(chunk)
                task.poll()
        return partial(read_run_file, path, allow_pickle=task.options.allow_pickle, remove=True)

    with ThreadPoolExecutor(max_workers=max(1, min(FETCHERS, len(parts)))) as pool:
        return list(pool.map(carried(fetch), range(len(parts))))
