"""The barrier: after all map tasks of a step, write the input of each reduce task."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from mrcelery.attempt.open_jobs import OpenJob, OpenJobs
from mrcelery.coordinator.rerun import run_again
from mrcelery.coordinator.stages import StageTasks, begin_stage, counted, map_tasks, open_running
from mrcelery.coordinator.summaries import THREADS, check_all_committed, commits, summarise
from mrcelery.errors import DamagedPartError
from mrcelery.schema import object_keys
from mrcelery.schema.structs import Commit, ShuffleInput
from mrcelery.schema.task_id import StageId
from mrcelery.shuffle.bounds import Ranges
from mrcelery.shuffle.index import encode_key
from mrcelery.shuffle.part_lists import PartLists
from mrcelery.shuffle.skew import Skew
from mrcelery.storage.transfers import carried


def barrier(jobs: OpenJobs, job: str, step: int) -> StageTasks:
    """Write each reduce task's input, after all map tasks; return the reduce stage.

    In total order this needs the index of each map task's run: if one is damaged, its task runs again.
    """
    active = open_running(jobs, job, step)
    try:
        return _shuffle(jobs, active, step)
    except DamagedPartError as e:
        return run_again(jobs, active, e)


def _shuffle(jobs: OpenJobs, active: OpenJob, step: int) -> StageTasks:
    job, maps = active.id, StageId(active.id, step, "map")
    tasks = map_tasks(jobs, active, step)
    check_all_committed(jobs, active, maps, tasks)
    reducers = active.spec.steps[step].reducers
    skew = Skew(reducers)
    bounds: list[bytes | None] = [None] * (reducers + 1)
    with counted(jobs, job, f"barrier.{step}"), PartLists(jobs.scratch) as lists:

        def gather() -> Iterator[Commit]:
            found = commits(jobs, active, maps, tasks)
            if active.spec.steps[step].total_order:
                with Ranges(jobs.scratch) as ranges:
                    yield from ranges.gather(active.storage, found)
                    cuts = ranges.divide(reducers, lists, skew)
                bounds[1 : len(cuts) + 1] = map(encode_key, cuts)
                return
            for commit in found:
                for part in commit.parts:
                    lists.add(part)
                    skew.add(part.partition, part.records, part.bytes)
                yield commit

        summarise(jobs, active, maps, gather(), skew.counters)

        def write(partition: int) -> None:
            record = lists.encoded(partition, bounds[partition], bounds[partition + 1])
            key = object_keys.shuffle_input(job, step, partition)
            active.storage.write(key, active.seal.sealed(record, ShuffleInput, key))

        with ThreadPoolExecutor(max_workers=THREADS) as pool:
            for _ in pool.map(carried(write), range(reducers)):
                pass
    stage = StageTasks(StageId(job, step, "reduce"), reducers, "finish", active.spec.request.options.queue)
    begin_stage(jobs, active.spec, stage)
    return stage
