"""The pages as a user sees them, in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery.jobstore.journal import Entry
from mrcelery.reporting.overview import Overview, StageView
from mrcelery.reporting.page import job_page
from mrcelery.schema import object_keys
from tests.support.flower_site import NAME, Site
from tests.support.services import eventually

LAPTOP, PHONE = (1280, 800), (390, 844)


class Page:
    """The open page, as a test sees it."""

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
        """Return the texts of elements."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)", selector
        )
        return found

    def text(self, selector: str = "body") -> str:
        return "\n".join(self.all(selector))

    def click(self, selector: str, text: str = "", asks: bool = False) -> None:
        """Find and click in one step; ``asks``: the click opens a dialog, whose answer the script would wait for."""
        clicked = self.run(
            "const all = [...document.querySelectorAll(arguments[0])];"
            "const found = all.find((one) => one.innerText.includes(arguments[1]));"
            "if (found && arguments[2]) setTimeout(() => found.click()); else if (found) found.click();"
            "return Boolean(found)",
            selector,
            text,
            asks,
        )
        assert clicked, f"no {selector} with {text!r}: {self.all(selector)}"

    def clicked_while_drawn(self, selector: str) -> None:
        """Press the mouse on an element, and release it once the page has been drawn again."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        hand = ActionChains(self.browser, duration=0)
        hand.click_and_hold(self.browser.find_element(By.CSS_SELECTOR, selector)).perform()
        self.drawn_again()
        hand.release().perform()

    def drawn_again(self) -> None:
        self.run(
            "window.drawn = 0; window.watch = new MutationObserver(() => { window.drawn += 1; });"
            "window.watch.observe(document.getElementById('page'),"
            " {subtree: true, childList: true, characterData: true, attributes: true})"
        )
        eventually(lambda: self.run("return window.drawn") > 1, "the page is drawn again, twice")
        self.run("window.watch.disconnect()")

    def confirm(self, yes: bool) -> None:
        """Answer the page's dialog."""
        from selenium.webdriver.support.expected_conditions import alert_is_present

        alert = eventually(lambda: alert_is_present()(self.browser), "the page asks")
        if yes:
            alert.accept()
        else:
            alert.dismiss()

    def errors(self) -> list[str]:
        """Return what the console has reported since the last call."""
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
        assert shown - hidden <= 1  # one request may have been under way
        gate.touch()
        eventually(lambda: page.text(".verdict").startswith("Succeeded in"), "it goes on to ask")


def test_cancel_and_retry(site: Site, page: Page, gate: Path) -> None:
    with site.submit(gate=str(gate), name="Stop me") as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        page.open(site.url(f"/jobs/{handle.id}"))
        page.click("#cancel", asks=True)
        page.confirm(False)
        assert handle.status().state == "running"
        page.click("#cancel", asks=True)
        page.confirm(True)
        eventually(lambda: page.text(".verdict").startswith("Cancelled"), "it is cancelled")
        assert handle.status().state == "cancelled"
        gate.touch()

        def retried() -> bool:
            """Retry the job, which is refused until what is left of it is gone."""
            page.click("#retry", asks=True)
            page.confirm(True)
            eventually(lambda: not page.all("#retry[disabled]"), "the order is answered")
            return handle.status().state != "cancelled"

        eventually(lambda: page.all("#retry"), "it can be tried again")
        eventually(retried, "it is retried")
        handle.wait(60)
        page.errors()  # drop those about refused retries


def test_what_is_pressed_or_typed_in_stays_while_the_page_is_drawn(site: Site, page: Page, gate: Path) -> None:
    from selenium.webdriver.common.by import By

    with site.submit(gate=str(gate), name="Press me") as handle:
        eventually(lambda: handle.status().state == "running", "it runs")
        page.open(site.url("/jobs"))
        page.clicked_while_drawn("#chip-running")
        assert page.run("return document.querySelector('#chip-running').ariaPressed") == "true"
        page.clicked_while_drawn(f"#job-{handle.id}")
        eventually(lambda: page.all("h1") == ["Press me"], "the job's page is there")
        eventually(lambda: page.all("#attempts .row"), "its attempts are there")
        page.clicked_while_drawn("#attempts button.row")
        assert len(page.all("#attempts .detail")) == 1
        box = page.browser.find_element(By.CSS_SELECTOR, "#attempts input")
        box.click()
        for letter in "map 0":
            page.browser.switch_to.active_element.send_keys(letter)
        page.drawn_again()
        page.browser.switch_to.active_element.send_keys("0")
        assert page.run("return document.querySelector('#attempts input').value") == "map 00"
        page.clicked_while_drawn("#cancel")
        page.confirm(False)
        page.drawn_again()
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


def test_began_counts_from_where_the_timeline_begins(site: Site, page: Page, tmp_path: Path) -> None:
    """The timeline begins when the first stage does, whose tasks may have waited for a worker."""
    attempts = tuple(Entry(task, f"1-a{task}", "succeeded", "w@h 1", 110.0 + task, 1.0) for task in range(3))
    stage = StageView(
        step=0, kind="map", state="succeeded", tasks=3, succeeded=3, entered=100.0, ended=113.0, attempts=attempts
    )
    (tmp_path / "page.html").write_bytes(
        job_page(Overview(job="j", state="succeeded", now=113.0, started=99.0, finished=113.0, stages=(stage,)))
    )
    page.open(f"file://{tmp_path}/page.html")
    assert page.all("#attempts tbody td:nth-child(5)") == ["+10.0 s", "+11.0 s", "+12.0 s"]


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
    page.open(f"file://{site.settings['storage']}/{object_keys.report_page(job)}")
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
