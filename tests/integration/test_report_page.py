"""A job leaves report.html next to report.json, however it ended, and ``mrcelery report`` writes it to a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.schema import object_keys
from tests.support.services import Fleet, command, eventually

JobFile = Callable[..., str]

FAILING = """
    from mrcelery import MRJob

    class Failing(MRJob):
        def mapper(self, _, line):
            print("said before")
            raise ValueError("of no use")
"""

ENDLESS = """
    import time
    from mrcelery import MRJob

    class Endless(MRJob):
        def mapper(self, _, line):
            while True:
                yield "waiting", 0
                time.sleep(0.01)
"""


COUNTING = """
    import os, time
    from mrcelery import MRJob

    class Counting(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--go")
            self.add_passthru_arg("--then", default="fail")

        def mapper(self, _, line):
            self.increment_counter("lines", line)
            yield line, 1

        def reducer(self, key, values):
            while not os.path.exists(self.options.go):
                yield "waiting", 0
                time.sleep(0.01)
            raise ValueError("of no use")
"""


def told(page: bytes) -> Any:
    data = page.split(b'<script type="application/json" id="data">')[1].split(b"</script>")[0]
    return json.loads(data)


def reports(handle: mrcelery.JobHandle) -> tuple[Any, Any]:
    """Return the data of the report page and of report.json."""
    storage = handle.open_storage()
    page, record = object_keys.report_page(handle.id), object_keys.report(handle.id)
    return told(storage.read(page)), json.loads(storage.read(record))


@pytest.mark.parametrize("runner", ["inline", "local"])
def test_of_a_job_that_succeeded(runner: str, word_count: str, text: Path, tmp_path: Path) -> None:
    with mrcelery.run(word_count, str(text), runner=runner, storage=str(tmp_path / "storage")) as handle:
        page, record = reports(handle)
        assert page["overview"] == record["overview"]
        assert page["overview"]["state"] == "succeeded"
        assert page["live"] is None


def test_of_a_job_that_failed_with_its_log(fleet: Fleet, job_file: JobFile, text: Path) -> None:
    with mrcelery.submit(job_file(FAILING), str(text), **fleet.settings) as handle:
        with pytest.raises(mrcelery.JobFailedError):
            handle.wait(60)
        storage, key = handle.open_storage(), object_keys.report(handle.id)
        eventually(lambda: storage.stat(key) is not None, "its report is there")
        page, record = reports(handle)
        assert page["overview"]["failure"]["message"] == "ValueError: of no use"
        assert record["state"] == page["overview"]["state"] == "failed"
        assert list(page["evidence"]["logs"].values()) == ["said before\n"]
        handle.retry()
        with pytest.raises(mrcelery.JobFailedError):
            handle.wait(60)


def test_of_a_job_that_was_cancelled(fleet: Fleet, job_file: JobFile, text: Path) -> None:
    with mrcelery.submit(job_file(ENDLESS), str(text), **fleet.settings) as handle:
        eventually(lambda: handle.status().stages, "it runs")
        handle.cancel()
        storage, key = handle.open_storage(), object_keys.report(handle.id)
        eventually(lambda: storage.stat(key) is not None, "its report is there")
        page, _ = reports(handle)
        assert page["overview"]["state"] == "cancelled"


def seen_by_all(handle: mrcelery.JobHandle) -> dict[str, Any]:
    """Return the counters; check that page, report, overview and a client without the job store have the same."""
    page, record = reports(handle)
    job, storage = handle.id, record["overview"]["storage"]
    forgotten = mrcelery.attach(job, storage=storage, broker="", runner="inline")
    found = [page["overview"]["counters"], record["counters"], handle.overview().counters, handle.glance().counters]
    for other in (handle.counters(), forgotten.counters(), *found):
        assert other == found[0]
    requests = [record["overview"]["requests"], record["totals"]["requests"], forgotten.requests()]
    for other in requests:
        assert other == handle.requests()
    return dict(found[0])


@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.parametrize("stage", ["map", "reduce"])
def test_counters_of_a_job_that_did_not_succeed(
    fleet: Fleet, job_file: JobFile, tmp_path: Path, bucket: str, state: str, stage: str
) -> None:
    """The job runs on S3, so that requests are counted too."""
    source = COUNTING
    if stage == "map":  # the first map tasks commit, the last one waits
        wait = 'while line == "c" and not os.path.exists(self.options.go):'
        body = f'{wait}\n                yield "waiting", 0\n                time.sleep(0.01)\n            '
        body += 'if line == "c":\n                raise ValueError("of no use")\n            '
        source = source.replace("self.increment_counter(", body + "self.increment_counter(", 1)
    (tmp_path / "in.txt").write_text("a\nb\nc\n")
    settings = {**fleet.settings, "storage": f"s3://{bucket}/counted-{state}-{stage}", "split_size": 2}
    args = ["--go", str(tmp_path / "go")]
    with mrcelery.submit(job_file(source), str(tmp_path / "in.txt"), args=args, max_attempts=1, **settings) as handle:
        maps = 2 if stage == "map" else 3
        eventually(lambda: [s.succeeded for s in handle.glance().stages[:1]] == [maps], "map tasks have committed")
        if state == "failed":
            (tmp_path / "go").touch()
            with pytest.raises(mrcelery.JobFailedError):
                handle.wait(60)
        else:
            handle.cancel()
        storage, key = handle.open_storage(), object_keys.report(handle.id)
        eventually(lambda: storage.stat(key) is not None, "its report is there")
        if state == "cancelled":
            assert handle.runner is not None
            store = handle.runner.store
            eventually(lambda: "cleaned" in store.fields(handle.id), "its data is removed")
            eventually(lambda: reports(handle)[1]["counters"] == handle.counters(), "its last report is written")
        counted = seen_by_all(handle)
        assert counted["lines"] == {"a": 1, "b": 1, **({} if stage == "map" else {"c": 1})}
        assert handle.requests()["GET"] > 0
        assert handle.status().stages[0].succeeded == maps


def test_the_command(fleet: Fleet, word_count: str, text: Path, tmp_path: Path) -> None:
    with mrcelery.run(word_count, str(text), **fleet.settings) as handle:
        job = handle.id
    done = command("report", job, env=fleet.env, cwd=tmp_path)
    assert done.stdout == f"{tmp_path / job}.html\n", done.stderr
    page = (tmp_path / f"{job}.html").read_bytes()
    assert told(page)["overview"]["job"] == job
    done = command("report", job, "-o", "-", env=fleet.env)
    assert told(done.stdout.encode())["overview"]["job"] == job
    done = command("report", job, "--json", env=fleet.env)
    assert json.loads(done.stdout)["overview"]["job"] == job
    # From storage alone, without the broker.
    kept = {name: value for name, value in fleet.env.items() if name != "MRCELERY_BROKER"}
    done = command("report", job, "-o", str(tmp_path / "again.html"), env=kept)
    assert done.returncode == 0, done.stderr
    assert told((tmp_path / "again.html").read_bytes())["overview"]["stages"] == told(page)["overview"]["stages"]


def test_the_command_shows_the_page(fleet: Fleet, word_count: str, text: Path, tmp_path: Path) -> None:
    with mrcelery.run(word_count, str(text), **fleet.settings) as handle:
        job = handle.id
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    browser.chmod(0o755)
    for name in ("xdg-open", "open"):
        os.symlink(browser, tmp_path / name)
    env = {**fleet.env, "PATH": f"{tmp_path}:{fleet.env['PATH']}"}
    done = command("report", job, "-o", "page.html", "--open", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    eventually(seen.exists, "the browser was started")
    assert seen.read_text().strip().endswith("page.html")


def test_what_the_command_refuses(fleet: Fleet, word_count: str, text: Path, tmp_path: Path) -> None:
    assert "is not known here" in command("report", "none", env=fleet.env).stderr
    with mrcelery.run(word_count, str(text), **fleet.settings) as handle:
        job = handle.id
    for args, words in (
        (["--open", "--json"], "--open needs a file"),
        (["-o", str(tmp_path / "no" / "where.html")], "cannot write"),
    ):
        done = command("report", job, *args, env=fleet.env)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
