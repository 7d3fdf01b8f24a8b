"""How a job looks on a terminal, out of overviews made by hand."""

from __future__ import annotations

import io

import pytest

from mrcelery.cli import picture
from mrcelery.cli.picture import ASCII, UNICODE, text_of
from mrcelery.jobstore.journal import Sums
from mrcelery.reporting.overview import Overview, StageView, Straggler
from mrcelery.reporting.rates import Speed
from mrcelery.reporting.report import Report
from mrcelery.schema.structs import Failure, Kind, Totals

JOB = "word-count-20261121-030649-2d63da"


def stage(kind: Kind = "map", state: str = "running", step: int = 0, **more: object) -> StageView:
    given = {"tasks": 40, "entered": 1000.0, **more} if state != "queued" else more
    return StageView(step=step, kind=kind, state=state, **given)  # type: ignore[arg-type]


def job(*stages: StageView, state: str = "running", now: float = 1100.0, **more: object) -> Overview:
    given: dict[str, object] = {"created": 990.0, "started": 1000.0, "queue": "fleet", **more}
    return Overview(job=JOB, state=state, now=now, stages=stages, **given)  # type: ignore[arg-type]


def shown(found: Overview, width: int = 80, height: int = 24, trouble: str = "") -> list[str]:
    return [text_of(line) for line in picture.running(found, Speed(), width, height, trouble=trouble)]


def straggler(task: int, **more: object) -> Straggler:
    given: dict[str, object] = {
        "attempt": "1-ab", "worker": "w1@here 77", "seconds": 32.0, "records": 900, "rate": 28.0, "quiet": 0.1,
        "slow": False, "backed_up": False, **more,
    }  # fmt: skip
    return Straggler(task=task, **given)  # type: ignore[arg-type]


MAP = stage(
    succeeded=10,
    left=300.0,
    sums=Sums(started=19, succeeded=10, failed=1, records_in=1_000_000, bytes_in=10 << 20, bytes_out=2 << 20),
    reading=200_000,
)
WAITING = stage("reduce", "queued")


def test_a_stage_that_runs() -> None:
    header, first, second, waiting = shown(job(MAP, WAITING))
    assert header == f"▶ running  1m40s  {JOB}"
    assert first.startswith("  ▶ map     ━━━━━")
    assert first.endswith("─  10/40  8 running  1 retried")
    # Of running attempts the records are known, the bytes by them.
    assert second == "    5m00s left · 12.0k records/s, mean 12.0k · 122.9 KiB/s · shuffle 2 MiB"
    assert waiting == "  ◌ reduce  queued"


def test_there_is_more_where_there_is_room_for_it() -> None:
    assert "122.9 KiB/s, mean 122.9 KiB · shuffle 2 MiB" in shown(job(MAP, WAITING), 120)[2]
    narrow = shown(job(MAP, WAITING), 60)
    assert narrow[1].endswith("  10/40  8 running  1 retried")
    assert narrow[2].strip() == "5m00s left · 12.0k records/s, mean 12.0k · 122.9 KiB/s"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    running = tuple(straggler(task, slow=True, backed_up=True) for task in range(3))
    found = job(stage(succeeded=3, running=running, sums=Sums(failed=7)), WAITING, message="x" * 200)
    assert max(map(len, shown(found, width))) <= width
    assert max(map(len, shown(found, width, trouble="x" * 50))) <= width


def test_the_slowest_attempts() -> None:
    running = (straggler(17, slow=True, backed_up=True), straggler(3), straggler(4), straggler(5))
    lines = shown(job(stage(succeeded=3, running=running), WAITING), 100)[-3:]
    assert lines[0] == "    slowest  map 17    32 s     28/s  straggler, backup runs  w1@here 77"
    assert lines[1] == "             map  3    32 s     28/s  w1@here 77"


def test_a_job_of_many_steps_is_folded() -> None:
    stages = [
        stage(kind, "succeeded", step, succeeded=40, ended=1010.0) for step in range(8) for kind in ("map", "reduce")
    ]
    stages[9] = stage("reduce", step=4, succeeded=4)
    stages[10:] = [stage(kind, "queued", step) for step in (5, 6, 7) for kind in ("map", "reduce")]
    found = job(*stages)
    assert len(shown(found, 80, 40)) == 1 + 16  # one that has read nothing has no line of rates
    few = shown(found, 80, 12)
    assert few[1] == "  ✔ 9 stages succeeded"
    assert few[2].startswith("  ▶ step 4 reduce  ━━━")
    assert few[-1] == "  ◌ 6 stages queued"


def test_a_stage_that_has_succeeded() -> None:
    done = stage(
        "map", "succeeded", succeeded=40, ended=1065.0, shuffle_bytes=3 << 20, sums=Sums(records_in=5, bytes_in=99)
    )
    line = shown(job(done, stage("reduce", succeeded=1)))[1]
    assert line == "  ✔ map     40 tasks in 1m05s · 5 records · 99 B · 3 MiB shuffled"


