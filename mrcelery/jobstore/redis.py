"""Job store in the broker's Redis, next to its queues.

Keys, all under ``mrcelery:`` and all with a time to live::

    mrcelery:jobs                        sorted set of job ids by time of creation
    mrcelery:job:<job>                   hash of the job's fields
    mrcelery:job:<job>:request           the request envelope
    mrcelery:job:<job>:attempts          hash <step>.<kind>.<task> -> attempts started, and the tokens of the latest, by
                                         which a call sent twice counts once; the same and .excused -> those that
                                         ended for no fault of their own
    mrcelery:job:<job>:bad               hash <step>.<kind>.<task> -> records skipped by a committed task
    mrcelery:job:<job>:done:<step>.<kind>  hash task -> commit, deflated ("" for a larger one: read storage)
    mrcelery:job:<job>:sums              hash name -> sum
    mrcelery:job:<job>:blob:<name>       small objects
    mrcelery:job:<job>:marks:<table>     hash name -> short text
    mrcelery:job:<job>:sent:<token>      exists for two minutes after a transition, which may be sent twice
    mrcelery:job:<job>:holder            the reconciler that holds the job now
    mrcelery:job:<job>:followed          exists while someone follows the job's output
    mrcelery:live                        sorted set of the ids of jobs that have not ended, by time of creation
    mrcelery:totals                      hash name -> sum over all jobs
    mrcelery:workers                     hash name of a worker -> its presence record
    mrcelery:workers:told                sorted set of the same names by the time of that record, in Redis's time
"""

from __future__ import annotations

import re
import secrets
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from mrcelery.errors import BrokerUnreachableError
from mrcelery.jobstore import redis_scripts
from mrcelery.jobstore.base import TTL, WORKER_TTL, Note, in_total, is_of_generation, is_of_work, outlives_generation
from mrcelery.jobstore.connection import Command, Connection, connect, impatient
from mrcelery.schema.encoding import damaged
from mrcelery.schema.states import FINAL, State
from mrcelery.schema.task_id import StageId, TaskId

JOBS = "mrcelery:jobs"
LIVE = "mrcelery:live"
TOTALS = "mrcelery:totals"
NEWEST = 50
"""Jobs that are checked if no job seems to be live: the list of live ones may have been evicted."""

PAGE = 1000
"""Jobs that are read in one round trip."""

REMEMBERED = 1000
"""Jobs that a process remembers having compared with storage."""

WORKERS = "mrcelery:workers"
WORKERS_SEEN = f"{WORKERS}:told"
COMMIT_LIMIT = 1024
"""Largest commit, in deflated bytes, that is kept here; larger ones are read from storage."""


