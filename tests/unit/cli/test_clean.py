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


def test_a_named_job_that_is_not_removed_has_its_reason(mr: Any, tmp_path: Path) -> None:
    young = tmp_path / "store" / "jobs" / "x-20990101-000000-abcdef"
    young.mkdir(parents=True)
    (young / "spec.json").write_text("{}")
    ran = mr("clean", "x-20990101-000000-abcdef", "y-20200101-000000-abcdef", "--storage", "store")
    assert ran.out == ""
    assert ran.err.splitlines() == [
        "mrcelery: job x-20990101-000000-abcdef may still run on a fleet that is not known here: give its --broker",
        f"mrcelery: job y-20200101-000000-abcdef has no data in {tmp_path / 'store'}: see `mrcelery list`",
    ]
    assert (young / "spec.json").exists()
