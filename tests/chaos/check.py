"""Checks after a run: the result equals the undisturbed run's, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mrcelery import JobHandle
from mrcelery.errors import MRCeleryError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.storage import open_storage
from tests.chaos.cluster import QUEUE, Member, group


@dataclass(frozen=True)
class Result:
    """The result of a run: its output by part file, its counters, and its totals."""

    output: dict[str, bytes]
    counters: dict[str, dict[str, int]]
    totals: dict[str, int]

    def differences(self, other: Result) -> Iterator[str]:
        """Yield the differences in another run, one line each."""
        for name in sorted(self.output.keys() | other.output.keys()):
            mine, others = self.output.get(name), other.output.get(name)
            if mine != others:
                yield f"output {name}: {_difference(mine, others)}"
        if self.counters != other.counters:
            yield f"counters: {self.counters} became {other.counters}"
        if self.totals != other.totals:
            yield f"totals: {self.totals} became {other.totals}"


def _difference(mine: bytes | None, others: bytes | None) -> str:
    if mine is None or others is None:
        return "missing" if others is None else "not there without faults"
    here, there = mine.splitlines(), others.splitlines()
    lost, more = set(here) - set(there), set(there) - set(here)
    shown = ", ".join(repr(line) for line in [*lost, *more][:4])
    return f"{len(here)} records became {len(there)}, {len(lost)} lost, {len(more)} others: {shown}"


def result(handle: JobHandle, output: str) -> Result:
    """Return the result of a job that has succeeded."""
    storage = open_storage(output) if output else handle.open_storage()
    root = "" if output else f"jobs/{handle.id}/output/"
    keys = [info.key for info in storage.list(f"{root}part-")]
    report = handle.report()
    totals = {n: getattr(report.totals, n) for n in ("records_in", "records_out", "bytes_in", "bytes_out", "tasks")}
    return Result(
        output={key.removeprefix(root): storage.read(key) for key in keys},
        counters=report.counters,
        totals={**totals, "shuffle_bytes": report.totals.shuffle_bytes, "bad_records": report.bad_records},
    )


def names_left(uri: str, job: str) -> set[str]:
    """Return all names at an address, with unfinished uploads and empty folders, without parts that vary by run."""
    return {_normal(name, job) for name in (_in_bucket(uri) if uri.startswith("s3://") else _in_folder(uri))}


def _normal(name: str, job: str) -> str:
    return re.sub(r"(_bad_records/step-\d-\w+-\d+)\.[\w-]+\.jsonl", r"\1.jsonl", name.replace(job, "<job>"))


def _in_folder(uri: str) -> Iterator[str]:
    for folder, folders, files in os.walk(uri):
        where = os.path.relpath(folder, uri)
        if not folders and not files:
            yield f"{where}/"
        yield from (os.path.normpath(os.path.join(where, name)) for name in files)


def _in_bucket(uri: str) -> Iterator[str]:
    import boto3

    parts = urlsplit(uri)
    bucket, prefix = boto3.resource("s3").Bucket(parts.netloc), parts.path.lstrip("/") + "/"
    yield from (found.key.removeprefix(prefix) for found in bucket.objects.filter(Prefix=prefix))
    for upload in bucket.multipart_uploads.all():
        if upload.object_key.startswith(prefix):
            yield f"upload of {upload.object_key.removeprefix(prefix)}"


# Keys of Celery and kombu, and the two lists of jobs.
_LASTING = re.compile(r"_kombu\.binding.*|mrcelery:jobs|mrcelery:live")


def redis_left(store: RedisJobStore, job: str) -> list[str]:
    """List leftovers in Redis: messages, leases, a live job, and keys without an expiry."""
    try:
        queued, unacked, index, live = store.call(
            ("LRANGE", QUEUE, 0, -1),
            ("HVALS", "unacked"),
            ("ZCARD", "unacked_index"),
            ("ZRANGE", "mrcelery:live", 0, -1),
        )
        assert isinstance(queued, list) and isinstance(unacked, list) and isinstance(live, list)
        (found,) = store.call(("KEYS", "*"))
        assert isinstance(found, list)
        lives = store.call(*(("TTL", key) for key in found)) if found else []
    except MRCeleryError as e:
        return [str(e)]
    problems = [f"queued: {_identity(message)}" for message in queued]
    problems += [f"unacked: {_identity(message)}" for message in unacked]
    problems += [f"unacked_index: {index} tags"] if index != len(unacked) else []
    problems += [f"live: {name.decode()}" for name in live]
    for key, ttl in zip(found, lives, strict=True):
        name = key.decode()
        if ttl == -1 and not _LASTING.fullmatch(name) and name not in (QUEUE, "unacked", "unacked_index"):
            problems.append(f"without an end: {name}")
    return problems


def repeated(store: RedisJobStore, job: str) -> list[str]:
    """List the tasks of a job that were started more than once."""
    (found,) = store.call(("HGETALL", f"mrcelery:job:{job}:attempts"))
    assert isinstance(found, list)
    starts = zip(found[::2], found[1::2], strict=True)
    counts = [(task.decode(), int(times.split()[0])) for task, times in starts]  # a count, and tokens
    return [f"task {task} was started {times} times" for task, times in counts if times > 1]


def _identity(message: bytes) -> str:
    match = re.search(rb'"id": "([^"]+)"', message)
    return match[1].decode() if match else repr(message[:100])


def members_left(members: list[Member]) -> list[str]:
    """List problems of the workers, and leftovers of their tasks on their machines."""
    problems = []
    for member in members:
        name = f"worker {member.number}"
        if not member.alive():
            problems.append(f"{name} died")
        elif len(group(member.pid)) != member.processes + 1:
            problems.append(f"{name} has {len(group(member.pid)) - 1} processes, not {member.processes}")
        problems += [f"{name}: process {pid} of a worker that is gone lives" for pid in member.orphans()]
        for folder in ("tasks", "alive", "marks"):
            place = member.scratch / folder
            found = os.listdir(place) if place.exists() else []
            problems += [f"{name}: scratch/{folder}/{left}" for left in found]
    return problems


def dump(folder: Path, store: RedisJobStore, job: str, storage: str) -> None:
    """Write all that is known about a job to ``state.json``."""
    state: dict[str, Any] = {}
    try:
        state["job"] = store.fields(job)
        (keys,) = store.call(("KEYS", f"mrcelery:job:{job}:*"))
        assert isinstance(keys, list)
        for key in keys:
            (kind,) = store.call(("TYPE", key))
            if kind == b"hash":
                (found,) = store.call(("HGETALL", key))
                assert isinstance(found, list)
                state[key.decode()] = [part.decode(errors="replace")[:200] for part in found]
        state["redis"] = redis_left(store, job)
        (state["clients"],) = [answer.decode().splitlines() for answer in store.call(("CLIENT", "LIST"))]  # type: ignore[attr-defined]
    except MRCeleryError as e:
        state["error"] = str(e)
    try:
        state["storage"] = sorted(names_left(storage, job))
    except (OSError, MRCeleryError) as e:
        state["storage"] = str(e)
    (folder / "state.json").write_text(json.dumps(state, indent=1))
