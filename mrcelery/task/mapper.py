"""The map stage: one split in, R sorted partitions out (or, in a map-only step, one part file)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

from mrcelery.formats import input_format, keyed
from mrcelery.formats.base import RecordBlock
from mrcelery.formats.extras import installed
from mrcelery.records.blocks import Block, read_blocks
from mrcelery.records.columns import as_list, of_table
from mrcelery.schema.structs import Extent, Part, Split
from mrcelery.shuffle.damage import damage
from mrcelery.storage import locate
from mrcelery.task.context import Task, nowhere, yielding
from mrcelery.task.map_buffer import MapBuffer
from mrcelery.task.pace import SLICE_SECONDS, Pairs
from mrcelery.task.sink import decode_pair, feed, results
from mrcelery.task.skipping import guarded, guarded_batches, read_guarded

MOST = 8192
"""Records given to a mapper before its task polls the job."""


def run_map(task: Task, split: Split) -> tuple[Part, ...]:
    """Run the attempt and return the parts it wrote, without empty ones.

    Raises the errors of :mod:`mrcelery.errors`; nothing this attempt wrote counts before its commit.
    """
    if task.reducers == 0:
        with results(task, task.id.task) as (sink, parts):
            for pairs in _pairs(task, split):
                if isinstance(pairs, Block) and sink.encode is None:
                    task.records_out += len(pairs.keys)
                    sink.add(*pairs)
                elif isinstance(pairs, Block):  # a protocol writes pair by pair
                    feed(task, zip(as_list(pairs.keys), as_list(pairs.values), strict=True), sink)
                else:
                    feed(task, pairs, sink)
        return tuple(parts)
    with MapBuffer(task) as buffer:
        for pairs in _pairs(task, split):
            if isinstance(pairs, Block):
                buffer.consume_columns(*pairs)
            else:
                buffer.consume(pairs)
        return buffer.close()


def _pairs(task: Task, split: Split) -> Iterator[Pairs | Block]:
    """Yield the hooks' output, as one iterable per hook and block of records, or as columns.

    User code runs as the iterables are consumed; between two of them no user code is active.
    """
    hooks = task.hooks
    if hooks.mapper_init is not None:
        yield task.call(lambda: yielding(hooks.mapper_init)())  # type: ignore[arg-type]
    mapper = yielding(hooks.mapper) if hooks.mapper is not None else None
    some = 1
    for extent in split.extents:
        _describe_input(extent)
        for block in _records(task, extent):
            task.records_in += len(block.values)
            moves = mapper is None and block.keys is not None and block.table is not None
            # With columns or mapper_batch only an error needs the rows of a table.
            rows = hooks.mapper_batch is None and not moves
            keys: Iterator[Any] = iter(block.keys) if rows and block.keys is not None else repeat(None)
            values: Any = iter(block.values if rows else range(len(block.values)))
            task.position.locate = _locator(block, values)
            if hooks.mapper_batch is not None and task.bad is not None:
                batch = task.call(lambda: _batch(block, hooks.batch))  # noqa: B023
                first = task.records_in - len(block.values)
                yield from guarded_batches(task, partial(_batch_pairs, hooks.mapper_batch), batch, block, first)
            elif hooks.mapper_batch is not None:
                yield task.call(lambda: _batch_pairs(hooks.mapper_batch, _batch(block, hooks.batch)))  # type: ignore[arg-type]  # noqa: B023
            elif mapper is not None:
                # In slices of limited time: a mapper may be slow and yield nothing.
                left = len(block.values)
                while left > 0:
                    began = time.monotonic()
                    if task.bad is None:
                        yield chain.from_iterable(map(mapper, islice(keys, some), islice(values, some)))
                    else:
                        records = zip(islice(keys, some), islice(values, some))  # noqa: B905  # repeat() has no end
                        yield guarded(task, mapper, records, task.records_in - left)
                    task.poll()
                    left -= some
                    some = min(MOST, some * 4) if time.monotonic() - began < SLICE_SECONDS else max(1, some // 4)
            elif moves:
                yield Block(*of_table(block.table))
            else:
                yield zip(keys, values)  # noqa: B905  # repeat(None) has no length
            task.poll()
        task.bytes_in += max(0, extent.end - extent.start)
    task.position.locate = nowhere
    if hooks.mapper_final is not None:
        yield task.call(lambda: yielding(hooks.mapper_final)())  # type: ignore[arg-type]


def _describe_input(extent: Extent) -> None:
    """Set Hadoop's environment variables for the current input, which mrjob's ``jobconf_from_env`` reads."""
    if not extent.block:
        described = {"file": extent.uri, "start": str(extent.start), "length": str(extent.end - extent.start)}
        os.environ.update({f"mapreduce_map_input_{name}": text for name, text in described.items()})


def _batch(block: RecordBlock, kind: str) -> Any:
    """Return the argument of ``mapper_batch`` for a block."""
    if kind == "table":
        from mrcelery.formats.arrow import table_of  # noqa: PLC0415 - needs pyarrow

        return table_of(block)
    if block.table is not None and kind != "list":
        return block.table
    return block.values if isinstance(block.values, list) else list(block.values)


def _batch_pairs(mapper_batch: Callable[[Any], Any], batch: Any) -> Pairs | Block:
    out = mapper_batch(batch)
    if out is None:
        return ()
    if hasattr(out, "num_columns"):
        return Block(*of_table(out))
    return out.items() if hasattr(out, "items") else out  # type: ignore[no-any-return]


def _locator(block: RecordBlock, values: Any) -> Callable[[], tuple[str, int | None, Any]]:
    """Make a function that finds the record being mapped from the progress of the iterator over the values."""

    def locate() -> tuple[str, int | None, Any]:
        at = max(0, len(block.values) - values.__length_hint__() - 1)
        return block.file, block.offset_of(at), block.values[at]

    return locate


def _records(task: Task, extent: Extent) -> Iterator[RecordBlock]:
    if extent.block:
        yield from _intermediate(task, extent)
        return
    protocol = task.hooks.input_protocol
    name = task.options.input_format
    if protocol is not None and name == "text":
        name = "lines"
    if task.hooks.mapper_batch is not None:
        tables = task.hooks.batch == "table"
    else:
        tables = task.hooks.mapper is None and protocol is None and keyed(name) and installed()
    on_bad = None if task.bad is None else task.bad.skip
    for block in input_format(name, on_bad, task.job, tables=tables).read(extent, task.max_record):
        if protocol is not None and name == "lines" and task.bad is not None:
            yield read_guarded(task, protocol.read, block)
        elif protocol is not None and name == "lines":
            lines = iter(block.values)
            task.position.locate = _locator(block, lines)
            pairs = task.call(lambda: [protocol.read(line) for line in lines])  # noqa: B023
            yield RecordBlock([k for k, _ in pairs], [v for _, v in pairs], block.file, block.offset_of)
        else:
            yield block


def _intermediate(task: Task, extent: Extent) -> Iterator[RecordBlock]:
    """Read the previous step's output blocks."""
    storage, key = locate(extent.uri)
    allow_pickle = task.options.allow_pickle
    protocol = task.hooks.internal_protocol
    start = 0
    for block in _whole(read_blocks(storage.stream(key), extent.uri, allow_pickle=allow_pickle), extent):
        keys, values = as_list(block.keys), as_list(block.values)
        if protocol is not None:
            pairs = task.call(lambda: [decode_pair(protocol, k, v) for k, v in zip(keys, values, strict=True)])  # noqa: B023
            keys, values = [k for k, _ in pairs], [v for _, v in pairs]
        # Offsets into a file of blocks mean nothing to the user: use the record's number.
        yield RecordBlock(keys, values, extent.uri, start.__add__)
        start += len(keys)


def _whole(blocks: Iterator[Block], extent: Extent) -> Iterator[Block]:
    """Yield the blocks; the error for a damaged block names the previous step's part."""
    with damage(Part(-1, extent.uri, extent.end, 0, 0)):
        yield from blocks
