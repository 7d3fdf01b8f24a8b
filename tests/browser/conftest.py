"""Headless Chromium, and a fleet with a Flower and jobs of all states to look at."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery

sys.path.insert(0, str(Path(__file__).parent.parent))
from flower_process import LOGIN, Flower, flower
from services import redis_server, workers

NAME = "Count <script>window.broken = 1</script>"

JOB = """
    import os, time
    from mrcelery import MRJob

    class Look(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--gate")
            self.add_passthru_arg("--mode", default="fine")

        def mapper(self, _, line):
            print("looking at", line)
            if self.options.mode == "raise":
                raise ValueError(f"<b>no</b> {line}")
            if self.options.mode == "die":
                os._exit(7)
            while self.options.gate and not os.path.exists(self.options.gate):
                yield "waiting", 0
                time.sleep(0.01)
            for word in line.split():
                yield word, 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


@pytest.fixture(scope="session", autouse=True)
def no_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for name in os.environ:
        if name.startswith(("MRCELERY_", "CELERY_", "FLOWER_")):
            patch.delenv(name)
    patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that lives for the session; each test has it without what another left."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is missing")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium or chromedriver is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_page_load_timeout(60)
    yield browser
    browser.quit()


@dataclass
class Site:
    """Where the pages are, and the ids of jobs in each state."""

    flower: Flower
    settings: dict[str, Any]
    job: str
    text: str
    jobs: dict[str, str]

    def url(self, path: str) -> str:
        return self.flower.base.replace("http://", f"http://{LOGIN}@") + path

    def submit(self, mode: str = "fine", gate: str = "", **more: Any) -> mrcelery.JobHandle:
        args = ["--mode", mode, *(["--gate", gate] if gate else [])]
        return mrcelery.submit(self.job, self.text, args=args, **{**self.settings, **more})


@pytest.fixture(scope="session")
def site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "look.py").write_text(dedent(JOB))
    (folder / "text").write_text("a rose is a rose is a rose and nothing else than a rose\n" * 40)
    storage = str(folder / "storage")
    with redis_server() as server, workers(folder, server.tcp_url, queue="browser"):
        settings = {"runner": "celery", "broker": server.tcp_url, "storage": storage, "queue": "browser"}
        settings |= {"split_size": 400, "reducers": 3, "max_attempts": 2}
        with flower(folder, server.tcp_url, MRCELERY_STORAGE=storage) as started:
            found = Site(started, settings, str(folder / "look.py"), str(folder / "text"), {})
            for state, more in (
                ("done", {"name": NAME}),
                ("failed", {"mode": "raise", "name": "Fails"}),
                ("died", {"mode": "die", "name": "Dies"}),
                ("cancelled", {"gate": str(folder / "never"), "name": "Stopped"}),
                ("queued", {"queue": "nobody", "name": "Waits"}),
            ):
                with found.submit(**more) as handle:
                    found.jobs[state] = handle.id
                    if state == "cancelled":
                        handle.cancel()
                    elif state in ("failed", "died"):
                        with pytest.raises(mrcelery.JobFailedError):
                            handle.wait(60)
                    elif state == "done":
                        handle.wait(60)
            yield found
