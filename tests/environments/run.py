"""Quick tests, every example, and the blocks of README and guide, with mrcelery installed as users install it.

That is bare, with extras, next to pandas, and with the oldest packages that ``pyproject.toml`` allows.

Run ``python -m tests.environments.run [NAME...]`` with the Python of the full environment, whose results are the
expected ones. The script needs a package index, and creates the environments in a temporary folder, a few at a time.
It prints the differences, and exits with 1 if there are any.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.support import generate

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
AT_ONCE = 2
"""Environments that are created and tested at the same time."""

ARROW = r"pip install 'mrcelery\[arrow\]'"
LOCAL = r"pip install 'mrcelery\[local\]'"

README = ("tests/e2e/test_readme.py",)

PAGES = ("README.md", "mrcelery/guide/howto/write-jobs.md", "mrcelery/guide/howto/tables.md")
"""Pages whose jobs run in each environment."""

SHOWN = ("tutorial/first-job", "tutorial/nightly-logs", "howto/write-jobs", "howto/tables", "howto/formats")

GUIDE = (*README, *(f"tests/e2e/test_guide.py::test_what_the_page_shows_is_what_happens[{page}.md]" for page in SHOWN))
"""The README's tests, and those of the guide's pages that need only a runner."""

TOUCHED = tuple(
    f"tests/unit/{name}" for name in ("cli", "client", "formats", "jobstore", "records", "storage", "task", "worker")
)
"""Unit tests of the modules that call third-party packages."""

TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "pytest-randomly", "hypothesis")
"""Packages that run the tests. The extra ``test`` would also install packages that these environments must lack."""

Results = dict[str, dict[str, dict[str, Any]]]
"""The output of :mod:`tests.environments.cases`, by runner and case."""


@dataclass(frozen=True)
class Environment:
    """The packages that are installed in addition to mrcelery, and the tests that run with them."""

    name: str
    extras: tuple[str, ...]
    packages: tuple[str, ...] = ()
    lowest: bool = False
    tests: tuple[str, ...] = GUIDE
    """Arguments of pytest."""


# The longest come first, because only a few run at a time.
ENVIRONMENTS = (
    Environment("bare", (), tests=("tests/unit", *README, "-k", "not first_command")),  # that test needs Redis
    Environment("lowest", ("local", "arrow"), lowest=True, tests=(*TOUCHED, *GUIDE)),
    Environment("pandas", ("local", "arrow"), ("pandas==3.1.1",), tests=("tests/unit/records", "tests/unit/formats")),
    Environment("arrow", ("local", "arrow")),
    Environment("local", ("local",)),
)


def call(*command: str | Path, cwd: Path, path: str = "") -> str:
    """Run a command without the caller's settings; its PATH is its own folder, then ``path``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "CELERY_", "AWS_", "PYTHON"))}
    ran = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**clean, "PATH": f"{Path(command[0]).parent}{os.pathsep}{path}"},
        capture_output=True,
        text=True,
    )
    if ran.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {ran.returncode}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


# --- the environments


def lowest() -> str:
    """Return pyproject.toml's lower bounds as constraints: these versions must install, and work."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = {}
    for requirement in [*project["dependencies"], *extras["local"], *extras["arrow"]]:
        found = re.match(r"([\w.-]+)>=([\d.]+)", requirement)
        assert found is not None, f"{requirement} has no lower bound"
        bounds[found[1]] = found[2]
    return "".join(f"{name}=={version}\n" for name, version in bounds.items())


def install(environment: Environment, wheel: Path, folder: Path) -> Path:
    """Create the environment in ``folder``, and return its Python."""
    folder.mkdir(parents=True)
    call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    constraints = ROOT / ".ci" / "constraints.txt"
    if environment.lowest:
        constraints = folder / "lowest.txt"
        constraints.write_text(lowest())
    python = folder / "bin" / "python"
    target = f"{wheel}[{','.join(environment.extras)}]" if environment.extras else str(wheel)
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check")
    call(*pip, "-c", constraints, target, *environment.packages, *TOOLS, cwd=folder)
    return python


# --- the cases


def shown_jobs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write each Python block of the pages that has jobs to a file; yield each class name with the file."""
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
        for number, body in enumerate(blocks):
            for name in re.findall(r"^class (\w+)\(MRJob\)", body, re.MULTILINE):
                path = folder / f"{Path(page).stem.replace('-', '_')}{number}.py"
                path.write_text(body)
                yield name, path


