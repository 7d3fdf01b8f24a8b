"""Our pages in a real Flower, over a real fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mrcelery
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.flower_process import Flower, flower
from tests.support.services import Fleet, Quiet, eventually, redis_server

JobFile = Callable[..., str]

NAME = "Count <script>alert('x')</script> & \"more\""

STUBBORN = """
    import os, time
    from mrcelery import MRJob

    class Stubborn(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate")

        def mapper(self, _, line):
            print("looking at", line)
            self.increment_counter("seen", "<b>lines</b>")
            if "rose" in line and not os.path.exists(self.options.gate):
                raise ValueError(f"no gate for {line}")
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""

WAITING = """
    import os, time
    from mrcelery import MRJob

    class Waiting(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate")

        def mapper(self, _, line):
            while not os.path.exists(self.options.gate):
                yield "waiting", 0
                time.sleep(0.01)
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.fixture(scope="module")
def dashboard(fleet_processes: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    folder = tmp_path_factory.mktemp("flower")
    storage = str(fleet_processes.folder / "storage")
    with flower(folder, fleet_processes.server.tcp_url, MRCELERY_STORAGE=storage) as started:
        yield started


@pytest.fixture
def open_flower(fleet_processes: Fleet, tmp_path: Path) -> Iterator[Flower]:
    """Flower without a login, below a URL prefix, started as plain Flower is."""
    with flower(tmp_path, fleet_processes.server.tcp_url, "--url_prefix=tools/fl", login="", app="mrcelery") as started:
        yield started


@pytest.fixture
def done(fleet: Fleet, word_count: str, text: Path) -> Iterator[mrcelery.JobHandle]:
    with mrcelery.run(word_count, str(text), name=NAME, reducers=2, **fleet.settings) as handle:
        yield handle


def test_the_pages_and_their_data(dashboard: Flower, done: mrcelery.JobHandle) -> None:
    (row,) = [row for row in dashboard.json("/api/jobs")["jobs"] if row["job"] == done.id]
    assert (row["name"], row["state"], row["progress"], row["tasks"]) == (NAME, "succeeded", 1.0, 3)
    seen = dashboard.json(f"/api/jobs/{done.id}")["overview"]
    assert [(s["kind"], s["succeeded"], s["tasks"]) for s in seen["stages"]] == [("map", 1, 1), ("reduce", 2, 2)]
    assert sorted(one[0] for one in seen["stages"][1]["attempts"]) == [0, 1]
    assert seen["counters"]["text"]["lines"] == 2
    whole = dashboard.json(f"/api/jobs/{done.id}?attempts=0")["overview"]
    assert [s["attempts"] for s in whole["stages"]] == [[], []]
    for path in ("/jobs", f"/jobs/{done.id}"):
        page = dashboard.ask(path)
        assert page.status == 200
        assert page.headers["Content-Type"].startswith("text/html")
        text = page.data.decode()
        assert done.id in text
        assert "<script>alert" not in text
        assert text.count("<script") == 2


def test_lists_by_state_and_name(dashboard: Flower, done: mrcelery.JobHandle) -> None:
    def jobs(query: str) -> list[str]:
        return [row["job"] for row in dashboard.json(f"/api/jobs?{query}")["jobs"]]

    assert done.id in jobs("state=succeeded&name=Count*")
    assert done.id not in jobs("state=failed")
    assert done.id not in jobs("name=Other*")
    assert len(jobs("limit=1")) == 1
    assert dashboard.ask("/api/jobs?limit=many").status == 400
    misspelt = dashboard.ask("/api/jobs?state=runing")
    assert (misspelt.status, b"queued, running, succeeded" in misspelt.data) == (400, True)


def test_a_job_that_nobody_knows(dashboard: Flower) -> None:
    for path in ("/jobs/none", "/jobs/none/data", "/api/jobs/none"):
        answer = dashboard.ask(path)
        assert answer.status == 404
        assert b"job none is not known" in answer.data
    assert dashboard.order("none", "cancel").status == 404
    for path in ("..%2F..%2Fnone", "none%2F..%2F..", "..", "%2e%2e"):
        assert dashboard.ask(f"/jobs/{path}/evidence").status == 404


def test_nothing_is_told_or_done_without_the_login(dashboard: Flower, done: mrcelery.JobHandle) -> None:
    paths = ["/jobs", "/jobs/data", "/api/jobs", *(f"/{kind}/{done.id}" for kind in ("jobs", "api/jobs"))]
    paths += [f"/jobs/{done.id}/data", f"/jobs/{done.id}/evidence"]
    paths += [f"/{kind}/{done.id}/log?step=0&kind=map&task=0&attempt=x" for kind in ("jobs", "api/jobs")]
    for path in paths:
        for login in ("", "me:wrong"):
            answer = dashboard.ask(path, login=login)
            assert (path, answer.status) == (path, 401)
            assert done.id.encode() not in answer.data
    assert dashboard.order(done.id, "cancel", login="").status == 401
    assert dashboard.order(done.id, "retry", login="me:wrong").status == 401


def test_cancel_and_retry(dashboard: Flower, fleet: Fleet, job_file: JobFile, text: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = job_file(WAITING, "waiting.py")
    with mrcelery.submit(job, str(text), args=["--gate", str(gate)], **fleet.settings) as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        assert dashboard.order(handle.id, "retry").status == 409
        foreign = dashboard.order(handle.id, "cancel", headers={"Sec-Fetch-Site": "cross-site"})
        assert foreign.status == 403
        foreign = dashboard.order(handle.id, "cancel", headers={"Origin": "http://elsewhere.example"})
        assert foreign.status == 403
        assert handle.status().state == "running"
        assert dashboard.order(handle.id, "cancel").status == 200
        assert handle.status().state == "cancelled"
        assert dashboard.order(handle.id, "cancel").status == 409
        gate.touch()
        # Only once the rest of its data is removed.
        eventually(lambda: dashboard.order(handle.id, "retry").status == 200, "it may be retried")
        handle.wait(60)
        assert handle.status().state == "succeeded"


def test_why_it_failed(dashboard: Flower, fleet: Fleet, job_file: JobFile, text: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = job_file(STUBBORN, "stubborn.py")
    with mrcelery.submit(job, str(text), args=["--gate", str(gate)], **fleet.settings) as handle:
        with pytest.raises(mrcelery.JobFailedError):
            handle.wait(60)
        seen = dashboard.json(f"/api/jobs/{handle.id}")["overview"]
        assert "no gate for" in seen["failure"]["message"]
        failed = seen["failure"]
        ((task, attempt, outcome, *_),) = seen["stages"][0]["attempts"]
        assert (task, attempt, outcome) == (failed["task"], failed["attempt"], "failed")
        where = f"step=0&kind=map&task={task}"
        for name in (attempt, attempt[attempt.index("-") :]):
            log = dashboard.ask(f"/jobs/{handle.id}/log?{where}&attempt={name}")
            assert log.headers["Content-Type"].startswith("text/plain")
            assert log.data == b"looking at a rose is a rose\n"
        assert dashboard.ask(f"/api/jobs/{handle.id}/log?{where}&attempt=1-none").data == b""
        assert dashboard.ask(f"/jobs/{handle.id}/log?{where}&attempt=../../spec.json").status == 400
        gate.touch()
        assert dashboard.order(handle.id, "retry").status == 200
        handle.wait(60)
        assert dashboard.json(f"/api/jobs/{handle.id}")["overview"]["state"] == "succeeded"


def test_bad_records_are_shown(dashboard: Flower, fleet: Fleet, job_file: JobFile, text: Path, tmp_path: Path) -> None:
    job = job_file(STUBBORN, "stubborn.py")
    args = ["--gate", str(tmp_path / "never")]
    with mrcelery.run(job, str(text), args=args, max_bad_records=5, **fleet.settings) as handle:
        found = dashboard.json(f"/jobs/{handle.id}/evidence")
    assert [one["record"] for one in found["bad_records"]] == ["'a rose is a rose'", "'is a rose'"]
    assert found["more_bad_records"] == 0


def test_a_job_that_redis_has_forgotten(dashboard: Flower, fleet: Fleet, done: mrcelery.JobHandle) -> None:
    before = dashboard.json(f"/api/jobs/{done.id}")["overview"]
    store = RedisJobStore(fleet.server.tcp_url)
    store.drop(done.id)
    store.close()
    after = dashboard.json(f"/api/jobs/{done.id}")["overview"]
    assert (after["state"], after["stages"]) == ("succeeded", before["stages"])
    assert done.id not in [row["job"] for row in dashboard.json("/api/jobs")["jobs"]]
    kept = {row["job"]: row for row in dashboard.json("/api/jobs?kept=1&state=succeeded")["jobs"]}
    assert (kept[done.id]["name"], kept[done.id]["progress"]) == (NAME, 1.0)
    assert done.id not in [row["job"] for row in dashboard.json("/api/jobs?kept=1&state=failed")["jobs"]]
    assert dashboard.ask(f"/jobs/{done.id}").status == 200


def test_no_worker_listens(dashboard: Flower, fleet: Fleet, quiet: Quiet, word_count: str, text: Path) -> None:
    with mrcelery.submit(word_count, str(text), **quiet.settings) as handle:
        told = dashboard.json(f"/jobs/{handle.id}/data")
        assert (told["workers"], told["overview"]["state"]) == (0, "queued")
        handle.cancel()


def test_without_a_login_one_may_look_but_not_act(
    open_flower: Flower, fleet: Fleet, done: mrcelery.JobHandle, quiet: Quiet, word_count: str, text: Path
) -> None:
    page = open_flower.ask(f"/jobs/{done.id}").data.decode()
    assert '"live":{"base":"/tools/fl","actions":false}' in page
    assert open_flower.json(f"/jobs/{done.id}/data")["overview"]["job"] == done.id
    assert "Jobs</a>" in open_flower.ask("/workers").data.decode()
    assert '"/tools/fl/jobs"' in open_flower.ask("/workers").data.decode()
    for path in ("/api/jobs", f"/api/jobs/{done.id}"):
        assert open_flower.ask(path).status == 401
    with mrcelery.submit(word_count, str(text), **quiet.settings) as handle:
        assert open_flower.order(handle.id, "cancel").status == 401
        assert handle.status().state == "queued"
        handle.cancel()


def test_the_flower_of_an_app_of_ones_own(fleet: Fleet, tmp_path: Path, done: mrcelery.JobHandle) -> None:
    url = fleet.server.tcp_url
    (tmp_path / "shop.py").write_text(
        "import mrcelery\nfrom celery import Celery\n"
        f"app = Celery('shop', broker={url!r}, backend={url!r})\nmrcelery.install(app)\n"
    )
    with flower(tmp_path, url, app="shop") as started:
        assert started.json(f"/api/jobs/{done.id}")["overview"]["state"] == "succeeded"


def test_a_broker_that_is_gone_is_said(tmp_path: Path) -> None:
    with redis_server() as server, flower(tmp_path, server.tcp_url) as started:
        assert started.json("/api/jobs")["jobs"] == []
        server.stop()
        answer = started.ask("/jobs")
        assert answer.status == 503
        assert b"broker" in answer.data
        assert b"Traceback" not in answer.data


def test_opened_to_all_and_read_only(fleet: Fleet, tmp_path: Path, quiet: Quiet, word_count: str, text: Path) -> None:
    url, everybody = fleet.server.tcp_url, {"FLOWER_UNAUTHENTICATED_API": "1"}
    with mrcelery.submit(word_count, str(text), **quiet.settings) as handle:
        with flower(tmp_path, url, "--read_only=true", login="", **everybody) as reading:
            assert reading.json(f"/api/jobs/{handle.id}")["overview"]["job"] == handle.id
            assert '"actions":false' in reading.ask(f"/jobs/{handle.id}").data.decode()
            assert reading.order(handle.id, "cancel").status == 403
        with flower(tmp_path, url, login="", **everybody) as trusting:
            assert '"actions":true' in trusting.ask(f"/jobs/{handle.id}").data.decode()
            assert trusting.order(handle.id, "cancel").status == 200
        assert handle.status().state == "cancelled"


def test_flowers_own_tasks_show_job_step_task_and_progress(
    dashboard: Flower, fleet: Fleet, job_file: JobFile, text: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    job = job_file(WAITING, "waiting.py")
    with mrcelery.submit(job, str(text), args=["--gate", str(gate)], **fleet.settings) as handle:
        # Flower asks workers for events every few seconds; until then they send none.
        def tasks() -> list[dict[str, object]]:
            found = dashboard.json(f"/api/tasks?search=kwargs:job={handle.id}")
            return list(found.values())

        eventually(lambda: any(one["state"] == "PROGRESS" for one in tasks()), "a task tells its progress")
        (one,) = (one for one in tasks() if one["state"] == "PROGRESS")
        assert one["name"] == "mrcelery.map"
        assert one["kwargs"] == f"{{'job': '{handle.id}', 'step': 0, 'task': 0, 'attempt': 0}}"
        assert str(one["result"]).endswith(" records read")
        gate.touch()
        handle.wait(60)
        ends = {("mrcelery.map", "SUCCESS"), ("mrcelery.reduce", "SUCCESS")}
        eventually(lambda: ends <= {(one["name"], one["state"]) for one in tasks()}, "the tasks are seen to end")
