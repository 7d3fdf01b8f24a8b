"""mrcelery clean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def test_clean_spares_what_may_still_run(mr: Any, tmp_path: Path) -> None:
    (tmp_path / "store" / "jobs" / "x-20990101-000000-abcdef").mkdir(parents=True)
    (tmp_path / "store" / "jobs" / "x-20990101-000000-abcdef" / "spec.json").write_text("{}")
    old = tmp_path / "store" / "jobs" / "x-20200101-000000-abcdef"
    old.mkdir()
    (old / "spec.json").write_text("{}")
    ran = mr("clean", "--older-than", "0s", "--storage", "store", "--json")
    assert [job["job"] for job in json.loads(ran.out)] == ["x-20200101-000000-abcdef"]
