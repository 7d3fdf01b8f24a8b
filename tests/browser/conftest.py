"""Headless Chromium, and a fleet with a Flower and jobs of all states to look at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from tests.support.flower_process import flower
from tests.support.flower_site import JOB, NAME, Site
from tests.support.services import redis_server, workers


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


@pytest.fixture(scope="session")
def site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "look.py").write_text(dedent(JOB))
    (folder / "text").write_text("a rose is a rose is a rose and nothing else than a rose\n" * 40)
    storage = str(folder / "storage")
    with redis_server() as server, workers(folder, server.tcp_url, queue="browser"):
        settings: dict[str, Any] = {
            "runner": "celery",
            "broker": server.tcp_url,
            "storage": storage,
            "queue": "browser",
        }
        settings |= {"split_size": 400, "reducers": 3, "max_attempts": 2}
        with flower(folder, server.tcp_url, MRCELERY_STORAGE=storage) as started:
            found = Site(started, settings, str(folder / "look.py"), str(folder / "text"), {})
            for state, more in (
                ("succeeded", {"name": NAME}),
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
                    elif state == "succeeded":
                        handle.wait(60)
            yield found
