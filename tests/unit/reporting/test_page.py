"""The pages as files: what is in them, and what never is."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import pytest

from mrcelery.jobstore.journal import Entry
from mrcelery.reporting import excerpts
from mrcelery.reporting.overview import Overview, StageView
from mrcelery.reporting.page import Evidence, Jobs, Live, Row, job_page, jobs_page
from mrcelery.reporting.report import Report, put_report, read_report, remove_report
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import JobSeal
from mrcelery.schema.structs import BadRecord, Failure, Totals
from mrcelery.schema.task_id import TaskId
from mrcelery.storage import open_storage
from mrcelery.storage.base import Storage

EVIL = "</script><script>alert('x')</script><!--"


def told(page: bytes) -> Any:
    """The data in a page, as a browser finds it: up to the first end of a script element."""
    text = page.decode()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def attempts(number: int, outcome: Any = "succeeded") -> tuple[Entry, ...]:
    return tuple(
        Entry(n, f"1-{n:06x}", outcome, f"worker-{n % 20}@batch-host {10000 + n % 80}", 1.7e9 + n / 7, 12.345, 123456,
              7890, 64 << 20, 1 << 20)
        for n in range(number)
    )  # fmt: skip


def job(**more: Any) -> Overview:
    return Overview(**{"job": "job-1", "state": "succeeded", "now": 1.7e9, "queue": "celery", **more})


@pytest.fixture
def storage() -> Storage:
    return open_storage(f"memory://{secrets.token_hex(8)}")


def test_nothing_that_a_user_names_is_html() -> None:
    failed = Failure(error="UserCodeError", message=EVIL, traceback=EVIL, record=EVIL, step=0, kind="map", task=0)
    entry = Entry(0, "1-aaaaaa", "failed", EVIL, 1.7e9, 1.0, error=EVIL)
    seen = job(
        name=EVIL, owner=EVIL, message=EVIL, state="failed", failure=failed, counters={EVIL: {EVIL: 1}},
        stages=(StageView(step=0, kind="map", name=EVIL, state="failed", tasks=1, attempts=(entry,)),),
    )  # fmt: skip
    page = job_page(seen, Evidence(logs={"0.map.0.1-aaaaaa": EVIL}))
    listed = jobs_page(Jobs(jobs=[Row(job="job-1", name=EVIL, state="failed", message=EVIL)], now=1.0), Live())
    for html in (page, listed):
        assert html.count(b"<script") == 2
        assert html.count(b"</script") == 2
        assert html.count(b"<!--") == 0
    found = told(page)
    assert found["overview"]["name"] == found["overview"]["failure"]["traceback"] == EVIL
    assert found["evidence"]["logs"] == {"0.map.0.1-aaaaaa": EVIL}
    assert told(listed)["jobs"][0]["name"] == EVIL


def test_a_page_asks_nobody_else() -> None:
    page = job_page(job()).decode()
    assert not re.search(r"https?://", page)
    assert not re.search(r"<link|<img|@import|url\(|\ssrc=", page)


def test_the_title_is_the_jobs_name_or_its_id() -> None:
    assert b"<title>job-1 - mrcelery<" in job_page(job())
    assert "<title>café - mrcelery<".encode() in job_page(job(name="café"))


def test_ten_thousand_attempts_are_less_than_two_megabytes() -> None:
    seen = job(
        stages=(
            StageView(step=0, kind="map", state="succeeded", tasks=10_000, succeeded=10_000, attempts=attempts(10_000)),
        )
    )
    page = job_page(seen, Evidence())
    assert len(page) < 2_000_000
    assert len(told(page)["overview"]["stages"][0]["attempts"]) == 10_000


def test_a_report_lies_beside_its_page(storage: Storage) -> None:
    seen = job(name="mine")
    report = Report(
        job="job-1", name="mine", state="succeeded", counters={}, totals=Totals(), started=1.0, finished=2.0,
        seconds=1.0, output="", parts=(), overview=seen,
    )  # fmt: skip
    put_report(storage, report, JobSeal("job-1"))
    assert read_report(storage, "job-1") == report
    assert told(storage.read(object_keys.report_page("job-1")))["overview"]["name"] == "mine"
    remove_report(storage, "job-1")
    assert list(storage.list()) == []


def test_logs_are_those_of_what_went_wrong_the_cause_first_and_bounded(storage: Storage) -> None:
    for n in range(excerpts.LOGS + 30):
        storage.write(object_keys.log(TaskId("job-1", 0, "map", n), f"1-{n:06x}"), b"said %d" % n)
    cause = excerpts.LOGS + 25
    long = b"x" * excerpts.LOG_BYTES + b"the end"
    storage.write(object_keys.log(TaskId("job-1", 0, "map", cause), f"1-{cause:06x}"), long)
    failed = attempts(excerpts.LOGS + 30, "failed")
    fine = StageView(step=0, kind="reduce", state="queued", attempts=attempts(5))
    stages = (StageView(step=0, kind="map", state="failed", attempts=failed), fine)
    failure = Failure(error="UserCodeError", message="no", step=0, kind="map", task=cause)
    found = excerpts.gather(storage, job(state="failed", stages=stages, failure=failure))
    assert len(found.logs) == excerpts.LOGS
    name, text = next(iter(found.logs.items()))
    assert name == f"0.map.{cause}.1-{cause:06x}"
    assert text == "[...]\n" + long[-excerpts.LOG_BYTES :].decode()


def test_the_log_of_an_attempt_whose_number_is_not_known(storage: Storage) -> None:
    storage.write(object_keys.log(TaskId("job-1", 0, "map", 3), "2-abcdef"), b"mine")
    storage.write(object_keys.log(TaskId("job-1", 0, "map", 3), "1-123456"), b"another's")
    assert excerpts.log(storage, TaskId("job-1", 0, "map", 3), "-abcdef") == "mine"
    assert excerpts.log(storage, TaskId("job-1", 0, "map", 3), "-000000") == ""
    assert excerpts.log(storage, TaskId("job-1", 0, "map", 3), "1-000000") == ""


@pytest.mark.parametrize(
    ("each", "files", "shown", "more"), [(3, 2, 6, 0), (50, 1, 50, 0), (51, 1, 50, 1), (1, 30, 20, 1)]
)
def test_bad_records_are_bounded(storage: Storage, each: int, files: int, shown: int, more: int) -> None:
    one = BadRecord(
        job="job-1", step=0, kind="map", task=0, attempt="1-a", file="f", offset=0, record="r", error="e", traceback=""
    )  # fmt: skip
    for n in range(files):
        storage.write(object_keys.bad_records(TaskId("job-1", 0, "map", n), "1-a"), (encode(one) + b"\n") * each)
    records, rest = excerpts.bad_records(storage, "job-1")
    assert (len(records), rest) == (shown, more)


def test_a_bad_record_that_cannot_be_read_is_passed_over(storage: Storage) -> None:
    one = BadRecord(
        job="job-1", step=0, kind="map", task=0, attempt="1-a", file="f", offset=0, record="r", error="e", traceback=""
    )  # fmt: skip
    storage.write(object_keys.bad_records(TaskId("job-1", 0, "map", 0), "1-a"), b"{damaged\n" + encode(one) + b"\n")
    assert excerpts.bad_records(storage, "job-1") == ((one,), 0)
