"""Parts that are damaged or gone name themselves and the task that wrote them."""

from __future__ import annotations

import pytest

from mrcelery.errors import CorruptDataError, DamagedPartError, StorageUnreachableError
from mrcelery.schema.object_keys import task_root
from mrcelery.schema.structs import Part
from mrcelery.schema.task_id import TaskId
from mrcelery.shuffle.damage import damage, writer


def part(key: str) -> Part:
    return Part(0, key, 10, 1, 0)


@pytest.mark.parametrize("root", ["", "s3://bucket/folder/", "/jobs/jobs/old/"])
@pytest.mark.parametrize("task", [TaskId("job-1", 0, "map", 3), TaskId("job-1", 12, "reduce", 123_456)])
def test_a_part_tells_who_wrote_it(root: str, task: TaskId) -> None:
    assert writer(part(f"{root}{task_root(task)}part-00000.1-ab")) == task


@pytest.mark.parametrize(
    ("error", "says"), [(CorruptDataError("odd"), r"is damaged \(odd\)"), (FileNotFoundError(), "is gone")]
)
def test_what_is_damaged_or_gone_is_named(error: Exception, says: str) -> None:
    damaged = part("jobs/j/step-0/map-00000/part-00000")
    with pytest.raises(DamagedPartError, match=f"^{damaged.key} {says}") as caught, damage(damaged):
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_pass() -> None:
    with pytest.raises(StorageUnreachableError), damage(part("jobs/j/step-0/map-00000/part-00000")):
        raise StorageUnreachableError("no route")