class RedisJobStore:
    """:class:`mrcelery.jobstore.base.JobStore` at a broker address.

    ``patience``: seconds for which a call waits for a server that is gone, or that refuses because it lacks memory.
    """

    def __init__(self, url: str, connection: Connection | None = None, *, patience: float = 0.0) -> None:
        self.connection = connection or connect(url, patience)
        self._run = (-1, "")  # the connection on which it was read
        self._asked: dict[str, str] = {}
        self._compared: set[tuple[str, str, str]] = set()
        """Jobs that this process has compared, with the run named in their record and the run that answered."""

    def _one(self, *command: str | bytes | int | float) -> object:
        return self.connection.call(command)[0]

    def create(self, job: str, fields: Mapping[str, str], request: bytes) -> bool:
        """Create a job with its encoded request envelope."""
        created = float(fields.get("created") or time.time())
        flat = _flat({**fields, "state": "queued"})
        return self._once(
            redis_scripts.CREATE, job, [f"{_job(job)}:request", JOBS, LIVE, TOTALS], TTL, request, created, job, *flat
        )

    def _once(self, script: str, job: str, keys: Sequence[str], *arguments: str | bytes | float) -> bool:
        """Make a transition of a job exactly once, however often the connection sends it."""
        all_keys = (_job(job), f"{_job(job)}:sent:{secrets.token_hex(8)}", *keys)
        return bool(self._one("EVAL", script, len(all_keys), *all_keys, *arguments))

    def request(self, job: str) -> bytes | None:
        """Return the request envelope."""
        return self._one("GET", f"{_job(job)}:request")  # type: ignore[return-value]

    def update(self, job: str, fields: Mapping[str, str]) -> None:
        """Set fields, unless the job is unknown."""
        self._one("EVAL", redis_scripts.UPDATE, 1, _job(job), TTL, *_flat(fields))

    def fields(self, job: str) -> dict[str, str]:
        """Return all fields."""
        return _texts(self._one("HGETALL", _job(job)))

    def head(self, job: str) -> tuple[dict[str, str], dict[str, int]]:
        """Return ``fields`` and ``sums`` in one round trip."""
        fields, sums = self.connection.call(("HGETALL", _job(job)), ("HGETALL", _sums(job)))
        return _texts(fields), _numbers(sums)

    def state(self, job: str) -> str:
        """Return the state alone, ``""`` for an unknown job."""
        state = self._one("HGET", _job(job), "state")
        return state.decode() if isinstance(state, bytes) else ""

    def compared(self, job: str) -> tuple[str, str]:
        """Return the state and in which run of the server the job was compared with storage."""
        found: Any = self._one("HMGET", _job(job), "state", "compared")
        state, compared = (text.decode() if text else "" for text in found)
        return state, compared

    def unsure(self, job: str, compared: str) -> str:
        """Return the run of the server that answers, if the job was not compared in it."""
        run = self._server_run()
        if run == compared or (job, compared, run) in self._compared:
            return ""
        self._asked[job] = compared
        return run

    def _server_run(self) -> str:
        """Return an id of the server's run on the present connection."""
        while self._run[0] != self.connection.opened:
            opened = self.connection.opened
            try:
                answer: Any = self._one("INFO", "server")
                found = re.search(rb"^run_id:(\w+)", answer, re.MULTILINE)
            except BrokerUnreachableError:
                self._one("PING")  # it answers, but does not identify itself: this connection serves as its run
                found = None
            run = found[1].decode() if found else secrets.token_hex(8)
            self._run = (max(1, opened), run)
        return self._run[1]

    def note_compared(self, job: str, run: str, *, here: bool = False) -> None:
        """Record that the store's knowledge of a job was compared with storage."""
        if max(len(self._compared), len(self._asked)) >= REMEMBERED:
            self._compared.clear()
            self._asked.clear()
        named = self._asked.pop(job, "")
        kept = not here and self._one("EVAL", redis_scripts.UPDATE, 1, _job(job), TTL, "compared", run)
        # A record without a run may be a new one of the same job next time, in a store that was emptied.
        if named or not kept:
            self._compared.add((job, named, run))

    def unsure_jobs(self) -> list[str]:
        """List the ids of failed and cancelled jobs about which the store is not sure; list others as live."""
        found: list[str] = []
        skip = 0
        while page := self.jobs(PAGE, skip):
            skip += len(page)
            known = self.connection.call(*(("HMGET", _job(job), "state", "compared", "started") for job in page))
            for job, (state, compared, started) in zip(page, known, strict=True):
                if state in (b"queued", b"running"):
                    self.keep_live(job)
                elif state in (b"failed", b"cancelled") and started and self.unsure(job, (compared or b"").decode()):
                    found.append(job)
        return found

    def move(
        self, job: str, to: State, fields: Mapping[str, str] | None = None, *, generation: int | None = None
    ) -> bool:
        """Change the state and set fields, atomically."""
        counted = f"jobs.{to}" if to in FINAL else ""
        flat = _flat({**(fields or {}), "state": to})
        over = "over" if to in FINAL - {"cancelled"} else ""
        latest = "" if generation is None else generation
        return self._once(redis_scripts.MOVE, job, [LIVE, TOTALS], TTL, counted, over, time.time(), job, latest, *flat)

    def revive(self, job: str, generation: int | None = None) -> bool:
        """Have a failed or cancelled job run again, in its next generation."""
        fields = self.fields(job)
        if fields.get("state") not in ("failed", "cancelled"):
            return False
        return self._revive(job, fields, generation, anew=fields["state"] == "cancelled")

    def advance(self, job: str, generation: int) -> bool:
        """Queue a job in a later generation."""
        fields = self.fields(job)
        return bool(fields.get("state")) and self._revive(job, fields, generation, anew=True, forced=True)

    def _revive(
        self, job: str, fields: Mapping[str, str], generation: int | None, *, anew: bool, forced: bool = False
    ) -> bool:
        # At least one name: HDEL does not accept an empty list.
        names = ["failure", *(name for name in fields if is_of_generation(name) or (anew and is_of_work(name)))]
        tables = _marks(job, "")
        marks = [k for k in self._scan(tables) if anew or not outlives_generation(k.removeprefix(tables))]
        gone = [f"{_job(job)}:attempts", *([f"{_job(job)}:bad", _sums(job)] if anew else []), *marks]
        how = ("" if generation is None else generation, "forced" if forced else "")
        return self._once(
            redis_scripts.REVIVE, job, [LIVE, *gone], TTL, time.time(), job, fields["state"], *how, *names
        )

    def keep_live(self, job: str) -> None:
        """List an unfinished job among the live ones, if it is missing there."""
        self._one("EVAL", redis_scripts.KEEP_LIVE, 2, _job(job), LIVE, time.time(), job)

    def live(self) -> list[str]:
        """List the ids of jobs that have not ended, as far as the store knows."""
        return [job for job, state in self._unfinished() if state != b"cancelled"]

    def stopping(self) -> list[str]:
        """List the ids of cancelled jobs that are not ``cleaned``."""
        return [job for job, state in self._unfinished() if state == b"cancelled"]

    def _unfinished(self) -> list[tuple[str, bytes]]:
        """List jobs that are not finished or not cleaned, with their states."""
        jobs = [j.decode() for j in self._one("ZRANGE", LIVE, 0, -1)]  # type: ignore[attr-defined]
        if not jobs:  # or evicted
            jobs = self.jobs(NEWEST)
        known = self.connection.call(*(("HMGET", _job(job), "state", "cleaned") for job in jobs)) if jobs else []
        found, gone = [], []
        for job, (state, cleaned) in zip(jobs, known, strict=True):
            # The client died before it could remove the entry, or the job's time to live is over.
            if not state or cleaned or state.decode() in FINAL - {"cancelled"}:
                gone.append(job)
            else:
                found.append((job, state))
        if gone:
            self._one("ZREM", LIVE, *gone)
        return found

    def next_attempt(self, task: TaskId, *, note: Note | None = None, add: Mapping[str, int] = {}) -> int:
        """Count an attempt as it starts and return its number, from 1."""
        keys, arguments = _with(task.job, f"{_job(task.job)}:attempts", note, add)
        script, name = redis_scripts.NEXT_ATTEMPT, task.name
        return int(self._one("EVAL", script, len(keys), *keys, TTL, name, _token(), *arguments))  # type: ignore[call-overload, no-any-return]

    def excuse_attempt(self, task: TaskId) -> None:
        """Count an attempt that ended through no fault of its own as excused."""
        key = f"{_job(task.job)}:attempts"
        self._one("EVAL", redis_scripts.EXCUSE_ATTEMPT, 1, key, TTL, f"{task.name}.excused", _token())

    def excused(self, task: TaskId) -> int:
        """Return how many of a task's attempts were excused."""
        answers: list[Any] = self.connection.call(("HGET", f"{_job(task.job)}:attempts", f"{task.name}.excused"))
        return int(answers[0].split()[0]) if answers[0] else 0

    def poll(self, task: TaskId) -> tuple[str, bool, bool]:
        """Return the job's state, whether the task is committed, and whether someone follows the job's output."""
        state, done, followed = impatient(self.connection).call(
            ("HGET", _job(task.job), "state"),
            ("HEXISTS", _done(task.stage), task.task),
            ("EXISTS", _followed(task.job)),
        )
        return state.decode() if isinstance(state, bytes) else "", bool(done), bool(followed)

    def follow(self, job: str, seconds: float) -> None:
        """Register, for this many seconds, that someone follows the job's output."""
        self._one("SET", _followed(job), 1, "PX", int(seconds * 1000))

    def add_commit(self, task: TaskId, commit: bytes, *, note: Note | None = None, add: Mapping[str, int] = {}) -> None:
        """Remember a task's encoded commit; the first stays."""
        kept = zlib.compress(commit, 1) if commit else b""
        if len(kept) > COMMIT_LIMIT:
            kept = b""
        keys, arguments = _with(task.job, _done(task.stage), note, add)
        self._one("EVAL", redis_scripts.ADD_COMMIT, len(keys), *keys, TTL, task.task, kept, *arguments)

    def note_bad(self, task: TaskId, records: int) -> int:
        """Remember how many records a committed task has skipped, and return the job's sum."""
        key = f"{_job(task.job)}:bad"
        answers: list[Any] = self.connection.call(
            ("HSET", key, task.name, records), ("EXPIRE", key, TTL), ("HVALS", key)
        )
        return sum(map(int, answers[2]))

    def commits(self, stage: StageId) -> dict[int, bytes]:
        """Return the remembered commits by task."""
        commits: dict[int, bytes] = {}
        cursor = b"0"
        while True:  # in pieces: a large answer would block all other clients of the server
            answer: Any = self._one("HSCAN", _done(stage), cursor, "COUNT", 1000)
            cursor, found = answer
            commits.update((int(k), _inflated(v)) for k, v in _pairs(found) if v)
            if cursor == b"0":
                return commits

    def done(self, stage: StageId) -> int:
        """Return how many tasks of a stage have committed."""
        return int(self._one("HLEN", _done(stage)))  # type: ignore[call-overload, no-any-return]

    def done_tasks(self, stage: StageId) -> frozenset[int]:
        """Return the tasks of a stage that have committed."""
        return frozenset(map(int, self._one("HKEYS", _done(stage))))  # type: ignore[call-overload]

    def sums(self, job: str) -> dict[str, int]:
        """Return all of the job's sums by name."""
        return _numbers(self._one("HGETALL", _sums(job)))

    def totals(self) -> dict[str, int]:
        """Return sums over all jobs, ended ones too, since the store began or was last emptied."""
        return _numbers(self._one("HGETALL", TOTALS))

    def set_mark(self, job: str, table: str, name: str, mark: str, *, add: Mapping[str, int] = {}) -> None:
        """Keep a short text under a name in one of the job's tables."""
        if add:
            keys, arguments = _with(job, _job(job), (table, name, mark), add)
            self._one("EVAL", redis_scripts.SET_MARK, len(keys), *keys, TTL, "", "", *arguments)
        else:
            key = _marks(job, table)
            self.connection.call(("HSET", key, name, mark), ("EXPIRE", key, TTL))

    def marks(self, job: str, table: str) -> dict[str, str]:
        """Return all of a table's marks by name."""
        return _texts(self._one("HGETALL", _marks(job, table)))

    def drop_mark(self, job: str, table: str, name: str) -> None:
        """Forget one mark of a table."""
        self._one("HDEL", _marks(job, table), name)

    def done_and_marks(self, stage: StageId, tables: Sequence[str]) -> tuple[int, list[dict[str, str]]]:
        """Return ``done`` and the ``marks`` of each table in one round trip."""
        reading = [("HGETALL", _marks(stage.job, table)) for table in tables]
        done, *found = self.connection.call(("HLEN", _done(stage)), *reading)
        return int(done), [_texts(marks) for marks in found]

    def hold(self, job: str, owner: str, seconds: float) -> bool:
        """Take the job's lock for this many seconds."""
        return bool(self._one("EVAL", redis_scripts.HOLD, 1, f"{_job(job)}:holder", owner, int(seconds * 1000)))

    def put_blob(self, job: str, name: str, data: bytes) -> None:
        """Keep a small object with the job."""
        self._one("SET", f"{_job(job)}:blob:{name}", data, "EX", TTL)

    def get_blob(self, job: str, name: str) -> bytes | None:
        """Return a small object."""
        return self._one("GET", f"{_job(job)}:blob:{name}")  # type: ignore[return-value]

    def drop_blobs(self, job: str, names: Sequence[str]) -> None:
        """Forget objects that are no longer needed."""
        if names:
            self._one("UNLINK", *(f"{_job(job)}:blob:{name}" for name in names))

    def forget_stage(self, stage: StageId) -> None:
        """Drop a finished stage's commits."""
        self._one("UNLINK", _done(stage))

    def jobs(self, limit: int = 100, skip: int = 0) -> list[str]:
        """List job ids, newest first, without the ``skip`` newest."""
        return [j.decode() for j in self._one("ZREVRANGE", JOBS, skip, skip + limit - 1)]  # type: ignore[attr-defined]

    def drop(self, job: str) -> None:
        """Forget a job."""
        keys = (JOBS, LIVE, _job(job), *self._scan(f"{_job(job)}:"))
        self._one("EVAL", redis_scripts.DROP, len(keys), *keys, job)

    def _scan(self, prefix: str) -> list[str]:
        """List all keys with this prefix."""
        cursor, found = b"0", set[str]()
        while True:
            answer: Any = self._one("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", 1000)
            cursor, keys = answer
            found.update(name for key in keys if (name := key.decode()).startswith(prefix))
            if cursor == b"0":
                return sorted(found)

    def record_worker(self, name: str, about: bytes) -> None:
        """Remember a worker's presence record for :data:`WORKER_TTL` seconds from now."""
        self._one("EVAL", redis_scripts.RECORD_WORKER, 2, WORKERS, WORKERS_SEEN, WORKER_TTL, name, about)

    def workers(self) -> dict[str, tuple[float, bytes]]:
        """Return workers by name."""
        answer: list[Any] = self.connection.call(
            ("TIME",), ("HGETALL", WORKERS), ("ZRANGE", WORKERS_SEEN, 0, -1, "WITHSCORES")
        )
        (seconds, micros), about, recorded = answer
        now, known = float(seconds) + float(micros) / 1e6, dict(_pairs(about))
        return {
            name.decode(): (now - float(at), known[name])
            for name, at in _pairs(recorded)
            if name in known and now - float(at) < WORKER_TTL
        }

    def drop_worker(self, name: str) -> None:
        """Forget a worker that has stopped."""
        self.connection.call(("HDEL", WORKERS, name), ("ZREM", WORKERS_SEEN, name))

    def push(self, queue: str, message: bytes) -> None:
        """Put a Celery message, in the transport's format, on a queue."""
        self._one("LPUSH", queue, message)

    def call(self, *commands: Command) -> list[object]:
        """Send other commands, for code that reads the broker's own keys."""
        return self.connection.call(*commands)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def _job(job: str) -> str:
    return f"mrcelery:job:{job}"


