"""mrcelery logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_logs(mr: Any, tmp_path: Path) -> None:
    for number, kind in ((0, "map"), (7, "map"), (0, "reduce")):
        folder = tmp_path / "store" / "jobs" / "j" / "step-0" / f"{kind}-{number:05d}"
        folder.mkdir(parents=True)
        (folder / "log.1-ab").write_text(f"{kind} {number}\n")
        (folder / "commit.json").write_text("{}")
    out = mr("logs", "j", "--storage", "store", "--kind", "map").out
    assert out == "==> step 0 map 0 attempt 1-ab <==\nmap 0\n==> step 0 map 7 attempt 1-ab <==\nmap 7\n"
    assert "reduce 0" not in mr("logs", "j", "--storage", "store", "--task", "7").out
    assert "no matching logs" in mr("logs", "j", "--storage", "store", "--step", "1").err
