"""The pages as a person sees them, in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery import layout
from mrcelery.journal import Entry
from mrcelery.overview import Overview, StageView
from mrcelery.page import job_page
from tests.support.flower_site import NAME, Site
from tests.support.services import eventually

LAPTOP, PHONE = (1280, 800), (390, 844)


class Page:
    """What a test asks of the page that is open."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def open(self, url: str, size: tuple[int, int] = LAPTOP) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.browser.get(url)
        eventually(lambda: self.all("h1"), "the page is drawn")

    def run(self, script: str, *args: Any) -> Any:
        return self.browser.execute_script(script, *args)

    def all(self, selector: str) -> list[str]:
        """The texts of elements."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)", selector
        )
        return found

    def text(self, selector: str = "body") -> str:
        return "\n".join(self.all(selector))

    def click(self, selector: str, text: str = "") -> None:
        assert self.click_if_there(selector, text), f"no {selector} with {text!r}: {self.all(selector)}"

    def click_if_there(self, selector: str, text: str = "") -> bool:
        """Whether there was such an element, which was then clicked: looked for and clicked in one go."""
        # Later, since a click that asks something would wait for the answer.
        clicked: bool = self.run(
            "const all = [...document.querySelectorAll(arguments[0])];"
            "const found = all.find((one) => one.innerText.includes(arguments[1]));"
            "if (found) setTimeout(() => found.click()); return Boolean(found)",
            selector,
            text,
        )
        return clicked

    def press(self, selector: str) -> None:
        """Move the mouse to an element and press its button, until :meth:`release`."""
        x, y = self.run(
            "const found = document.querySelector(arguments[0]); found.scrollIntoView({ block: 'center' });"
            "const box = found.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]",
            selector,
        )
        self._mouse("move_to_location", int(x), int(y))
        self._mouse("pointer_down")

    def release(self) -> None:
        self._mouse("pointer_up")

    def _mouse(self, what: str, *args: int) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder

        actions = ActionBuilder(self.browser, duration=0)
        getattr(actions.pointer_action, what)(*args)
        actions.perform()

    def asked(self) -> int:
        """How often the page has asked how its job stands, and was answered."""
        script = "return performance.getEntriesByType('resource').filter((one) => one.name.includes('/data')).length"
        found: int = self.run(script)
        return found

    def looks_again(self) -> None:
        """Wait until what the page was told since this call must have been drawn, if it is to be."""
        before = self.asked()
        eventually(lambda: self.asked() >= before + 2, "the page asks twice")

    def confirm(self, yes: bool) -> None:
        """Answer what the page asks."""
        from selenium.webdriver.support.expected_conditions import alert_is_present

        alert = eventually(lambda: alert_is_present()(self.browser), "the page asks")
        if yes:
            alert.accept()
        else:
            alert.dismiss()

    def errors(self) -> list[str]:
        """What the console has complained of since it was last asked."""
        return [one["message"] for one in self.browser.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]


@pytest.fixture
def page(chromium: Any) -> Iterator[Page]:
    page = Page(chromium)
    yield page
    errors = [one for one in page.errors() if "favicon.ico" not in one]
    assert errors == []
    assert page.run("return window.broken") is None, "a job's name ran as a script"
    chromium.get("about:blank")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def test_the_list_tells_states_apart_and_filters(site: Site, page: Page) -> None:
    page.open(site.url("/jobs"))
    states = dict(zip(page.all(".jobs .id b"), page.all(".jobs .badge"), strict=True))
    wanted = {
        NAME: "✓ succeeded",
        "Fails": "✕ failed",
        "Dies": "✕ failed",
        "Stopped": "■ cancelled",
        "Waits": "◷ queued",
    }
    assert {name: states[name] for name in wanted} == wanted
    page.click(".chip", "failed")
    assert sorted(page.all(".jobs .id b")) == ["Dies", "Fails"]
    page.click(".chip", "all")
    page.click(".button", "Look for older jobs in storage")
    eventually(lambda: "Storage has no other jobs" in page.text("main"), "storage was asked")
    page.run(
        "const box = document.querySelector('input'); box.value = 'count <script>';"
        "box.dispatchEvent(new Event('input'))"
    )
    assert page.all(".jobs .id b") == [NAME]
    page.click(".jobs a")
    eventually(lambda: page.all("h1") == [NAME], "the job's page is there")


def test_why_a_job_failed_comes_first(site: Site, page: Page) -> None:
    page.open(site.url(f"/jobs/{site.jobs['failed']}"))
    assert page.text(".verdict").startswith("Failed in the job's code in map task")
    first, *_ = page.all("h2")
    assert first == "Why it failed"
    assert "ValueError: <b>no</b> a rose" in page.text("#failure pre")
    page.click("#failure .button", "Show its log")
    eventually(lambda: "looking at a rose" in page.text("#failure"), "the log is shown")
    assert f"mrcelery retry {site.jobs['failed']}" in page.text(".commands")
    assert page.all("#retry") == ["Retry job"]
    assert page.all(".stage .badge")[0] == "✕ failed"


def test_a_process_that_died(site: Site, page: Page) -> None:
    page.open(site.url(f"/jobs/{site.jobs['died']}"))
    assert page.text(".verdict").startswith("Failed because a process died again and again in map task")
    assert "✕ killed" in page.all("#attempts .badge")
    page.click("#attempts button.row")
    assert "attempt" in page.text("#attempts .detail")


def test_queued_cancelled_succeeded(site: Site, page: Page) -> None:
    page.open(site.url(f"/jobs/{site.jobs['queued']}"))
    wanted = "Queued: no worker listens on queue nobody. Start one with mrcelery worker --queue nobody"
    assert page.text(".verdict") == wanted
    page.open(site.url(f"/jobs/{site.jobs['cancelled']}"))
    assert page.text(".verdict").startswith("Cancelled")
    page.open(site.url(f"/jobs/{site.jobs['succeeded']}"))
    assert page.text(".verdict").startswith("Succeeded in")
    assert page.all(".stage .badge") == ["✓ succeeded", "✓ succeeded"]
    titles = page.run("return [...document.querySelectorAll('h2')].map((one) => one.firstChild.data)")
    assert titles == ["Next", "Stages", "Timeline", "Partitions", "Counters", "Attempts"]


def test_a_running_job_is_followed_to_its_end(site: Site, page: Page, gate: Path) -> None:
    with site.submit(gate=str(gate), name="Runs") as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        page.open(site.url(f"/jobs/{handle.id}"))
        eventually(lambda: page.text(".verdict").startswith("Running: map, 0 of"), "it is seen to run")
        eventually(lambda: "Running now" in page.all("h2"), "its tasks tell of themselves")
        assert page.run("return document.title").startswith("running")
        gate.touch()
        eventually(lambda: page.text(".verdict").startswith("Succeeded in"), "its end is seen")
        eventually(lambda: "running" not in page.text("#attempts"), "all its attempts have ended")
        assert page.run("return document.title").startswith("succeeded")
        assert page.all("#cancel") == []


def test_a_page_that_is_not_seen_asks_for_nothing(site: Site, page: Page, gate: Path) -> None:
    asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/data')).length"
    with site.submit(gate=str(gate), name="Unseen") as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        page.open(site.url(f"/jobs/{handle.id}"))
        eventually(lambda: page.run(f"return {asked}") > 0, "the page asks")
        page.run(f"window.counts = [];document.addEventListener('visibilitychange', () => window.counts.push({asked}))")
        first = page.browser.current_window_handle
        page.browser.switch_to.new_window("tab")
        page.open(site.url(f"/jobs/{handle.id}"))
        eventually(lambda: page.run(f"return {asked}") > 3, "the other page asks, which is seen")
        page.browser.close()
        page.browser.switch_to.window(first)
        eventually(lambda: len(page.run("return window.counts")) == 2, "it is seen again")
        hidden, shown = page.run("return window.counts")
        assert shown - hidden <= 1  # one may have been on its way
        gate.touch()
        eventually(lambda: page.text(".verdict").startswith("Succeeded in"), "it goes on to ask")


def test_cancel_and_retry(site: Site, page: Page, gate: Path) -> None:
    with site.submit(gate=str(gate), name="Stop me") as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        page.open(site.url(f"/jobs/{handle.id}"))
        page.click("#cancel")
        page.confirm(False)
        assert handle.status().state == "running"
        page.click("#cancel")
        page.confirm(True)
        eventually(lambda: page.text(".verdict").startswith("Cancelled"), "it is cancelled")
        assert handle.status().state == "cancelled"
        gate.touch()

        def retried() -> bool:
            """Not before what is left of it has gone."""
            if page.click_if_there("#retry:not([disabled])"):
                page.confirm(True)
            return handle.status().state != "cancelled"

        eventually(retried, "it is tried again")
        handle.wait(60)
        page.errors()  # of answers that it could not be retried yet


def test_a_click_is_not_lost_while_the_page_is_drawn_again(site: Site, page: Page, gate: Path) -> None:
    with site.submit(gate=str(gate), name="Hold me") as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        page.open(site.url(f"/jobs/{handle.id}"))
        eventually(lambda: page.all("#attempts button.row"), "its attempts are listed")
        page.press("#attempts button.row")
        page.looks_again()
        page.release()
        eventually(lambda: page.all("#attempts .detail"), "the attempt is opened")
        page.press("#cancel")
        page.looks_again()
        page.release()
        page.confirm(False)
        assert handle.status().state == "running"
        # Nor does the keyboard lose its place when all around it is drawn again.
        page.run("document.querySelector('#cancel').focus(); document.querySelector('.verdict').id = 'old'")
        eventually(lambda: not page.all("#old"), "the header is drawn again")
        assert page.run("return document.activeElement.id") == "cancel"
        gate.touch()
        handle.wait(60)


def test_attempts_are_sorted_filtered_and_opened(site: Site, page: Page) -> None:
    page.open(site.url(f"/jobs/{site.jobs['succeeded']}"))
    tasks = page.all("#attempts tbody .row")
    assert sum("reduce" in one for one in tasks) == 3
    page.click("#attempts th button", "Task")
    page.click("#attempts th button", "Task")
    assert page.all("#attempts tbody .row")[0] == "▸ map 0"
    page.run(
        "const box = document.querySelector('#attempts input'); box.value = 'reduce 1';"
        "box.dispatchEvent(new Event('input'))"
    )
    assert page.all("#attempts tbody .row") == ["▸ reduce 1"]
    page.run(
        "const box = document.querySelector('#attempts input'); box.value = 'map 0';"
        "box.dispatchEvent(new Event('input'))"
    )
    page.click("#attempts button.row")
    page.click("#attempts .detail .button", "Show its log")
    eventually(lambda: "looking at a rose" in page.text("#attempts .detail pre"), "its log")


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off(site: Site, page: Page, size: tuple[int, int], scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for path in ("/jobs", *(f"/jobs/{job}" for job in site.jobs.values())):
        page.open(site.url(path), size)
        assert page.run("return document.documentElement.scrollWidth") <= size[0], path
        light = page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"
        assert light == (scheme == "light")


def test_a_report_is_the_same_page_and_needs_nobody(site: Site, page: Page) -> None:
    job = site.jobs["failed"]
    page.open(site.url(f"/jobs/{job}"))
    live = page.all("h2")
    page.open(f"file://{site.settings['storage']}/{layout.report_page(job)}")
    assert page.all("h2") == live
    assert "looking at a rose" in page.text("#failure")
    assert page.all(".actions button") == []
    assert page.run("return performance.getEntriesByType('resource').length") == 0


def test_no_other_script_runs(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "evil.html"
    evil = b"<script>window.broken = 1</script><img src=x onerror='window.broken = 2'></body>"
    file.write_bytes(job_page(big(lambda n: "succeeded")).replace(b"</body>", evil))
    page.open(f"file://{file}")
    assert page.run("return window.broken") is None
    assert any("Content Security Policy" in one for one in page.errors())


def big(outcome: Callable[[int], Any]) -> Overview:
    began, number = 1.7e9, 10_000
    ended = began + 35
    rows = tuple(
        Entry(n, f"1-{n:06x}", outcome(n), f"node-{n % 40}@batch {n % 320}", began + n / 320, 1 + n % 3, 1000, 900)
        for n in range(number)
    )
    stage = StageView(
        step=0, kind="map", state="succeeded", tasks=number, succeeded=number, entered=began, ended=ended, attempts=rows
    )  # fmt: skip
    return Overview(
        job="big-1", state="succeeded", now=ended, created=began, started=began, finished=ended, stages=(stage,)
    )


def test_ten_thousand_attempts(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "big.html"
    file.write_bytes(job_page(big(lambda n: "failed" if n == 9_999 else "succeeded")))
    page.open(f"file://{file}")
    assert "10,000 attempts, 40 workers" in page.text("h2")
    assert len(page.all("#attempts tbody .row")) == 100
    page.click(".chip", "problems")
    assert page.all("#attempts tbody .row") == ["▸ map 9999"]
    drawn = page.run(
        "const canvas = document.querySelector('canvas');"
        "const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let ink = 0; for (let i = 3; i < all.length; i += 4) ink += all[i] > 200; return ink / (all.length / 4)"
    )
    assert drawn > 0.3
