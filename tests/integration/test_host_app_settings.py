"""Settings of a host app: with each a job runs to its end, or it is refused in a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import mrcelery
from mrcelery.errors import ConfigError, JobFailedError
from tests.support.services import Quiet, Worker, environment, results

JobFile = Callable[..., str]

APP = """
    import mrcelery
    from celery import Celery

    app = Celery("shop", broker="{url}", backend="{url}")
    app.conf.broker_transport_options = mrcelery.transport_options(4)
    app.conf.worker_concurrency = 1
    {before}
    mrcelery.install(app)
    {after}
"""

SLOW = """
    import time
    from mrcelery import MRJob

    class Slow(MRJob):
        def mapper(self, _, line):
            time.sleep(0.8)
            yield line, 1

        def reducer(self, line, counts):
            yield line, sum(counts)
"""

LIMITS = "app.conf.update(task_time_limit=1, task_soft_time_limit=0.5)"

WORKS = {
    "time limits": LIMITS,
    "annotated limits": "app.conf.task_annotations = {'*': {'time_limit': 1, 'soft_time_limit': 1}}",
    "rate limit": "app.conf.task_default_rate_limit = '1/h'",
    "annotated rate limit": "app.conf.task_annotations = [{'mrcelery.map': {'rate_limit': '1/h'}}]",
    "pickle": "app.conf.update(task_serializer='pickle', accept_content=['json', 'pickle'])",
    "yaml": "app.conf.task_serializer = 'yaml'",
    "content type": "app.conf.accept_content = ['application/json']",
    "compression": "app.conf.task_compression = 'gzip'",
    "priority": "app.conf.task_default_priority = 6",
    "eager acks": "app.conf.update(task_acks_late=False, task_acks_on_failure_or_timeout=False)",
    "started": "app.conf.update(task_track_started=True, task_store_errors_even_if_ignored=True)",
    "a process per task": "app.conf.worker_max_tasks_per_child = 1",
    "prefetch": "app.conf.worker_prefetch_multiplier = 0",
    "no pool of connections": "app.conf.broker_pool_limit = 0",
    "local time": "app.conf.update(enable_utc=False, timezone='Asia/Kolkata')",
    "solo": "app.conf.worker_pool = 'solo'",
    "routes": "app.conf.task_routes = {'*': {'queue': 'elsewhere', 'priority': 3}}",
}

REFUSED = {
    "pickle only": ("accept_content=['pickle']", r"accept_content is \['pickle'\], without json, .*: add it"),
    "pickled results": ("result_serializer='pickle'", "result_accept_content is .*, without pickle"),
    "no backend": ("result_backend=None", "Redis as the app's result backend, .* none is set"),
    "rpc": ("result_backend='rpc://'", r"'rpc://' cannot: set result_backend"),
    "a database": ("result_backend='db+sqlite:///results.db'", "'db.sqlite:///results.db' cannot"),
    "memory": ("broker_url='memory://'", "needs Redis as the app's broker, .* not memory"),
    "two brokers": ("broker_write_url='redis://elsewhere'", "reads from one broker and writes to another"),
    "eager": ("task_always_eager=True", "task_always_eager runs tasks where they are sent from"),
    "protocol 1": ("task_protocol=1", "task_protocol is 1"),
    "no plain priority": ("broker_transport_options={'priority_steps': [3, 6]}", r"priority_steps \[3, 6\]"),
    "no lease": ("broker_transport_options={'visibility_timeout': 0}", "visibility_timeout is 0 s"),
    "prefix": ("broker_transport_options={'global_keyprefix': 'shop:'}", "global_keyprefix"),
}


def start(folder: Path, queue: str, *extra: str) -> Worker:
    # C_FORCE_ROOT: else Celery runs no worker that accepts pickle, where tests run as root.
    command = [sys.executable, "-m", "celery", "-A", "shop_app", "worker", "-Q", queue, "-n", f"{queue}@here", *extra]
    env = environment(
        C_FORCE_ROOT="1", MRCELERY_SCRATCH=str(folder / "scratch"), TMPDIR=str(folder), PYTHONPATH=str(folder)
    )
    return Worker([*command, "--without-mingle", "--without-gossip"], folder / "worker.log", env=env, cwd=folder)


def run(quiet: Quiet, source: str, folder: Path, *extra: str) -> dict[Any, Any]:
    (folder / "in.txt").write_text("a\nb\na\n")
    worker = start(folder, quiet.name, *extra)
    try:
        with mrcelery.submit(source, str(folder / "in.txt"), split_size=4, reducers=1, **quiet.settings) as job:
            job.wait(60)
            assert worker.process.poll() is None
            return results(job)
    finally:
        worker.stop()
        print(worker.log.read_text())


@pytest.mark.parametrize("name", WORKS)
def test_a_job_runs_whatever_the_app_sets_for_its_own_tasks(
    name: str, quiet: Quiet, job_file: JobFile, tmp_path: Path
) -> None:
    job_file(APP.format(url=quiet.server.tcp_url, before=WORKS[name], after=""), "shop_app.py")
    assert run(quiet, job_file(SLOW), tmp_path) == {"a": 2, "b": 1}


def test_what_is_set_after_the_installation_or_by_the_command_line(
    quiet: Quiet, job_file: JobFile, tmp_path: Path
) -> None:
    job_file(APP.format(url=quiet.server.tcp_url, before="", after=LIMITS), "shop_app.py")
    assert run(quiet, job_file(SLOW), tmp_path, "--time-limit", "1", "--soft-time-limit", "0.5") == {"a": 2, "b": 1}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused(name: str, quiet: Quiet) -> None:
    setting, message = REFUSED[name]
    url = quiet.server.tcp_url
    with Celery("shop", broker=url, backend=url, set_as_current=False) as app:
        app.conf.update(eval(f"dict({setting})"))
        with pytest.raises(ConfigError, match=message):
            mrcelery.install(app)


def test_a_worker_does_not_start_with_what_cannot_work(quiet: Quiet, job_file: JobFile, tmp_path: Path) -> None:
    late = "app.conf.accept_content = ['pickle']"
    job_file(APP.format(url=quiet.server.tcp_url, before="", after=late), "shop_app.py")
    worker = start(tmp_path, quiet.name)
    try:
        assert worker.process.wait(60) == 1
    finally:
        worker.stop()
    said = worker.log.read_text()
    assert "mrcelery: the app's accept_content is ['pickle'], without json" in said
    assert "Traceback" not in said


def test_a_job_that_a_task_waits_for_says_that_it_waits_for_itself(
    quiet: Quiet, job_file: JobFile, word_count: str, tmp_path: Path
) -> None:
    inner = {**quiet.settings, "runner": "celery"}
    outer = job_file(
        f"""
        import mrcelery
        from mrcelery import MRJob

        class Outer(MRJob):
            def mapper(self, _, line):
                mrcelery.run({word_count!r}, {str(tmp_path / "in.txt")!r}, **{inner!r})
                yield line, 1
        """
    )
    job_file(APP.format(url=quiet.server.tcp_url, before="", after=""), "shop_app.py")
    with pytest.raises(JobFailedError, match=r"cannot run, as the only process of the only worker .*--concurrency 2"):
        run(quiet, outer, tmp_path)
