"""The words for states stand in one module; what cannot import it has the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mrcelery.reporting.page
from mrcelery.cli.picture import ASCII, UNICODE
from mrcelery.jobstore import memory, redis_scripts
from mrcelery.jobstore.journal import Sums
from mrcelery.schema.states import ENDED, FINAL, OUTCOMES, RETRIED, STATES, UNKNOWN, typed

ROOT = Path(__file__).parents[3]
PAGE = Path(mrcelery.reporting.page.__file__).parent


def test_the_words() -> None:
    assert STATES == ("queued", "running", "succeeded", "failed", "cancelled")
    assert set(STATES) - FINAL == {"queued", "running"}
    assert set(OUTCOMES) - set(STATES) == {"killed", "lost", "superseded"}
    assert set(RETRIED) < set(ENDED) < set(OUTCOMES)
    assert UNKNOWN not in STATES


def test_what_a_user_may_type() -> None:
    assert {word: typed(word) for word in ("submitted", "done")} == {"submitted": "queued", "done": "succeeded"}
    assert [typed(state) for state in STATES] == list(STATES)
    assert (typed("unknown"), typed(""), typed("canceled")) == ("unknown", "", "canceled")


def test_each_has_a_sum_and_a_sign() -> None:
    assert set(ENDED) <= set(Sums.__struct_fields__)
    assert Sums(started=9, **dict.fromkeys(ENDED, 1)).running == 9 - len(ENDED)
    for signs in (UNICODE, ASCII):
        assert all(getattr(signs, state) for state in STATES)


def test_the_metrics_count_them() -> None:
    metrics = pytest.importorskip("mrcelery.web.metrics", reason="needs the extra metrics", exc_type=ImportError)
    assert ("started", *ENDED) == metrics.ATTEMPTS


def listed(name: str) -> list[str]:
    """The strings of an array, or the keys of an object, of the page's script."""
    found = re.search(rf"const {name} = [\[{{](.*?)[\]}}];", (PAGE / "page.js").read_text(), re.DOTALL)
    assert found is not None
    return re.findall(r'"(\w+)"(?=,|$)' if found[0].split("= ")[1].startswith("[") else r"(\w+): \"", found[1])


def test_the_script_of_the_pages() -> None:
    assert listed("STATES") == list(STATES)
    assert set(listed("FINAL")) == FINAL
    assert listed("BAD") == list(RETRIED)
    assert sorted(listed("OUTCOMES")) == sorted(OUTCOMES)
    assert set(listed("SIGNS")) >= {*STATES, *OUTCOMES}
    style = (PAGE / "page.css").read_text()
    assert [word for word in {*STATES, *OUTCOMES, UNKNOWN} if not re.search(rf"\.{word}\b[^{{]*{{ --c:", style)] == []


@pytest.mark.parametrize("file", ["dashboards/mrcelery.json", "templates/metrics.yaml"])
def test_what_the_chart_asks_for(file: str) -> None:
    text = (ROOT / "helm" / "mrcelery" / file).read_text().replace('\\"', '"')
    asked = re.findall(r'\b(state|outcome)\s*[!=]~?\s*"([\w|]+)"', text)
    words = {word for _, several in asked for word in several.split("|")}
    assert words <= {*STATES, *OUTCOMES, "started"}
    assert bool(words) == file.endswith("json")


def test_the_scripts_of_the_job_store() -> None:
    """Lua has no import: what it compares with, and sets, are states."""
    lua = "\n".join(text for text in vars(redis_scripts).values() if isinstance(text, str) and "redis.call" in text)
    words = re.findall(r"state [~=]= '(\w+)'", lua) + re.findall(r"'state', '(\w+)'", lua)
    assert set(words) == {"queued", *FINAL}
    store = memory.MemoryJobStore()
    store.create("j", {}, b"")
    assert store.state("j") == "queued"
