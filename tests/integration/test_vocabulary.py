"""Jobs in all states on a real fleet: every surface uses the words of schema.states for them, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import mrcelery
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema import object_keys
from mrcelery.schema.states import OUTCOMES, STATES
from tests.support.flower_process import Flower, flower
from tests.support.services import command, environment, eventually, redis_server, workers

JOB = """
    import os, time
    from mrcelery import MRJob

    class Job(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate", default="")

        def mapper(self, _, line):
            if line == "raise":
                raise ValueError("no")
            if line == "die":
                os._exit(7)
            while line == "hold" and not os.path.exists(self.options.gate):
                yield "tick", 0
                time.sleep(0.02)
            yield line, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""

OTHER = re.compile(
    r"\b(submitted|enqueued|done|pending|waiting|retrying|stopped|finished|completed?|success|canceled|aborted)\b", re.I
)
"""Words that must not be used for a state."""

TIMES = re.compile(r"\bsubmitted (?=\d{4}-)|\bSUBMITTED\b")
"""Labels of the time of submission, which is not a state."""


@dataclass
class Surfaces:
    """A job for each state, and the surfaces that show it."""

    jobs: dict[str, str]
    env: dict[str, str]
    flower: Flower
    settings: dict[str, Any]
    events: dict[str, list[dict[str, Any]]]

    def run(self, *args: str, code: int = 0) -> str:
        ran = command(*args, env=self.env)
        assert ran.returncode == code, ran.stderr
        return ran.stdout

    def attach(self, job: str) -> mrcelery.JobHandle:
        given = {name: self.settings[name] for name in ("broker", "storage")}
        return mrcelery.attach(job, **given)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surfaces]:
    folder = tmp_path_factory.mktemp("words")
    (folder / "job.py").write_text(dedent(JOB))
    gate = folder / "gate"
    storage = str(folder / "storage")
    with redis_server() as server, workers(folder, server.tcp_url, queue="q", concurrency=4):
        settings = {"runner": "celery", "broker": server.tcp_url, "storage": storage, "queue": "q"}
        env = environment(**{f"MRCELERY_{name.upper()}": value for name, value in settings.items()})
        with flower(folder, server.tcp_url, MRCELERY_STORAGE=storage) as started:
            found = Surfaces({}, env, started, settings, {})

            def text(name: str, *lines: str) -> str:
                (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
                return str(folder / f"{name}.txt")

            def submit(name: str, *lines: str, **more: Any) -> mrcelery.JobHandle:
                given = {**settings, "reducers": 2, "split_size": 5, "args": ["--gate", str(gate)], **more}
                return mrcelery.submit(str(folder / "job.py"), text(name, *lines), name=name, **given)

            def submit_and_wait(name: str, *lines: str, code: int, options: tuple[str, ...] = ()) -> None:
                args = [str(folder / "job.py"), text(name, *lines), "--json", "--no-output", "--name", name]
                told = found.run("submit", *args, *options, code=code)
                found.events[name] = [json.loads(line) for line in told.splitlines()]
                found.jobs[name] = found.events[name][0]["job"]

            submit_and_wait("succeeded", "fine", "fine", code=0)
            submit_and_wait("failed", "raise", code=1)
            submit_and_wait("died", "die", code=1, options=("--max-attempts", "2"))
            with submit("cancelled", "fine", "hold", "hold") as handle:
                found.jobs["cancelled"] = handle.id
                await_attempts(handle, succeeded=1, running=2)
                handle.cancel()
            with found.attach(found.jobs["cancelled"]) as handle:
                await_attempts(handle, succeeded=1, cancelled=2)
            with submit("running", "fine", "hold", "hold") as handle:
                found.jobs["running"] = handle.id
                await_attempts(handle, succeeded=1, running=2)
            with submit("queued", "fine", queue="nobody") as handle:
                found.jobs["queued"] = handle.id
            try:
                yield found
            finally:
                gate.touch()
                with found.attach(found.jobs["running"]) as handle:
                    handle.wait(60)


def await_attempts(handle: mrcelery.JobHandle, **wanted: int) -> None:
    def so() -> bool:
        found = handle.glance()
        sums = found.stages[0].sums if found.stages else None
        return sums is not None and all(getattr(sums, outcome) == number for outcome, number in wanted.items())

    eventually(so, f"attempts: {wanted}")


def check_text(text: str) -> None:
    """Check that text for people has no other word for a state."""
    lines = [line for line in TIMES.sub("", text).splitlines() if OTHER.search(line)]
    assert lines == []


def check(value: Any, key: str = "") -> None:
    """Check that JSON has no other word for a state, as a name or a value, and that each state is a valid one."""
    if isinstance(value, dict):
        for name, one in value.items():
            assert name == "finished" or not OTHER.search(name.replace("_", " ")), name  # the time of a job's end
            check(one, name)
    elif isinstance(value, list):
        for one in value:
            if key == "attempts":
                assert one[2] in OUTCOMES
            check(one)
    elif key == "state":
        assert value in STATES
    elif key == "outcome":
        assert value in OUTCOMES
    elif isinstance(value, str) and (key, value) != ("event", "submitted"):
        check_text(value)


def test_the_list_of_jobs(seen: Surfaces) -> None:
    text = seen.run("list")
    check_text(text)
    shown = dict(line.split()[:2] for line in text.splitlines()[1:])
    listed = json.loads(seen.run("list", "--json"))
    check(listed)
    rows = seen.flower.json("/api/jobs")
    check(rows)
    page = json.loads(seen.flower.ask("/jobs").data.split(b'id="data">')[1].split(b"</script>")[0])
    check(page)
    expected = {job: "failed" if state == "died" else state for state, job in seen.jobs.items()}
    assert shown == expected
    for found in (listed, rows["jobs"], page["jobs"], seen.flower.json("/jobs/data")["jobs"]):
        assert {one["job"]: one["state"] for one in found} == expected


@pytest.mark.parametrize(
    ("word", "state"), [(state, state) for state in STATES] + [("submitted", "queued"), ("done", "succeeded")]
)
def test_a_state_that_a_user_types(seen: Surfaces, word: str, state: str) -> None:
    wanted = {seen.jobs[state]} | ({seen.jobs["died"]} if state == "failed" else set())
    assert {one["job"] for one in json.loads(seen.run("list", "--state", word, "--json"))} == wanted
    assert {row["job"] for row in seen.flower.json(f"/api/jobs?state={word}")["jobs"]} == wanted


def test_help_and_refusals_name_the_five(seen: Surfaces) -> None:
    offered = f"[{'|'.join((*STATES, 'unknown'))}]"
    assert offered in re.sub(r"\s+", "", seen.run("list", "--help"))
    refused = command("list", "--state", "pending", env=seen.env)
    assert refused.returncode == 2
    assert all(state in refused.stderr for state in STATES)


@pytest.mark.parametrize("state", [*STATES, "died"])
def test_one_job(seen: Surfaces, state: str) -> None:
    job, called = seen.jobs[state], "failed" if state == "died" else state
    text = seen.run("status", job)
    check_text(text)
    assert text.split()[1].rstrip(",") == called
    read: list[Callable[[], Any]] = [
        lambda: json.loads(seen.run("status", job, "--json"))["overview"],
        lambda: seen.flower.json(f"/api/jobs/{job}")["overview"],
        lambda: seen.flower.json(f"/jobs/{job}/data")["overview"],
        lambda: json.loads(seen.flower.ask(f"/jobs/{job}").data.split(b'id="data">')[1].split(b"</script>")[0])[
            "overview"
        ],
    ]
    for one in read:
        found = one()
        check(found)
        assert found["state"] == called
    stages = [stage["state"] for stage in found["stages"]]
    assert (
        stages
        == {
            "queued": ["queued", "queued"],
            "running": ["running", "queued"],
            "succeeded": ["succeeded", "succeeded"],
            "failed": ["failed", "cancelled"],
            "cancelled": ["cancelled", "cancelled"],
        }[called]
    )
    outcomes = {attempt[2] for stage in found["stages"] for attempt in stage["attempts"]}
    assert outcomes == {
        "queued": set(),
        "running": {"running", "succeeded"},
        "died": {"killed", "failed"},  # the last attempt gives up without running
        "cancelled": {"succeeded", "cancelled"},
    }.get(state, {called})
    if state not in ("queued", "cancelled"):  # a queued job has no logs; a cancelled one's are removed
        check_text(seen.run("logs", job))


@pytest.mark.parametrize("state", [*STATES, "died"])
def test_the_api_of_python(seen: Surfaces, state: str) -> None:
    called = "failed" if state == "died" else state
    with seen.attach(seen.jobs[state]) as handle:
        status = handle.status()
        assert status.state == handle.overview().state == handle.glance().state == called
        check(json.loads(json.dumps({"stages": [vars(stage) for stage in status.stages], "message": status.message})))


def test_the_job_store(seen: Surfaces) -> None:
    store = RedisJobStore(seen.settings["broker"])
    try:
        for state, job in seen.jobs.items():
            fields, sums = store.head(job)
            assert fields["state"] == ("failed" if state == "died" else state)
            names = [name.partition(".")[2].partition(".")[2] for name in sums]
            assert [name for name in names if OTHER.search(name)] == []
            for table in ("attempts.0.map", "attempts.0.reduce"):
                assert {json.loads(text)[2] for text in store.marks(job, table).values()} <= set(OUTCOMES)
        totals = store.totals()
        assert [name for name in totals if OTHER.search(name)] == ["jobs.submitted"]
        assert {name.partition(".")[2] for name in totals if name.startswith("jobs.")} <= {*STATES, "submitted"}
    finally:
        store.close()


def test_events(seen: Surfaces) -> None:
    for state, told in seen.events.items():
        for event in told:
            check(event)
        kinds = [event["event"] for event in told if event["event"] != "progress"]
        assert (kinds[0], kinds[-1]) == ("submitted", "failed" if state == "died" else state)
    kinds = [event["event"] for event in seen.events["succeeded"] if event["event"] != "progress"]
    assert kinds == ["submitted", *["stage_started", "stage_succeeded"] * 2, "succeeded"]
    for state in ("queued", "running", "cancelled"):
        ran = command("wait", seen.jobs[state], "--json", "--timeout", "1", env=seen.env)
        told = [json.loads(line) for line in ran.stdout.splitlines()]
        for event in told:
            check(event)
        assert told[0]["state"] == state


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "died"])
def test_what_an_ended_job_leaves_in_storage(seen: Surfaces, state: str) -> None:
    job = seen.jobs[state]
    folder = Path(seen.settings["storage"])
    report = folder / object_keys.report(job)
    eventually(report.exists, "the report is there")
    found = json.loads(report.read_bytes())
    check(found)
    assert found["state"] == ("failed" if state == "died" else state)
    page = report.with_suffix(".html")
    eventually(page.exists, "its page is there")
    check(json.loads(page.read_text().split('id="data">')[1].split("</script>")[0]))


def test_metrics(seen: Surfaces) -> None:
    from mrcelery.web.metrics import register

    registry = CollectorRegistry()
    collector = register(seen.settings["broker"], "q", registry=registry)
    text = generate_latest(registry).decode()
    collector.close()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    words = re.findall(r'\b(?:state|outcome)="([^"]*)"', "\n".join(samples))
    assert set(words) <= {*STATES, *OUTCOMES, "started"}
    found = dict(line.rsplit(" ", 1) for line in samples)
    for state, number in (("queued", 1), ("running", 1)):
        assert float(found[f'mrcelery_jobs{{state="{state}"}}']) == number
    for state, number in (("succeeded", 1), ("failed", 2), ("cancelled", 1)):
        assert float(found[f'mrcelery_jobs_ended_total{{state="{state}"}}']) == number
    for state, number in (("queued", 0), ("running", 2), ("succeeded", 1)):
        assert float(found[f'mrcelery_tasks{{stage="map",state="{state}"}}']) == number
    names = {line.partition("{")[0].partition(" ")[0] for line in samples}
    assert {name for name in names if OTHER.search(name.replace("_", " "))} == {"mrcelery_jobs_submitted_total"}
