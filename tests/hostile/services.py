"""Cases of services: a broker that refuses, a storage that is away, clients that die, a Redis that forgets."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mrcelery import JobHandle
from mrcelery.errors import MRCeleryError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.states import FINAL
from tests.chaos.cluster import QUEUE
from tests.hostile.ground import Ground, Wrong, check, meanwhile
from tests.support.s3_proxy import Asked, Fault

ROOT = Path(__file__).parents[2]

Command = tuple[str | int | bytes, ...]

REFUSALS: dict[str, tuple[list[Command], list[Command]]] = {
    "too few replicas": (
        [("CONFIG", "SET", "min-replicas-to-write", 1)],
        [("CONFIG", "SET", "min-replicas-to-write", 0)],
    ),
    "a replica": ([("REPLICAOF", "127.0.0.1", 1)], [("REPLICAOF", "NO", "ONE")]),
    "out of memory": ([("CONFIG", "SET", "maxmemory", 1)], [("CONFIG", "SET", "maxmemory", 0)]),
    "not allowed to write": ([("ACL", "SETUSER", "default", "-@write")], [("ACL", "SETUSER", "default", "+@write")]),
    "paused": ([("CLIENT", "PAUSE", 2000, "ALL")], []),
    "no more clients": (
        [("CONFIG", "SET", "maxclients", 1), ("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")],
        [("CONFIG", "SET", "maxclients", 10000)],
    ),
    "messages of others": (
        [("LPUSH", QUEUE, text) for text in ("not JSON", "{}", "[]", '{"body": 1}', b"\xff\xfe")],
        [],
    ),
    "scripts forgotten": ([("SCRIPT", "FLUSH")], []),
}
"""What the broker does, and what ends it."""


def broker_refuses(ground: Ground) -> None:
    """Redis refuses for some seconds, while the fleet is idle and in mid-job: workers live, the result is right."""
    kind = ground.random.choice(sorted(REFUSALS))
    idle, busy = ground.random.uniform(0.5, 3), ground.random.uniform(0.5, 4)
    ground.say(f"{kind} for {idle:.1f} s idle, {busy:.1f} s busy")
    ground.start()
    refuse, end = REFUSALS[kind]
    store = RedisJobStore(ground.server.socket_url)  # whose connection was there before
    store.call(("PING",))

    def tell(commands: list[Command]) -> None:
        for command in commands:
            with suppress(MRCeleryError):
                store.call(command)

    with meanwhile(idle, lambda: tell(refuse), lambda: tell(end)):
        pass
    with ground.words(max_attempts=2) as (handle, expected):
        time.sleep(ground.random.uniform(0.2, 1.0))
        with meanwhile(busy, lambda: tell(refuse), lambda: tell(end)), ground.trouble(busy):
            pass
        check(ground.pairs(handle), expected, "the result")
    store.close()
    check([member.alive() for member in ground.members], [True, True], "workers alive")


OUTAGES = {
    "503": Fault(503, "SlowDown"),
    "500": Fault(500, "InternalError"),
    "connections reset": Fault(reset=True),
    "403 of a clock": Fault(503, "ServiceUnavailable"),
}


def storage_away(ground: Ground) -> None:
    """S3 answers nobody for some seconds: the job waits, whatever attempts it has."""
    kind = ground.random.choice(sorted(OUTAGES))
    at, seconds = ground.random.uniform(0, 3), ground.random.uniform(4, 12)
    ground.say(f"{kind} from {at:.1f} s for {seconds:.1f} s")
    ground.start(s3=True)
    log = ground.log
    assert log is not None

    def away(asked: Asked) -> Fault | None:
        return OUTAGES[kind]

    with ground.words(max_attempts=1) as (handle, expected):
        time.sleep(at)
        with meanwhile(seconds, lambda: setattr(log, "fault", away), lambda: setattr(log, "fault", lambda asked: None)):
            found = ground.pairs(handle, 120)
        check(found, expected, "the result")


FLAGGED = """
    import os, time
    from mrcelery import MRJob

    class Flagged(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--flag")

        def mapper(self, _, line):
            time.sleep(0.2)
            if not os.path.exists(self.options.flag):
                raise ValueError("the flag is not there")
            yield "line", 1

        def reducer(self, key, values):
            yield key, sum(values)
"""


def client_dies(ground: Ground) -> None:
    """A client is killed at some operation of a command: once more, and all is as if it had not been."""
    what = ground.random.choice(["submit", "cancel", "retry", "clean"])
    number, when = ground.random.randint(1, 14), ground.random.choice(["before", "after"])
    ground.say(f"{what} dies {when} operation {number}")
    ground.start()
    flag = ground.folder / "flag"
    text = ground.lines(["a", "b", "c", "d"])
    job = ground.job(FLAGGED)
    submit = ["submit", job, text["inputs"], "--split-size", str(text["split_size"]), "--client-token", "token"]
    submit += ["-o", str(ground.folder / "out"), "--detach"]
    rest = ["--", "--flag", str(flag)]

    def dying(*args: str) -> None:
        command = [sys.executable, "-m", "tests.hostile.dying_client", str(number), when, *args]
        subprocess.run(command, cwd=ROOT, env=ground.environment(), check=False, capture_output=True, timeout=120)

    if what == "submit":
        flag.touch()
        dying(*submit, *rest)
        again = ground.cli(*submit, *rest)
        check(again.returncode, 0, f"exit code of the second submit: {again.stderr}")
        expect(ground, again.stdout.split()[0], "succeeded")
        return
    if what in ("clean", "cancel"):
        flag.touch()
    first = ground.cli(*submit, *rest)
    identity = first.stdout.split()[0]
    if what == "cancel":
        dying("cancel", identity)
        again = ground.cli("cancel", identity)
        check(again.returncode, 0, f"exit code of the second cancel: {again.stderr}")
        state = expect(ground, identity, "cancelled", "succeeded")
        check((ground.folder / "out" / "_SUCCESS").exists(), state == "succeeded", f"_SUCCESS of a job {state}")
        return
    expect(ground, identity, "failed" if what == "retry" else "succeeded")
    flag.touch()
    args = ["retry", identity, "--detach"] if what == "retry" else ["clean", identity]
    dying(*args)
    again = ground.cli(*args)
    if what == "retry":
        expect(ground, identity, "succeeded")
        check((ground.folder / "out" / "_SUCCESS").exists(), True, "_SUCCESS after the retry")
    else:
        left = [path for path in (ground.folder / "storage" / "jobs").glob("*") if identity in path.name]
        check(left, [], f"left by clean (exit {again.returncode}: {again.stderr})")
        check(identity in ground.cli("list").stdout, False, "the job in the list after clean")


def expect(ground: Ground, identity: str, *states: str) -> str:
    """Wait for the end of a job, which must be one of these; return it."""
    found = ""

    def ended() -> bool:
        nonlocal found
        with suppress(MRCeleryError):
            found = ground.store.state(identity) or found
        return found in FINAL

    ground.until(ended, f"job {identity} has ended")
    if found not in states:
        raise Wrong(f"the job is {found}, not {' or '.join(states)}: {ground.cli('status', identity).stdout}")
    return found


def forgets(ground: Ground) -> None:
    """Redis forgets, or remembers an older time: what was decided stays decided."""
    kind = ground.random.choice(["emptied after cancel", "older snapshot after success", "live list and queue evicted"])
    delay = ground.random.uniform(0, 3)
    ground.say(f"{kind}, after {delay:.1f} s")
    ground.start()
    {
        "emptied after cancel": emptied_after_cancel,
        "older snapshot after success": older_snapshot,
        "live list and queue evicted": evicted,
    }[kind](ground, delay)


def emptied_after_cancel(ground: Ground, delay: float) -> None:
    """Flush a Redis soon after a cancel: the job stays cancelled and publishes nothing."""
    out = ground.folder / "out"
    with ground.words(output=str(out)) as (handle, _):
        ground.until(lambda: running(ground, handle), "the job runs")
        handle.cancel()
        time.sleep(delay)
        ground.store.call(("FLUSHALL",))
        stays(ground, lambda: not (out / "_SUCCESS").exists(), "a cancelled job has published")
        said = ground.cli("status", handle.id)
        if "cancelled" not in said.stdout:
            raise Wrong(f"the job is not cancelled: {said.stdout}{said.stderr}")


def older_snapshot(ground: Ground, delay: float) -> None:
    """Restore a Redis of the job's middle after its end: it stays succeeded, and its files as they are."""
    out, dump = ground.folder / "out", ground.server.folder / "dump.rdb"
    with ground.words(output=str(out)) as (handle, expected):
        ground.until(lambda: running(ground, handle), "the job runs")
        ground.store.call(("CONFIG", "SET", "appendonly", "no"), ("SAVE",))
        kept = shutil.copy(dump, ground.folder / "older.rdb")
        check(ground.pairs(handle), expected, "the result")
        before = files(out)
        ground.server.stop()
        shutil.rmtree(ground.server.folder / "appendonlydir", ignore_errors=True)
        shutil.copy(kept, dump)
        at = ground.server.command.index("--appendonly")
        ground.server.command[at + 1] = "no"
        time.sleep(delay)
        ground.server.start()
        stays(ground, lambda: files(out) == before, "the output of a job that had succeeded has changed")
        ground.until(lambda: "succeeded" in ground.cli("status", handle.id).stdout, "the job is succeeded again")
        ground.until(lambda: {path.name for path in out.iterdir()} == before.keys(), "no claim is left")


def files(out: Path) -> dict[str, tuple[int, bytes]]:
    """Read the files of an OUTPUT; a claim on it is a folder, which comes and goes."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir() if path.is_file()}


def evicted(ground: Ground, delay: float) -> None:
    """Delete the list of live jobs and the queue: who waits for the job brings it back."""
    with ground.words() as (handle, expected):
        time.sleep(delay / 3)
        ground.store.call(("DEL", "mrcelery:live", QUEUE, f"{QUEUE}\x06\x163"))
        check(ground.pairs(handle), expected, "the result")


def running(ground: Ground, handle: JobHandle) -> bool:
    """Whether some task of a job has begun."""
    (found,) = ground.store.call(("EXISTS", f"mrcelery:job:{handle.id}:attempts"))
    return bool(found)


def stays(ground: Ground, condition: Callable[[], bool], otherwise: str) -> None:
    """Look for a while that a condition holds all the time."""
    until = time.monotonic() + 8.0
    while time.monotonic() < until:
        if not condition():
            raise Wrong(otherwise)
        time.sleep(0.05)
