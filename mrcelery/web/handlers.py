"""The request handlers of our pages and API in Flower.

The pages follow Flower's rule for its own pages: open, unless Flower was started with a login. ``/api/jobs`` follows
the rule for its API: refused without a login, unless ``FLOWER_UNAUTHENTICATED_API`` is set; so do cancel and retry,
which are part of it. All reading is done in threads: Flower's event loop must not wait for Redis or S3.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import msgspec
from flower.api import BaseApiHandler
from flower.views import BaseHandler
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, authenticated

from mrcelery.client.handle import JobHandle
from mrcelery.config import Config
from mrcelery.errors import MRCeleryError, UnreachableError, UsageError
from mrcelery.jobstore.connection import store_url
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.reporting.page import Jobs, Live, Row, job_page, jobs_page
from mrcelery.runners.fleet import FleetRunner
from mrcelery.schema.states import STATES, UNKNOWN, typed
from mrcelery.schema.structs import Kind
from mrcelery.schema.task_id import TaskId
from mrcelery.web.queries import MOST_JOBS, Records, encoded

T = TypeVar("T")

LISTED = 200
"""Jobs in a list by default."""

_records: dict[str, Records] = {}
"""By address of the job store. All threads share one connection."""


class Ours(BaseHandler):  # type: ignore[misc]
    """The base class of all our handlers."""

    @property
    def store_url(self) -> str:
        """Return the address of the job store."""
        return store_url(self.capp)

    @property
    def records(self) -> Records:
        """Return the records of the fleet's jobs."""
        url = self.store_url
        if url not in _records:
            _records[url] = Records(RedisJobStore(url), Config.load({}).storage)
        return _records[url]

    @property
    def live(self) -> Live:
        """Return where the page polls, and which actions it offers."""
        prefix = (self.application.options.url_prefix or "").strip("/")
        return Live(base=f"/{prefix}" if prefix else "", actions=self.may_act)

    @property
    def may_act(self) -> bool:
        """Return whether this user may cancel and retry jobs."""
        options = self.application.options
        return not options.read_only and bool(options.basic_auth or options.auth or self.unauthenticated_api)

    async def aside(self, call: Callable[..., T], *args: Any, **more: Any) -> T:
        """Call in a thread; turn our errors into responses with their messages."""
        try:
            return await IOLoop.current().run_in_executor(None, lambda: call(*args, **more))
        except UsageError as e:
            raise _answer(404, e) from None
        except UnreachableError as e:
            raise _answer(503, e) from None

    def whole_number(self, name: str, default: int | None, most: int) -> int:
        """Parse an argument of the address; respond 400 unless it is a whole number up to ``most``."""
        text = self.get_argument(name, default=None)
        if text is None and default is not None:
            return default
        if text is None or not text.isdecimal() or int(text) > most:
            raise HTTPError(400, f"{name} must be a whole number up to {most}")
        return int(text)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond with the error's message as plain text."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, HTTPError) and status_code != 401:
            self.set_header("Content-Type", "text/plain; charset=UTF-8")
            self.finish(error.get_message() or error.reason or "")
        else:
            super().write_error(status_code, **kwargs)

    def answer(self, body: bytes, kind: str = "application/json") -> None:
        """Respond with ``body``, not to be cached: a page polls every second."""
        self.set_header("Content-Type", f"{kind}; charset=UTF-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(body)

    async def listed(self) -> list[Row]:
        """List the jobs requested by the address."""
        limit = self.whole_number("limit", LISTED, MOST_JOBS)
        state, name = typed(self.get_argument("state", "", escape=False)), self.get_argument("name", "", escape=False)
        if state not in ("", *STATES, UNKNOWN):
            raise HTTPError(400, f"state must be one of {', '.join((*STATES, UNKNOWN))}")
        kept = self.get_argument("kept", "0") != "0"
        return await self.aside(self.records.kept if kept else self.records.rows, limit, state, name)

    async def overview_json(self, job: str) -> bytes:
        """Read a job as JSON."""
        attempts = self.get_argument("attempts", "1") != "0"

        def read() -> bytes:
            found = self.records.overview(job, attempts=attempts)
            if found is None:
                raise _unknown(job)
            return encoded(found, self.records.workers(found))

        return await self.aside(read)

    async def log_text(self, job: str) -> bytes:
        """Read the end of the log of the attempt named in the address."""
        step, task = self.whole_number("step", None, 10**6), self.whole_number("task", None, 10**9)
        kind, attempt = self.get_argument("kind", ""), self.get_argument("attempt", "", escape=False)
        if kind not in ("map", "reduce") or not attempt or "/" in attempt:
            raise HTTPError(400, "kind must be map or reduce, and attempt as in the list of attempts")
        text = await self.aside(self.records.log, TaskId(job, step, cast("Kind", kind), task), attempt)
        return text.encode("utf-8", "replace")


class Api(BaseApiHandler, Ours):  # type: ignore[misc]
    """The base class of the handlers for programs, which follow the rule of Flower's API."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond with the error's message; ask a browser for its login."""
        if status_code == 401 and self.application.options.basic_auth:
            # A browser sends its login for pages below the one that requested it; for these it must be asked.
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        super().write_error(status_code, **kwargs)


def _answer(status: int, error: MRCeleryError) -> HTTPError:
    return HTTPError(status, "%s", error)


def _unknown(job: str) -> UsageError:
    return UsageError(f"job {job} is not known here: see the list of jobs, or set MRCELERY_STORAGE where Flower runs")


class JobsPage(Ours):
    """``GET /jobs``"""

    @authenticated
    async def get(self) -> None:
        """Respond with the page of all jobs."""
        _ = self.xsrf_token  # creates its cookie
        self.answer(jobs_page(Jobs(jobs=await self.listed(), now=time.time()), self.live), "text/html")


class JobsData(Ours):
    """``GET /jobs/data``: polled by the page"""

    @authenticated
    async def get(self) -> None:
        """Respond with the list of jobs as JSON."""
        self.answer(msgspec.json.encode(Jobs(jobs=await self.listed(), now=time.time())))


class ApiJobs(Api):
    """``GET /api/jobs``"""

    @authenticated
    async def get(self) -> None:
        """Respond with the list of jobs as JSON."""
        self.answer(msgspec.json.encode(Jobs(jobs=await self.listed(), now=time.time())))


class JobPage(Ours):
    """``GET /jobs/<id>``"""

    @authenticated
    async def get(self, job: str) -> None:
        """Respond with the job's page."""
        _ = self.xsrf_token
        live = self.live

        def read() -> bytes:
            found = self.records.overview(job)
            if found is None:
                raise _unknown(job)
            return job_page(found, live=live, workers=self.records.workers(found))

        self.answer(await self.aside(read), "text/html")


class JobData(Ours):
    """``GET /jobs/<id>/data``: polled by the page"""

    @authenticated
    async def get(self, job: str) -> None:
        """Respond with the job as JSON."""
        self.answer(await self.overview_json(job))


class ApiJob(Api):
    """``GET /api/jobs/<id>``"""

    @authenticated
    async def get(self, job: str) -> None:
        """Respond with the job as JSON."""
        self.answer(await self.overview_json(job))


class JobLog(Ours):
    """``GET /jobs/<id>/log?step=&kind=&task=&attempt=``"""

    @authenticated
    async def get(self, job: str) -> None:
        """Respond with the end of the log."""
        self.answer(await self.log_text(job), "text/plain")


class ApiLog(Api):
    """``GET /api/jobs/<id>/log?step=&kind=&task=&attempt=``"""

    @authenticated
    async def get(self, job: str) -> None:
        """Respond with the end of the log."""
        self.answer(await self.log_text(job), "text/plain")


class JobEvidence(Ours):
    """``GET /jobs/<id>/evidence``: some of its bad records."""

    @authenticated
    async def get(self, job: str) -> None:
        """Respond with some of the job's bad records as JSON."""
        self.answer(msgspec.json.encode(await self.aside(self.records.evidence, job)))


class ApiOrder(Api):
    """``POST /api/jobs/<id>/cancel`` and ``/retry``; 409 if the job's state does not allow it."""

    @authenticated
    async def post(self, job: str, what: str) -> None:
        """Cancel or retry the job."""
        if self.application.options.read_only:
            raise HTTPError(403, "Flower is in read-only mode")

        def give() -> bool:
            with JobHandle(job, FleetRunner(self.store_url), storage=Config.load({}).storage) as handle:
                handle.status()  # raises if the job is unknown
                if what == "cancel":
                    return handle.cancel()
                try:
                    handle.retry()
                except UsageError as e:
                    raise _Conflict(str(e)) from None
                return True

        try:
            done = await self.aside(give)
        except _Conflict as e:
            raise _answer(409, e) from None
        if not done:
            raise _answer(409, UsageError(f"job {job} has ended"))
        self.answer(msgspec.json.encode({"job": job, "done": what}))


class _Conflict(MRCeleryError):
    """The job's state does not allow the order."""
