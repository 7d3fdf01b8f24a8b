"""Which partition a pair goes to: as the job's own function says, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import UserCodeError
from tests.support.stages import Words, run_job


def test_a_users_partition_decides(tmp_path: Path) -> None:
    class ByLength(Words):
        def partition(self, key: Any, n: Any) -> Any:
            return len(key) % n

    results, _ = run_job(ByLength, ["a bb ccc dddd bb"], str(tmp_path), reducers=2)
    assert results == [[("bb", 2), ("dddd", 1)], [("a", 1), ("ccc", 1)]]


@pytest.mark.parametrize("answer", [2, -1, "0", None, 0.0, True])
def test_a_partition_out_of_range_is_refused(tmp_path: Path, answer: Any) -> None:
    class Wrong(Words):
        def partition(self, key: Any, n: Any) -> Any:
            return answer

    with pytest.raises(UserCodeError, match=r"partition\('a', 2\) returned .*: return an int from 0 to 1"):
        run_job(Wrong, ["a"], str(tmp_path), reducers=2)
