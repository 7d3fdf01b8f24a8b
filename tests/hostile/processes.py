"""Cases of processes: earlier jobs in them, exceptions of user code, sick machines, and memory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from mrcelery import JobHandle
from mrcelery.errors import JobFailedError
from tests.hostile.ground import PROCESSES, WORKERS, Ground, Wrong, check

POLLUTION = {
    "decimal": "import decimal; decimal.getcontext().prec = 4; decimal.DefaultContext.prec = 4",
    "time zone": "import os, time; os.environ['TZ'] = 'Asia/Kolkata'; time.tzset()",
    "umask": "import os; os.umask(0o077)",
    "socket time-out": "import socket; socket.setdefaulttimeout(0.5)",
    "logging": "import logging; logging.disable(logging.CRITICAL)",
    "signal handler": "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN)",
    "nice": "import os; os.nice(1)",
    "monkeypatch": "import json; json.dumps = lambda *a, **k: 'patched'",
    "recursion limit": "import sys; sys.setrecursionlimit(400)",
    "current folder": "import os; os.chdir('/')",
    "path": "import sys; sys.path.insert(0, '/nowhere')",
    "environment": "import os; os.environ['LEFT_BY_A_JOB'] = '1'",
    "garbage collector": "import gc; gc.disable()",
    "warnings": "import warnings; warnings.simplefilter('error')",
}

PROBE = """
    import decimal, gc, json, logging, os, signal, socket, sys, time, warnings
    from mrcelery import MRJob

    class Probe(MRJob):
        def mapper(self, _, line):
            time.sleep(0.3)  # so that each process has a task
            mask = os.umask(0o022)
            os.umask(mask)
            yield "decimal", decimal.Context().prec
            yield "precision", decimal.getcontext().prec
            yield "time zone", time.tzname[0]
            yield "umask", mask
            yield "time-out", repr(socket.getdefaulttimeout())
            yield "logging", logging.root.manager.disable
            yield "handler", str(signal.getsignal(signal.SIGUSR2))
            yield "nice", os.nice(0)
            yield "json", json.dumps({})
            yield "recursion", sys.getrecursionlimit()
            yield "folder is scratch", os.getcwd() == "/"
            yield "path", "/nowhere" in sys.path
            yield "environment", os.environ.get("LEFT_BY_A_JOB", "")
            yield "gc", gc.isenabled()
            yield "warnings", sum(f[0] == "error" and f[2] is Warning for f in warnings.filters)

        def reducer(self, name, values):
            yield name, sorted(set(map(str, values)))
"""

POLLUTER = """
    import time
    from mrcelery import MRJob

    def pollute():
        %s

    %s

    class Polluter(MRJob):
        def mapper_init(self):
            pollute()
            time.sleep(0.2)

        def mapper(self, _, line):
            yield "line", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""

ONCE = """
    import time
    from mrcelery import MRJob

    SEEN = set()

    class Once(MRJob):
        def mapper(self, _, line):
            time.sleep(0.2)
            for word in line.split():
                if word not in SEEN:
                    SEEN.add(word)
                    yield word, 1

        def reducer(self, word, values):
            yield word, sum(values)
"""


def ran_before(ground: Ground) -> None:
    """A job changes its process; neither the next job nor a second run of the same one sees any of it."""
    kinds = ground.random.sample(sorted(POLLUTION), 3)
    at_import = ground.random.random() < 0.5
    ground.say(", ".join(kinds) + (" at import" if at_import else " in mapper_init"))
    ground.start()
    tasks = WORKERS * PROCESSES * 2
    probe, text = ground.job(PROBE), ground.lines([f"line {number}" for number in range(tasks)])
    before = ground.run(probe, **text)
    code = "; ".join(POLLUTION[kind] for kind in kinds)
    polluter = ground.job(POLLUTER % (code, "pollute()" if at_import else ""))
    with ground.trouble(2.0):
        for _ in range(2):
            check(ground.run(polluter, **text), [("line", tasks)], "the polluter's result")
    check(ground.run(probe, **text), before, "the probe after the polluter")
    once, words = ground.job(ONCE), ground.lines(["a b c"] * tasks)
    for number in range(3):
        found = ground.run(once, **words)
        check(
            found, [("a", tasks), ("b", tasks), ("c", tasks)], f"submission {number + 1} of a job with a set of its own"
        )


RAISED = {
    "CancelledError": "import asyncio; raise asyncio.CancelledError()",
    "KeyboardInterrupt": "raise KeyboardInterrupt()",
    "GeneratorExit": "raise GeneratorExit()",
    "SystemExit": "import sys; sys.exit(3)",
    "SystemExit of success": "import sys; sys.exit()",
    "BaseException": "raise BaseException('plain')",
    "an own BaseException": "raise type('Own', (BaseException,), {})('own')",
    "without a text": "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()",
    "a group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "StopIteration": "next(iter(()))",
    "RecursionError": "here_it_is_raised()",
    "surrogates": "raise ValueError('\\udc80\\x1b]0;title\\x07')",
    "a long text": "raise ValueError('x' * 3_000_000)",
    "not picklable": "raise type('Local', (Exception,), {})(lambda: None)",
    "a cause": "raise ValueError('effect') from KeyError('cause')",
    "in a forked child": "import os; pid = os.fork(); pid or os._exit(7); os.waitpid(pid, 0); 1 / 0",
}

