"""Small results that are damaged before they are sent: their tasks run again."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.client.submission import Submission
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish
from mrcelery.coordinator.start import start
from mrcelery.errors import DamagedPartError
from mrcelery.runners.inline import InlineRunner
from tests.support.damaged_jobs import DAMAGE


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("kind", ["map", "reduce"])
def test_a_small_result_that_is_damaged_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str, small: bool
) -> None:
    """Its task runs again; one whose every result is damaged ends the job, with nothing published."""
    reducer = "def reducer(self, key, values): yield key, sum(values)" if kind == "reduce" else ""
    (tmp_path / "job.py").write_text(
        dedent(f"""
        from mrcelery import MRJob

        class Small(MRJob):
            def mapper(self, _, line):
                yield line, 1

            {reducer}
    """)
    )
    lines = [f"line {number:03d}" for number in range(100)]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    runs: list[tuple[int, ...] | None] = []
    most = 1

    def damaging_start(runner: InlineRunner, job: str, queue: str) -> None:
        runtime = OpenJobs(runner.store, scratch=str(tmp_path / "scratch"))
        stage = start(runtime, job)
        while stage is not None:
            for number in range(stage.tasks) if stage.missing is None else stage.missing:
                run_attempt(runtime, stage.id.task_id(number))
            if stage.then == "finish":
                runs.append(stage.missing)
                if len(runs) <= most:
                    for path in tmp_path.glob(f"storage/jobs/{job}/step-0/{kind}-00000/part-*"):
                        DAMAGE[how](path)
            stage = (barrier if stage.then == "barrier" else finish)(runtime, job, stage.id.step)

    monkeypatch.setattr(InlineRunner, "start", damaging_start)
    settings: dict[str, Any] = {"runner": "inline", "storage": f"{tmp_path}/storage", "wants_results": small}
    output = None if small else f"{tmp_path}/out"
    with Submission.prepare(f"{tmp_path}/job.py", f"{tmp_path}/in.txt", output, **settings).submit() as handle:
        assert handle.wait().state == "succeeded"
        assert sorted(handle) == [(line, 1) for line in lines]
        assert handle.report().totals.tasks == (2 if kind == "reduce" else 1)
    assert runs == [None, (0,)]
    runs, most = [], 99
    with (
        pytest.raises(DamagedPartError, match=rf"{kind}-00000/part-00000.* (is damaged|is gone)") as raised,
        Submission.prepare(f"{tmp_path}/job.py", f"{tmp_path}/in.txt", **settings).submit(),
    ):
        pass
    assert not raised.value.retryable
    assert len(runs) == 3
    assert not list(tmp_path.glob("storage/jobs/*/report.json"))[1:]
