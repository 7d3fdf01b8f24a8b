"""What the guide's pages show is what happens; their links lead somewhere; they keep their form."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from difflib import unified_diff
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mrcelery.jobstore.presence import workers_seen
from mrcelery.jobstore.redis import RedisJobStore
from tests.support import guardian, guide_reference
from tests.support.guide_pages import (
    ROOT,
    Block,
    Page,
    dead_links,
    guide_faults,
    guide_pages,
    matches,
    plain_faults,
    prose_faults,
)
from tests.support.services import PATIENCE, environment, eventually, processes_at, redis_server, workers

PAGES = guide_pages()
PROSE = [*PAGES, *(Page(ROOT / name) for name in ("README.md", "CONTRIBUTING.md"))]
OTHERS = [
    Page(ROOT / "CHANGELOG.md"),
    *(Page(path) for folder in ("docker", "helm", "tests") for path in sorted((ROOT / folder).rglob("*.md"))),
]


class Reader:
    """Follows the instructions of a page, in a folder of its own."""

    def __init__(self, page: Page, folder: Path, env: dict[str, str]) -> None:
        self.page = page
        self.folder = folder / "page"
        self.folder.mkdir()
        self._log = folder / "log"
        self._log.mkdir()
        self._exports = folder / "exports"
        self._env = {**env, "PATH": f"{_programs(folder / 'bin')}{os.pathsep}{env['PATH']}"}
        self._printed: dict[str, str] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def follow(self, block: Block) -> None:
        verb, argument = block.verb, block.argument
        if verb not in ("output", "stderr"):
            self._printed = None
        if verb == "file":
            path = (self.folder / argument).resolve()
            assert path.is_relative_to(self.folder.resolve()), self.page.at(block.line, f"{argument} leaves the folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif verb == "run":
            self._run(block, ["bash", "-e", "-c", self._script(block.text)], int(argument.removeprefix("exit ") or 0))
        elif verb in ("python", "pytest"):
            name = f"{'test_' if verb == 'pytest' else ''}line_{block.line}.py"
            (self.folder / name).write_text(block.text)
            options = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if verb == "pytest" else []
            self._run(block, ["bash", "-e", "-c", self._script('exec python "$@"'), "python", *options, name])
        elif verb in ("output", "stderr"):
            self._compare(block, verb)

    def _script(self, text: str) -> str:
        """Keep the variables that a block exports for the rest of the page."""
        return f"[ ! -f '{self._exports}' ] || . '{self._exports}'\ntrap \"export -p > '{self._exports}'\" EXIT\n{text}"

    def _run(self, block: Block, command: list[str], code: int = 0) -> None:
        """Run a command, with its output in files, since what it leaves running would keep a pipe open."""
        paths = {name: self._log / f"{block.line}-{name}" for name in ("output", "stderr")}
        with paths["output"].open("wb") as output, paths["stderr"].open("wb") as stderr:
            process = guardian.start(
                command, cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=stderr
            )
        self._started.append(process)
        late = ""
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            late = f"still runs after {PATIENCE:.0f} s"
        self._printed = {name: path.read_text(errors="backslashreplace") for name, path in paths.items()}
        if late or process.returncode != code:
            fate = late or f"ended with exit code {process.returncode}, not {code}"
            pytest.fail(
                self.page.at(block.line, f"this block {fate}\n{block.text}")
                + "".join(f"\n-- {name} --\n{text}" for name, text in self._printed.items()),
                pytrace=False,
            )

    def _compare(self, block: Block, name: str) -> None:
        if self._printed is None:
            pytest.fail(self.page.at(block.line, f"no block that is run comes directly before this {name}"), False)
        if not matches(block.text, self._printed[name]):
            lines = block.text.splitlines(), self._printed[name].splitlines()
            diff = "\n".join(unified_diff(*lines, "the page", f"what was printed ({name})", lineterm=""))
            pytest.fail(self.page.at(block.line, f"the page shows what was not printed\n{diff}"), pytrace=False)

    def close(self) -> None:
        """End the processes that the page has left running."""
        for process in self._started:
            guardian.stop(process)
        deadline = time.monotonic() + PATIENCE
        while (left := processes_at(self.folder.parent / "tmp")) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _programs(folder: Path) -> Path:
    """Make a folder with the programs ``mrcelery`` and ``python`` that run the package under test."""
    folder.mkdir()
    for name, options in (("mrcelery", " -P -m mrcelery"), ("python", ""), ("python3", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{options} "$@"\n')
        program.chmod(0o755)
    return folder


@contextmanager
def reader_of(page: Page) -> Iterator[Reader]:
    """Make a folder, and a fleet if the page needs one; end and remove everything after the block."""
    if "arrow" in page.needs():
        pytest.importorskip("pyarrow", reason="the page needs it")
    with ExitStack() as stack:
        # not pytest's folder: the path of a unix socket must be short
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mrc-", ignore_cleanup_errors=True)))
        for name in ("tmp", "home"):
            (folder / name).mkdir()
        kept = {k: v for k, v in environment().items() if not k.startswith(("AWS_", "PYTEST_", "LESS", "PAGER"))}
        home = str(folder / "home")
        env = {**kept, "TMPDIR": str(folder / "tmp"), "HOME": home, "XDG_CONFIG_HOME": f"{home}/.config"}
        if "fleet" in page.needs():
            server = stack.enter_context(redis_server())
            storage = str(folder / "storage")
            stack.enter_context(workers(folder / "fleet", server.tcp_url, MRCELERY_STORAGE=storage))
            with closing(RedisJobStore(server.tcp_url)) as store:
                eventually(lambda: workers_seen(store), "the worker is seen")
            env |= {"MRCELERY_BROKER": server.tcp_url, "MRCELERY_STORAGE": storage}
        reader = Reader(page, folder, env)
        stack.callback(reader.close)
        yield reader


def _named(pages: list[Page]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=[page.name.removeprefix("mrcelery/guide/") for page in pages])


def follow(page: Page) -> None:
    with reader_of(page) as reader:
        for block in page.blocks():
            assert block.how, page.at(block.line, "no comment says how this block is tested")
            reader.follow(block)


@_named(PAGES)
def test_what_the_page_shows_is_what_happens(page: Page) -> None:
    follow(page)


@_named([*PROSE, *OTHERS])
def test_links_lead_somewhere(page: Page) -> None:
    _none(dead_links(page, PROSE))


@_named(PROSE)
def test_the_prose_keeps_its_form(page: Page) -> None:
    _none(plain_faults(page) + (guide_faults(page) if page in PAGES else []))


@_named(OTHERS)
def test_pages_beside_the_guide_keep_to_its_words(page: Page) -> None:
    _none(prose_faults(page))


def _none(faults: list[str]) -> None:
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.mark.parametrize("name", guide_reference.PAGES)
def test_the_reference_is_what_the_program_says(name: str) -> None:
    """After a change to a command, setting or docstring, run ``python -m tests.support.guide_reference``."""
    written = (guide_reference.FOLDER / name).read_text().splitlines()
    diff = list(unified_diff(written, guide_reference.PAGES[name]().splitlines(), name, "the program", lineterm=""))
    if diff:
        pytest.fail("\n".join([*diff, "run python -m tests.support.guide_reference"]), pytrace=False)


def a_page(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text)
    return Page(path)


FAULTY = f"""# A page