RAISING = """
    from mrcelery import MRJob

    def here_it_is_raised():
        %s

    class Raising(MRJob):
        def %s(self, *args):
            here_it_is_raised()
            yield None, None
%s
"""


def raises(ground: Ground) -> None:
    """User code raises any exception: the job fails at once, with the traceback of the user's code."""
    kind = ground.random.choice(sorted(RAISED))
    hook = ground.random.choice(["mapper", "mapper_init", "mapper_final", "reducer", "reducer_init"])
    ground.say(f"{kind} in {hook}")
    ground.start()
    rest = "" if hook == "mapper" else "\n    def mapper(self, _, line):\n        yield line, 1\n"
    rest += "" if hook == "reducer" else "\n    def reducer(self, key, values):\n        yield key, sum(values)\n"
    text = dedented(RAISING) % (RAISED[kind], hook, rest)
    path = ground.folder / "raising.py"
    path.write_text(text)
    with ground.trouble(1.0), ground.submit(str(path), **ground.lines(["a", "b"])) as handle:
        failure = failed(ground, handle)
    if "here_it_is_raised" not in failure.traceback:
        raise Wrong(f"no traceback of the user's code: {failure!r}"[:2000])
    said = ground.cli("status", handle.id)
    check(said.returncode, 0, "exit code of status")
    if len(said.stdout) > 200_000:
        raise Wrong(f"status prints {len(said.stdout)} characters")


def dedented(text: str) -> str:
    """Remove four spaces from the start of each line; text that is inserted later keeps its own."""
    return "\n".join(line.removeprefix("    ") for line in text.splitlines()) + "\n"


def failed(ground: Ground, handle: JobHandle) -> Any:
    """Wait for a job that must fail, and return its failure."""
    try:
        handle.wait(30 * ground.patience)
    except JobFailedError as e:
        return e.failure
    raise Wrong("the job succeeded")


SICKNESS = {
    "full": ["size=256k"],
    "without inodes": ["size=8m", "nr_inodes=3"],
    "read-only": ["size=1m"],
}


def sick_machine(ground: Ground) -> None:
    """One worker's scratch is read-only, full or out of inodes: the other worker does the work."""
    kind = ground.random.choice(sorted(SICKNESS))
    ground.say(kind)

    def fall_ill(scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(SICKNESS[kind]), "none", scratch], check=False)
        if mounted.returncode:
            raise PermissionError("no file system may be mounted here")
        ground.stack.callback(subprocess.run, ["umount", "-l", str(scratch)], check=True)
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(scratch)], check=True)
        elif kind == "full":
            with open(scratch / "ballast", "wb", buffering=0) as ballast:
                try:
                    while ballast.write(bytes(4096)):
                        pass
                except OSError:
                    pass

    ground.start(prepare=fall_ill)
    for _ in range(2):
        with ground.words(max_attempts=2) as (handle, expected):
            check(ground.pairs(handle), expected, "a job beside a sick machine")
    said = ground.cli("doctor")
    if "worker-0@chaos" not in said.stdout + said.stderr:
        raise Wrong(f"doctor does not name the sick worker: {said.stdout}{said.stderr}")


MEMORY = """
    import time
    from mrcelery import MRJob

    class Memory(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--mebibytes", type=int)

        def mapper(self, _, line):
            held = [bytes(1 << 20).replace(b"\\0", b"x") for _ in range(self.options.mebibytes)]
            yield "held", len(held)

        def reducer(self, key, values):
            yield key, sum(values)
"""


def memory(ground: Ground) -> None:
    """A job under the ceiling succeeds, one above it fails with a sentence on memory, and nothing is killed."""
    ceiling = ground.random.choice([128, 256, 512])
    greedy = ground.random.random() < 0.5
    held = int(ceiling * (ground.random.uniform(2, 6) if greedy else ground.random.uniform(0.2, 0.6)))
    ground.say(f"{held} MiB held under {ceiling} MiB")
    ground.start()
    options = {**ground.lines(["a", "b", "c", "d"]), "memory": f"{ceiling}MiB", "args": ["--mebibytes", str(held)]}
    job = ground.job(MEMORY)
    if not greedy:
        with ground.trouble(2.0):
            check(ground.run(job, **options), [("held", 4 * held)], "a job under its ceiling")
        return
    with ground.submit(job, **options) as handle:
        failure = failed(ground, handle)
    if "memory" not in failure.message:
        raise Wrong(f"the failure says nothing of memory: {failure.message}")
    alive = [member.number for member in ground.members if member.alive()]
    check(alive, list(range(WORKERS)), "workers alive")
    check(ground.run(job, **{**options, "args": ["--mebibytes", "8"]}), [("held", 32)], "a small job after it")