def prepare(folder: Path) -> dict[str, dict[str, Any]]:
    """Write the inputs, the pages' jobs, and ``cases.json``; return the cases."""
    inputs(folder)
    given = {"WordCount": "text", "LongestWord": "text", "CountWords": "text", "SortRecords": "records"}
    cases: dict[str, dict[str, Any]] = {}
    for name, path in shown_jobs(folder):
        if name in given:
            cases[f"shown {name}"] = {"job": f"{path}:{name}", "input": given[name]}
    assert len(cases) == len(given), f"the pages show {', '.join(cases)}, and no more of {', '.join(given)}"
    given = {
        "word_count": "text",
        "grep": "text",
        "url_count": "log",
        "reverse_links": "pages.jsonl",
        "term_vector": "documents.jsonl",
        "inverted_index": "documents.jsonl",
        "sort": "lines",
        "own_format": "status",
    }
    for path in (ROOT / "mrcelery" / "examples").glob("[a-z]*.py"):
        assert path.stem in given, f"there is a new example {path.stem}: name its input here"
        cases[path.stem] = {"job": f"mrcelery.examples.{path.stem}", "input": given[path.stem]}
    cases["grep"]["args"] = ["--pattern", "ab"]
    for name in ("Times", "MovedTimes", "Fine"):
        cases[name] = {"job": f"{HERE / 'jobs.py'}:{name}", "input": "times.parquet"}
    for case in cases.values():
        case["split_size"] = (folder / case["input"]).stat().st_size // 3
    (folder / "cases.json").write_text(json.dumps(cases))
    return cases


def inputs(folder: Path) -> None:
    pages = ({"url": url, "html": html} for url, html, _ in generate.pages(60))
    texts = {
        "text": generate.text(300),
        "log": generate.access_log(300),
        "pages.jsonl": generate.json_lines(pages),
        "documents.jsonl": generate.json_lines(generate.documents(100)),
        "status": "".join(f"Package: p{n}\nSection: s{n % 5}\nInstalled-Size: {n}\n\n" for n in range(200)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "lines").write_bytes(generate.sort_records(300))
    (folder / "records").write_bytes(generate.sort_records(300))
    times(folder / "times.parquet")


def times(path: Path) -> None:
    """Write rows with nanosecond times, as pandas and Spark write them."""
    import pyarrow as pa
    from pyarrow import parquet

    numbers = pa.array([n * 86_399_999_999_000 for n in range(30)], pa.int64())
    stamps = numbers.cast(pa.timestamp("ns"))
    columns = {
        "n": pa.array(range(30)),
        "stamp": stamps,
        "zoned": numbers.cast(pa.timestamp("ns", "UTC")),
        "took": numbers.cast(pa.duration("ns")),
        "nested": pa.StructArray.from_arrays([stamps], names=["at"]),
        "fine": pa.array(range(30), pa.int64()).cast(pa.timestamp("ns")),
    }
    parquet.write_table(pa.table({**columns, "old": stamps.cast(pa.timestamp("us"))}), path)


# --- the checks


def differences(environment: Environment, found: Results, full: Results, needs_arrow: set[str]) -> Iterator[str]:
    """Yield a sentence for each case with an unexpected outcome."""
    for runner, outcomes in found.items():
        for name, outcome in outcomes.items():
            expected = full["inline"][name]
            error = ""
            if runner == "local" and "local" not in environment.extras:
                error = LOCAL
            elif name in needs_arrow and "arrow" not in environment.extras:
                error = ARROW
            elif "error" in expected:
                error = "has no Python type to hold it"
            right = re.search(error, outcome.get("error", "")) if error else same(name, outcome, expected)
            if not right:
                wanted = f"an error with {error!r}" if error else str(expected)[:300]
                yield f"{environment.name}, {runner}, {name}: {str(outcome)[-1500:]}\n    instead of {wanted}"


def same(name: str, outcome: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Compare two results; a total sort may be cut into other part files, because it samples other blocks."""
    if name == "shown SortRecords" and "parts" in outcome:
        return "".join(outcome["parts"]) == "".join(expected["parts"])
    return outcome == expected


def main(names: list[str]) -> int:
    """Run the named environments, or all if none is named, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="mrcelery-environments-") as scratch:
        folder = Path(scratch)
        cases = prepare(folder)
        call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("mrcelery-*.whl")
        full: Results = json.loads(call(sys.executable, "-P", HERE / "cases.py", folder, "inline", cwd=folder))
        broken = [f"full, {name}: {one['traceback']}" for name, one in full["inline"].items() if "traceback" in one]
        needs = {name for name in cases if name in ("Times", "MovedTimes", "Fine", "shown CountWords")}

        def tried(environment: Environment) -> list[str]:
            began = time.monotonic()
            # Not next to the jobs: Python would import a folder named like a module, such as pandas, in its place.
            python = install(environment, wheel, folder / "environments" / environment.name)
            installed = time.monotonic()
            found = json.loads(call(python, "-P", HERE / "cases.py", folder, "inline", "local", cwd=folder))
            wrong = list(differences(environment, found, full, needs))
            ran = time.monotonic()
            told = call(python, "-m", "pytest", "-q", "-n", "0", *environment.tests, cwd=ROOT, path=os.environ["PATH"])
            moments = (began, installed, ran, time.monotonic())
            spent = ", ".join(f"{end - begin:.0f} s" for begin, end in pairwise(moments))
            tests = told.strip().rpartition("\n")[2]
            print(f"{environment.name}: {len(cases)} jobs, {len(wrong)} differences; {tests} ({spent})", flush=True)
            return wrong

        with ThreadPoolExecutor(AT_ONCE) as pool:
            chosen = [one for one in ENVIRONMENTS if not names or one.name in names]
            for wrong in pool.map(tried, chosen):
                broken += wrong
        print(*broken, sep="\n")
        return bool(broken)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
