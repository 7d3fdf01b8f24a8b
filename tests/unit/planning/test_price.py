"""The estimate of a job's requests and their price."""

from __future__ import annotations

import pytest

from mrcelery.planning.listing import InputFile
from mrcelery.planning.price import Cost, estimate
from mrcelery.planning.splits import cut, write_plan
from mrcelery.schema.structs import Partitioner, StepSpec


def test_estimate_of_one_step() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)
    steps = [StepSpec(has_reducer=True, reducers=4)]
    cost = estimate(plan, steps, listing={"GET": 1, "LIST": 1}, reads=100, storage_is_s3=True)
    # in: a GET of listing, 100 extents; the layout, the spec; each process: spec, code, a plan page;
    # map: 100 x (4 partitions + commit); barrier: 4 lists; two summaries; 4 part files read back;
    # reduce: 4 x (100 + list) read, 4 x (part + commit) written; spec, code, page, report (two files); 4 copies
    assert cost.get == 1 + 100 + 2 + 3 + 4 * 101 + 4 + 2 * 4
    assert cost.put == 100 * 5 + 4 + 2 + 4 * 2 + 5 + 4
    assert cost.list == 1 + 1
    assert cost.requests == {"GET": cost.get, "PUT": cost.put, "LIST": cost.list, "DELETE": cost.delete}
    assert cost.dollars == pytest.approx((cost.put + cost.list) * 5e-6 + cost.get * 4e-7)
    more = estimate(plan, steps, listing={"GET": 1, "LIST": 1}, reads=100, storage_is_s3=True, processes=5)
    assert more == Cost(cost.get + 4 * 3, cost.put, cost.list, cost.delete)


def test_estimate_of_publishing_to_an_output() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)
    steps = [StepSpec(has_reducer=True, reducers=4)]
    cost = estimate(plan, steps, listing={}, reads=0, storage_is_s3=False, output_is_s3=True)
    # listed before the job, before publishing, and twice for claims; _SUCCESS is looked for; the claim is written, and
    # what it announces: 4 part files, and _SUCCESS
    assert cost == Cost(get=1, put=1 + (4 * 3 + 1) + (3 + 1), list=4, delete=1)


def test_estimate_where_nothing_is_s3() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)
    assert estimate(plan, [StepSpec(has_reducer=True, reducers=4)], listing={}, reads=0, storage_is_s3=False) == Cost()


def test_estimate_of_total_order() -> None:
    plan = write_plan(cut([InputFile("a", 1000, True)], 10), lambda number, data: None)

    def cost(kind: str, reducers: int) -> Cost:
        steps = [StepSpec(has_reducer=True, reducers=reducers, partitioner=Partitioner(kind))]  # type: ignore[arg-type]
        return estimate(plan, steps, listing={}, reads=0, storage_is_s3=True)

    # map: 100 x (run + commit) instead of 100 x (4 partitions + commit); barrier: 100 indexes
    assert cost("hash", 4).put - cost("range", 4).put == 100 * 3
    assert cost("range", 4).get - cost("hash", 4).get == 100
    assert cost("range", 1) == cost("hash", 1)


def test_estimate_follows_the_parts_from_step_to_step() -> None:
    plan = write_plan(cut([InputFile("a", 100, True)], 10), lambda number, data: None)
    map_only = StepSpec(has_reducer=False, reducers=0)
    reducing = StepSpec(has_reducer=True, reducers=3)

    def cost(*steps: StepSpec) -> Cost:
        return estimate(plan, steps, listing={}, reads=0, storage_is_s3=True, output_is_s3=False)

    assert cost(map_only).put == 4 + 1 + 10 * 2 + 1
    two = cost(map_only, reducing)
    # plus a plan page, and summaries; 3 part files are fetched to the folder, not 10
    assert two.put - cost(map_only).put == 10 * 4 + 3 + 6 + 1 + 2
    assert two.get - cost(map_only).get == 10 + 3 * 11 + 1 - 3 * 7  # and their tags are requested twice
    assert cost(reducing, map_only).put - cost(reducing).put == 3 * 2 + 1 + 1