It shows, in two sentences, what a page may not have. Here is the other [one](nowhere.md).

<!-- runs -->

```sh
this is not prose, and tells nothing: {"x" * 120}
```

Here is `goes on` in code, and a link [to itself](#a-page), and another [to nothing](#b).

- An item with {"a " * 35}words.
- It tells a thing that there is no better word for, where a name is no name.
{"paragraph" + chr(10) + "line" + chr(10) * 1}line\nline\nline\nline
"""


def test_faults_of_a_page_are_found(tmp_path: Path) -> None:
    page = a_page(tmp_path, FAULTY)
    found = [*guide_faults(page), *plain_faults(page), *dead_links(page)]
    assert [re.sub(r"^page.md:(\d+): (.{1,24}).*", r"\1 \2", one) for one in found] == [
        "3 the summary must be one ",
        "3 the summary must not hav",
        "5 unknown comment 'runs'",
        "7 no comment says how this",
        "8 158 characters, 120 at m",
        "13 a sentence of 39 words, ",
        "14 a list item of 7 lines, ",
        "14 'tells' in a list item: ",
        "14 'is no' in a list item: ",
        "3 the link nowhere.md lead",
        "11 the link #b leads to no ",
    ]


@pytest.mark.parametrize(
    ("expected", "printed", "is_it"),
    [
        ("", "", True),
        ("a\n", "a\n", True),
        ("a\n", "a\nb\n", False),
        ("a\n...\n", "a\n", True),
        ("a\n...\nd\n", "a\nb\nc\nd\n", True),
        ("job a-...: done\n", "job a-12: done\n", True),
        ("job a-...: done\n", "job a-12\n: done\n", False),
    ],
)
def test_dots_stand_for_any_text(expected: str, printed: str, is_it: bool) -> None:
    assert matches(expected, printed) is is_it


WORKING = """# Page

Shows all that a page can have.

<!-- file: jobs/one.py -->
```python
print("one")
```

<!-- run -->
```sh
export NUMBER=2
python jobs/one.py
```
<!-- output -->
```text
one
```

<!-- run: exit 3 -->
```sh
echo "$NUMBER of many" >&2
exit 3
```
<!-- stderr -->
```text
2 of ...
```

<!-- python -->
```python
import os
from jobs import one
print(os.environ["NUMBER"])
```
<!-- output -->
```text
one
2
```

<!-- pytest -->
```python
def test_it():
    import jobs.one
```
<!-- output -->
```text
...
1 passed in ...
```

<!-- not run: it would last -->
```sh
sleep 1000
```
"""


def test_all_blocks_of_a_page_are_followed(tmp_path: Path) -> None:
    page = a_page(tmp_path, WORKING)
    assert guide_faults(page) == []
    follow(page)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "```text\none\n```",
            "```text\ntwo\n```",
            r"page.md:16: the page shows what was not printed(.|\n)*-two\n\+one",
        ),
        ("run: exit 3", "run", r"page.md:21: this block ended with exit code 3, not 0(.|\n)*2 of many"),
        ("import jobs.one", "assert 1 == 2", r"page.md:43: this block ended with exit code 1, not 0(.|\n)*1 failed"),
        ("<!-- run -->\n", "<!-- not run: no -->\n", r"page.md:16: no block that is run comes directly before"),
        ("<!-- python -->\n", "", r"page.md:30: no comment says how this block is tested"),
    ],
)
def test_a_page_that_is_wrong_fails_by_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in WORKING
    with pytest.raises((pytest.fail.Exception, AssertionError), match=says):
        follow(a_page(tmp_path, WORKING.replace(old, new, 1)))
