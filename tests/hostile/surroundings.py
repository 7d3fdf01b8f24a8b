"""Cases of surroundings: text that is none, and places where the command is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from random import Random

from tests.hostile.ground import Ground, Wrong, check
from tests.hostile.processes import failed
from tests.support.services import environment

PIECES = [
    "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "\x90q\x9c", "\0", "\r", "\n", "\t", "\x7f", "\udc80", "\ud800",
    "é", "e\u0301", "ü\u202eabc", "\u2066", "日本", "🙂", "\u200b", "\u2028", "<script>", "&amp;", "'\"", "%s", "{0}",
    "\\", "x" * 300,
]  # fmt: skip

TEXTS = """
    from mrcelery import MRJob

    GROUP, NAME, STATUS, RAISED = %r

    class Texts(MRJob):
        def mapper(self, _, line):
            self.increment_counter(GROUP, NAME)
            self.set_status(STATUS)
            print(STATUS)
            yield "line", 1
            if line.startswith("bad"):
                raise ValueError(RAISED)

        def reducer(self, key, values):
            yield key, sum(values)
"""


def odd(random: Random) -> str:
    """Draw a text that no terminal should see."""
    return "".join(random.choices(PIECES, k=random.randint(1, 4)))


def text(ground: Ground) -> None:
    """Names, owners, counters, status and errors of any text: stored, and shown without control characters."""
    group, name, status, raised, title, owner = (odd(ground.random) for _ in range(6))
    fails = ground.random.random() < 0.5
    ground.say(ascii((group, name, status, raised, title, owner))[:300] + (" fails" if fails else ""))
    ground.start()
    job = ground.job(TEXTS % ((group, name, status, raised),))
    lines = ground.lines(["good", "bad" if fails else "good"])
    with ground.submit(job, name=title, owner=owner, **lines) as handle:
        if fails:
            failed(ground, handle)
        else:
            check(ground.pairs(handle), [("line", 2)], "the result")
    for args in (["status", handle.id], ["list"], ["counters", handle.id], ["logs", handle.id], ["wait", handle.id]):
        shown = subprocess.run(
            [sys.executable, "-m", "mrcelery", *args],
            env=ground.environment(),
            capture_output=True,
            check=False,
            timeout=120,
        )
        said = (shown.stdout + shown.stderr).decode("utf-8")
        if raw := {char for char in said if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"}:
            raise Wrong(f"{args[0]} shows {raw!r}: {said[:500]!r}")
        if "itself failed" in said or (args[0] != "wait" and shown.returncode):
            raise Wrong(f"{args[0]} exits with {shown.returncode}: {said[:1000]}")


SHADOWS = [
    "celery",
    "redis",
    "random",
    "token",
    "json",
    "types",
    "logging",
    "kombu",
    "click",
    "queue",
    "email",
    "string",
]


def place(ground: Ground) -> None:
    """The command is run in an odd place, or with an odd environment: the local runner gives what it must."""
    random = ground.random
    kind = random.choice(["shadows", "no home", "odd TMPDIR", "long TMPDIR", "symlinks", "nameless user", "stdin"])
    folder = ground.folder / "place"
    folder.mkdir()
    (folder / "in.txt").write_text("a rose is a rose\n" * 20)
    job = folder / "words.py"
    shutil.copy(Path(__file__).parents[2] / "mrcelery" / "examples" / "word_count.py", job)
    variables = environment()
    command: list[str | Path] = []
    inputs = "in.txt"
    if kind == "shadows":
        names = random.sample(SHADOWS, 3)
        kind += f" {', '.join(names)}"
        for name in names:
            (folder / f"{name}.py").write_text("raise RuntimeError('this is not the module that was meant')\n")
    elif kind == "no home":
        variables = {key: value for key, value in variables.items() if key not in ("HOME", "USER", "LOGNAME")}
    elif kind in ("odd TMPDIR", "long TMPDIR"):
        name = "t'm p\"é$x;*" if kind == "odd TMPDIR" else "long" * 40
        (folder / name).mkdir()
        variables["TMPDIR"] = str(folder / name)
    elif kind == "symlinks":
        (folder / "link.py").symlink_to(job)
        (folder / "link.txt").symlink_to(folder / "in.txt")
        job, inputs = folder / "link.py", "link.txt"
    elif kind == "nameless user":
        if os.geteuid() == 0:
            # It may read all files, so that it can run an interpreter that lies in another's folder.
            right = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
            command = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", *right]
    elif kind == "stdin":
        inputs = random.choice(["-", "/dev/stdin"])
    ground.say(kind)
    script = Path(sys.executable).parent / "mrcelery"
    done = subprocess.run(
        [*command, script, "submit", job, inputs, "-r", "local", "--workers", "2", "-q"],
        cwd=folder, env=variables, input=(folder / "in.txt").read_text() if kind == "stdin" else None,
        stdin=None if kind == "stdin" else subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=120 * ground.patience,
    )  # fmt: skip
    check(done.returncode, 0, f"exit code ({done.stderr})")
    found = dict(line.split("\t") for line in done.stdout.splitlines())
    expected = {f'"{word}"': str(count) for word, count in Counter(("a rose is a rose " * 20).split()).items()}
    check(found, expected, "the result")
