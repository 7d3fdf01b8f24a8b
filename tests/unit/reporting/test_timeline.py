"""The course of a job as events, out of overviews made by hand."""

from __future__ import annotations

import json

from msgspec.structs import replace

from mrcelery.jobstore.journal import Sums
from mrcelery.reporting import timeline
from mrcelery.reporting.overview import Overview, StageView, Warn
from mrcelery.reporting.rates import WINDOW, Speed
from mrcelery.reporting.report import Report
from mrcelery.schema.structs import Failure, Totals

MAP = StageView(step=0, kind="map", state="running", tasks=8, entered=100.0)
REDUCE = StageView(step=0, kind="reduce", state="queued")


def seen(*stages: StageView, now: float = 101.0, state: str = "running", **more: object) -> Overview:
    return Overview(job="j", state=state, now=now, created=99.0, stages=stages, **more)  # type: ignore[arg-type]


def read(records: int, **more: object) -> StageView:
    return replace(MAP, sums=Sums(started=3, succeeded=1, records_in=records, bytes_in=10 * records), **more)


def test_stages_begin_and_end_once_and_in_their_order() -> None:
    tell = timeline.Narrator()
    assert [type(e) for e in tell.observe(seen(StageView(step=0, kind="map", state="queued"), state="queued"))] == []
    assert str(tell.observe(seen(MAP, REDUCE))[0]) == "step 0 map: 8 tasks"
    done = replace(
        MAP, state="succeeded", succeeded=8, ended=103.5, sums=Sums(succeeded=8, records_in=5, records_out=50)
    )
    reducing = replace(REDUCE, state="running", tasks=1, entered=103.5)
    told = tell.observe(seen(done, reducing, now=104.0))
    assert [type(e) for e in told] == [timeline.StageSucceeded, timeline.StageStarted, timeline.Progress]
    assert str(told[0]) == "step 0 map: 8 tasks succeeded in 3.5 s, 5 records read, 50 written"
    assert tell.observe(seen(done, reducing, now=110.0)) == []


def test_stages_between_two_looks_are_told_too() -> None:
    done = [replace(s, state="succeeded", tasks=1, succeeded=1, entered=100.0, ended=100.2) for s in (MAP, REDUCE)]
    told = timeline.Narrator().observe(seen(*done, state="succeeded"))
    assert [type(e) for e in told] == [timeline.StageStarted, timeline.StageSucceeded] * 2


def test_progress_is_told_once_a_second_and_only_where_there_is_some() -> None:
    tell = timeline.Narrator()
    tell.observe(seen(read(0)))
    assert tell.observe(seen(read(10), now=101.5)) == []
    (event,) = tell.observe(seen(read(100, reading=100, succeeded=1, left=7.0), REDUCE, now=103.0))
    assert isinstance(event, timeline.Progress)
    assert (event.records, event.bytes, event.succeeded, event.running, event.left) == (200, 2000, 1, 2, 7.0)
    assert (event.records_per_second, event.mean_records_per_second) == (100.0, 66.7)
    assert str(event) == "step 0 map: 1 of 8 tasks succeeded, 2 running, 67 records/s, about 7 s left"
    assert tell.observe(seen(read(100, reading=100, succeeded=1, left=6.0), REDUCE, now=105.0)) == []


def test_warnings_are_told_once_and_again_as_they_double() -> None:
    tell = timeline.Narrator()

    def told(failed: int, *more: Warn) -> list[str]:
        stage = replace(MAP, sums=Sums(failed=failed))
        warn = Warn(kind="retries", text=f"{failed} failed", step=0, stage="map")
        return [str(e) for e in tell.observe(seen(stage, warnings=(warn, *more))) if isinstance(e, timeline.Warned)]

    assert [told(n) for n in (1, 1, 2, 3, 4, 7)] == [["1 failed"], [], ["2 failed"], [], ["4 failed"], []]
    slow = [Warn(kind="straggler", text=f"task {n} is slow", step=0, stage="map", task=n) for n in (3, 4)]
    assert told(7, slow[0]) == ["task 3 is slow"]
    assert told(7, *slow) == ["task 4 is slow"]


def test_the_rate_now_is_that_of_the_last_seconds() -> None:
    speed = Speed()
    for second in range(60):
        speed.observe(seen(read(1000 * min(second, 30)), now=100.0 + second))
    rates = speed.of(read(30_000), 159.0)
    assert rates.records == rates.bytes == 0.0
    assert round(rates.mean_records) == round(30_000 / 59)
    speed.observe(seen(read(31_000), now=160.0))
    assert speed.of(read(31_000), 160.0).records == 1000 / (WINDOW + 1)
    speed.observe(seen(read(100), now=161.0))  # an attempt failed, and what it had read counts no more
    assert speed.of(read(100), 161.0).records == 0.0


def test_the_last_event_is_the_report() -> None:
    stage = replace(MAP, state="succeeded", succeeded=8, sums=Sums(started=9, bad_records=2, records_in=7))
    found = seen(stage, state="succeeded", started=100.0, finished=105.0, counters={"g": {"n": 1}})
    totals = Totals(records_out=3)
    report = Report(
        job="j", name="", state="succeeded", counters={"g": {"n": 2}}, totals=totals, started=100.0, finished=105.0,
        seconds=5.0, output="", parts=("part-00000",),
    )  # fmt: skip
    line = json.loads(timeline.line(timeline.ended(found, report)))
    assert (line["event"], line["v"], line["state"], line["job"]) == ("succeeded", 1, "succeeded", "j")
    assert (line["counters"], line["totals"]["records_out"], line["parts"]) == ({"g": {"n": 2}}, 3, ["part-00000"])
    assert (line["bad_records"], line["overview"]["stages"][0]["succeeded"]) == (2, 8)
    failure = Failure(error="UserCodeError", message="m")
    failed = json.loads(timeline.line(timeline.ended(replace(found, state="failed", failure=failure), None)))
    assert (failed["event"], failed["failure"]["message"]) == ("failed", "m")
    assert (failed["parts"], failed["seconds"]) == ([], 5.0)
    assert failed["totals"]["records_in"] == 7
    assert json.loads(timeline.line(timeline.ended(replace(found, state="cancelled"), None)))["event"] == "cancelled"