def _done(stage: StageId) -> str:
    return f"{_job(stage.job)}:done:{stage.name}"


def _marks(job: str, table: str) -> str:
    return f"{_job(job)}:marks:{table}"


def _followed(job: str) -> str:
    return f"{_job(job)}:followed"


def _sums(job: str) -> str:
    return f"{_job(job)}:sums"


def _with(job: str, key: str, note: Note | None, add: Mapping[str, int]) -> tuple[tuple[str, ...], list[str | int]]:
    """Return the keys, ``key`` first, and the last arguments of a script that sets a note and adds amounts."""
    table, name, text = note or ("", "", "")
    amounts = [item for pair in (*add.items(), *in_total(add).items()) for item in pair]
    return (key, _sums(job), _marks(job, table), TOTALS), [name, text, len(add), *amounts]


def _token() -> str:
    """Make a token by which a call is recognized if the connection sends it twice."""
    return secrets.token_hex(4)


def _inflated(commit: bytes) -> bytes:
    try:
        return zlib.decompress(commit)
    except zlib.error as e:
        raise damaged(f"a commit in the job store is damaged ({e}): submit the job again") from None


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


def _texts(flat: object) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in _pairs(flat)}


def _numbers(flat: object) -> dict[str, int]:
    return {k.decode(): int(v) for k, v in _pairs(flat)}


def _pairs(flat: object) -> list[tuple[bytes, bytes]]:
    answers: list[bytes] = flat  # type: ignore[assignment]
    return list(zip(answers[::2], answers[1::2], strict=True))
