"""mrcelery help: the list of pages, a page, a command's options, and the search."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from mrcelery.cli import pages as guide
from mrcelery.cli.main import COMMANDS, cli, run_command
from mrcelery.cli.pages import Page, without_comments
from tests.support.command_line import Ran

FLEET = """# Run a fleet

Start workers on each machine, and keep them running.

<!-- needs: fleet -->

## Workers

Each worker renews its leases
every quarter of the visibility timeout, see [your app](celery-app.md#install), [a
page](../reference/formats.md), [the chart](../../../helm/README.md) and [Celery](https://docs.celeryq.dev).

<!-- run -->
```sh
mrcelery worker  # <!-- not a comment -->

[not a link](fleet.md)
```

- A **lease** is `one [thing](fleet.md)`.
"""

PAGES = {
    "architecture.md": "# Architecture\n\nThe packages of mrcelery.\n",
    "howto/fleet.md": FLEET,
    "howto/celery-app.md": "# Your Celery app\n\nRun jobs on an app that exists.\n\nAdd the tasks.\n",
    "howto/formats.md": "# Choose a format\n\nPick how inputs are read.\n",
    "howto/long.md": "# Long\n\nHas many lines.\n\n" + "".join(f"- line {n} of timeouts\n" for n in range(9)),
    "reference/formats.md": "# Formats\n\nList all formats.\n",
    "reference/metrics.md": "# Metrics\n\nList all metrics.\n",
}

READ = FLEET.replace("<!-- needs: fleet -->\n\n", "").replace("<!-- run -->\n", "")


@pytest.fixture
def mr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    for name, text in PAGES.items():
        path = tmp_path / "guide" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(guide, "files", lambda package: tmp_path)

    def run(*args: str) -> Ran:
        code = run_command(cli, list(args), "mrcelery")
        return Ran(code, *capsys.readouterr())

    return run


def test_the_list_has_each_page_by_kind(mr: Callable[..., Ran]) -> None:
    ran = mr("help")
    assert ran.code == 0
    assert ran.out.split("\n\n")[:3] == [
        "How-to\n"
        "  celery-app         Run jobs on an app that exists.\n"
        "  fleet              Start workers on each machine, and keep them running.\n"
        "  howto/formats      Pick how inputs are read.\n"
        "  long               Has many lines.",
        "Reference\n  reference/formats  List all formats.\n  metrics            List all metrics.",
        "Architecture\n  architecture       The packages of mrcelery.",
    ]


@pytest.mark.parametrize("topic", ["fleet", "howto/fleet", "how-to/fleet", "fleet.md", "Fleet"])
def test_a_page_is_its_text_without_the_comments(mr: Callable[..., Ran], topic: str) -> None:
    ran = mr("help", topic)
    assert (ran.code, ran.out, ran.err) == (0, READ, "")


def test_a_name_that_means_several_things_says_so(mr: Callable[..., Ran]) -> None:
    assert mr("help", "formats").out == PAGES["howto/formats.md"] + "\nSee also: `mrcelery help reference/formats`\n"
    assert mr("help", "metrics").out == PAGES["reference/metrics.md"] + "\nSee also: `mrcelery metrics --help`\n"
    assert mr("help", "reference/formats").out == PAGES["reference/formats.md"]


@pytest.mark.parametrize("names", [*((name,) for name in COMMANDS if name != "metrics"), ("config", "show")])
def test_a_command_shows_its_options(mr: Callable[..., Ran], names: tuple[str, ...]) -> None:
    assert mr("help", *names).out == mr(*names, "--help").out


@pytest.mark.parametrize(
    ("topic", "says"),
    [
        (["fleeet"], "no topic 'fleeet' in the guide: did you mean fleet"),
        (["reference/format"], "did you mean reference/formats"),
        (["submitt"], "did you mean submit"),
        (["app"], "did you mean celery-app? `mrcelery help -s app` searches it"),
        (["config", "shows"], "no topic 'config shows'"),
        (["zzz"], "no topic 'zzz' in the guide: `mrcelery help` lists all; `mrcelery help -s zzz` searches it"),
        (["-s"], "there is nothing to search for"),
    ],
)
def test_what_there_is_no_page_of_is_refused(mr: Callable[..., Ran], topic: list[str], says: str) -> None:
    ran = mr("help", *topic)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert says in ran.err


def test_the_search_finds_lines_with_all_words(mr: Callable[..., Ran]) -> None:
    ran = mr("help", "-s", "LEASES", "timeout")
    assert ran.code == 0
    title, line = ran.out.splitlines()
    assert title == "fleet: Run a fleet"
    assert "renews its leases every quarter of the visibility timeout, see your app" in line
    assert mr("help", "-s", "leases timeout").out == ran.out
    assert mr("help", "--search", "lease", "thing").out.splitlines()[1:] == ["    A lease is one thing."]


def test_the_search_shows_some_lines_of_a_page_and_titles_first(mr: Callable[..., Ran]) -> None:
    assert mr("help", "-s", "line", "timeouts").out.splitlines() == [
        "long: Long",
        *(f"    line {n} of timeouts" for n in range(3)),
        "    ... and 6 more",
    ]
    found = mr("help", "-s", "formats").out.splitlines()
    assert found[0] == "reference/formats: Formats"


def test_a_search_that_finds_nothing_exits_with_1(mr: Callable[..., Ran]) -> None:
    ran = mr("help", "-s", "quaternion", "lease")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "mrcelery: nothing in the guide matches quaternion and lease: try fewer words\n"
    assert mr("help", "-s", "needs:").code == 1  # comments are not searched


@pytest.fixture
def shown(mr: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a page looks like on a terminal of 80 columns."""
    paged: list[str] = []
    monkeypatch.setattr(click, "echo_via_pager", paged.append)
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "LESS": "R"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def show(topic: str) -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        ran = mr("help", topic)
        assert (ran.code, ran.out, ran.err) == (0, "", "")
        return paged.pop()

    return show


def test_on_a_terminal_a_page_is_rendered_and_paged(shown: Callable[..., str]) -> None:
    text = click.unstyle(shown("fleet"))
    words = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "# Run" not in text
    assert "needs: fleet" not in text
    assert "<!-- run" not in text
    assert "mrcelery worker # <!-- not a comment -->" in words
    assert "see your app (help celery-app), a page (help reference/formats), the chart and Celery" in words
    assert "[not a link](fleet.md)" in text
    assert "one [thing](fleet.md)" in text


def test_no_color_is_honored(shown: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    color = re.compile(r"\x1b\[(?:\d+;)*3\d[;m]")  # the codes of bold and the like stay
    assert color.search(shown("fleet"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not color.search(shown("fleet"))


def test_comments_go_and_code_stays() -> None:
    text = "# T\n\n<!-- a -->\n\n<!-- run -->\n```sh\n<!-- stays -->\n\n\nx\n```\n\n\nend\n"
    assert without_comments(text) == "# T\n\n```sh\n<!-- stays -->\n\n\nx\n```\n\nend\n"


def test_the_package_has_pages_with_a_summary_each() -> None:
    found: list[Any] = guide.pages()
    assert {page.kind for page in found} == set(guide.KINDS)
    assert [page.name for page in found if not page.title or not page.summary.endswith(".")] == []
    assert len({page.name for page in found}) == len(found)
    assert "<!--" not in "".join(line for page in found for line, code in guide.with_code(page.text) if not code)


def test_lines_of_a_page_are_joined() -> None:
    page = Page("howto", "x", "# T\n\na\nb\n- c\n  d\n| e | f |\n\n```sh\ng\nh\n```\n")
    assert list(page.lines()) == ["# T", "a b", "- c d", "| e | f |", "g", "h"]