USER = Failure(error="UserCodeError", message="ValueError: x", traceback="T")
DIED = Failure(error="AttemptsLostError", message="map task 3 was started 4 times")
AWAY = Failure(error="StorageUnreachableError", message="no answer", exit_code=3)
LEFT_TO_RETRY = stage(tasks=4, succeeded=3, sums=Sums(started=5, succeeded=3, failed=1))
MUCH_LEFT = stage(tasks=40, succeeded=3, sums=Sums(started=9, succeeded=3, failed=1))


@pytest.mark.parametrize(
    ("found", "trouble", "word"),
    [
        (job(WAITING, state="queued", started=0.0), "", "◌ queued  "),
        (job(WAITING, state="queued"), picture.nobody(job()), "◌ queued, no worker listens on queue fleet  "),
        (job(MAP), picture.nobody(job()), "▶ running, no worker listens on queue fleet  "),
        (job(MAP), "broker not reachable", "▶ running, broker not reachable  "),
        (job(MUCH_LEFT), "", "▶ running  "),
        (job(LEFT_TO_RETRY), "", "▶ running, with retries  "),
        (job(state="failed", failure=USER), "", "✘ failed in user code  "),
        (job(state="failed", failure=DIED), "", "✘ failed by a worker's death  "),
        (job(state="failed", failure=AWAY), "", "✘ failed, broker or storage unreachable  "),
        (job(state="failed"), "", "✘ failed  "),
        (job(state="cancelled"), "", "■ cancelled  "),
        (job(state="succeeded"), "", "✔ succeeded  "),
    ],
)
def test_states_are_told_apart(found: Overview, trouble: str, word: str) -> None:
    assert shown(found, trouble=trouble)[0].startswith(word)


def test_a_summary() -> None:
    totals = Totals(records_in=1000, bytes_in=1 << 20, shuffle_bytes=2048, records_out=12, bytes_out=99, tasks=42)
    sums = Sums(started=43, succeeded=40, failed=2, lost=1, bad_records=3)
    found = job(
        stage(state="succeeded", succeeded=40, sums=sums),
        stage("reduce", "succeeded", tasks=2, succeeded=2, sums=Sums(started=2)),
        state="succeeded", finished=1003.25, output="s3://b/out",
    )  # fmt: skip
    report = Report(
        job=JOB, name="w", state="succeeded", counters={}, totals=totals, started=1000.0, finished=1003.25,
        seconds=3.25, output="s3://b/out", parts=("part-00000", "part-00001"),
    )  # fmt: skip
    assert [text_of(line) for line in picture.summary(found, report, picture.after_fleet(found))] == [
        f"✔ succeeded  3.2 s  {JOB}",
        "  input    1,000 records, 1 MiB → shuffle 2 KiB",
        "  output   12 records, 99 B in 2 part files at s3://b/out",
        "  tasks    42, 45 attempts, 2 failed, 1 lost",
        "  skipped  3 bad records",
        "  next     mrcelery cat s3://b/out",
        f"           mrcelery report {JOB}",
        f"           mrcelery logs {JOB}",
    ]
    failed = job(stage(state="failed", succeeded=10), state="failed", finished=1003.25, failure=USER)
    lines = [text_of(line) for line in picture.summary(failed, None, picture.after_fleet(failed))]
    assert lines[0].startswith("✘ failed in user code  3.2 s")
    assert "  tasks    10 of 40 succeeded" in lines  # the attempts were forgotten
    assert lines[-1].endswith(f"mrcelery retry {JOB}")


def test_what_is_next_of_a_job_that_ran_here() -> None:
    done, failed = job(state="succeeded"), job(state="failed", failure=USER)
    assert picture.after_here(done, "") == picture.after_here(failed, "") == []
    assert picture.after_here(done, "", "out") == ["mrcelery cat out"]
    assert picture.after_here(done, "store")[0] == f"mrcelery cat {JOB} --storage store"
    assert picture.after_here(failed, "store", "out")[0] == f"mrcelery logs {JOB} --storage store --failed"


def test_a_stream_without_unicode_gets_ascii() -> None:
    assert picture.signs(io.TextIOWrapper(io.BytesIO(), "ascii")) is ASCII
    assert picture.signs(io.TextIOWrapper(io.BytesIO(), "utf-8")) is UNICODE
    lines = picture.running(job(MAP, WAITING), Speed(), 60, signs=ASCII)
    assert "".join(map(text_of, lines)).isascii()


def test_colours(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrcelery.cli.picture.click.echo", lambda text, err: print(text))
    monkeypatch.delenv("NO_COLOR", raising=False)
    picture.echo([[("done", "bold green"), (" and dusted", "")]])
    assert capsys.readouterr().out == "\x1b[32m\x1b[1mdone\x1b[0m and dusted\n"
    monkeypatch.setenv("NO_COLOR", "1")
    picture.echo([[("done", "bold green"), (" and dusted", "")]])
    assert capsys.readouterr().out == "done and dusted\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.25, "3.2"), (12.7, "13"), (9_999, "9,999"), (12_345, "12.3k"), (1.25e6, "1.2M"), (3e9, "3.0G")],
)
def test_counts(number: float, text: str) -> None:
    assert picture.count(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (65, "1m05s"), (7620, "2h07m")])
def test_clock(seconds: float, text: str) -> None:
    assert picture.clock(seconds) == text
