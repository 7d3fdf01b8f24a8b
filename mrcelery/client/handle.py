"""The handle that a client holds on a submitted job: wait, status, cancel, retry, results."""

from __future__ import annotations

import logging
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from mrcelery.client import results
from mrcelery.client.results import Pair
from mrcelery.client.retrying import caught_up, end_as_cancelled, enter_from_storage, revive
from mrcelery.config import Config
from mrcelery.errors import (
    BrokerUnreachableError,
    ConfigError,
    CorruptDataError,
    JobCancelledError,
    JobFailedError,
    MRCeleryError,
    UsageError,
    WaitTimeoutError,
)
from mrcelery.jobstore.base import JobStore, generation_of
from mrcelery.jobstore.presence import listening
from mrcelery.reporting.monitor import Monitor
from mrcelery.reporting.status import JobStatus, counted, failure_of, status_of
from mrcelery.runners.base import Runner
from mrcelery.runners.enter import perhaps
from mrcelery.schema import object_keys
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import unseal
from mrcelery.schema.states import FINAL
from mrcelery.schema.structs import Commit, JobSpec, Request, add_coordinator_requests, add_counters, add_requests
from mrcelery.storage import open_storage
from mrcelery.storage.addresses import FOLDER, local

if TYPE_CHECKING:
    from mrcelery.events import Event
    from mrcelery.reporting.monitor import Monitor
    from mrcelery.reporting.overview import Overview
    from mrcelery.reporting.report import Report
    from mrcelery.schema.structs import Counters, Failure
    from mrcelery.storage.base import Storage

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2
"""Seconds between two polls of a job: a long job is polled 5 times a second."""

_LATENESS = 1 / 50
"""Share of a job's run time by which its end may be noticed late, the first pause aside."""


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How the client that submitted a job gets its results."""

    folder: str | None = None
    """Local folder that :meth:`JobHandle.wait` fetches them into, or None."""
    overwrite: bool = False
    """Whether it may replace what the folder holds."""
    patience: float | None = None
    """Seconds that it waits for a storage that is away; None: as configured."""
    parse: Callable[[bytes], Pair] | None = None
    """Makes a pair of a line; None: by the output format of the job's request."""


class JobHandle:
    """A submitted job, with its ``id``; a context manager that closes the runner (and with it a local cluster).

    Closing does not cancel a job on a fleet. A handle that is garbage collected closes itself.
    """

    def __init__(
        self,
        job: str,
        runner: Runner | None,
        *,
        store: JobStore | None = None,
        storage: str = "",
        delivery: Delivery | None = None,
        spool: str = "",
    ) -> None:
        self.id = job
        self.runner = runner
        self._store = store if runner is None else runner.store
        delivery = delivery or Delivery()
        self.bring_home = delivery.folder
        """Local folder that :meth:`wait` fetches the results into, or None."""
        self.storage = storage
        """Address of the configured storage, "" if there is none."""
        self._overwrite = delivery.overwrite
        self._parse = delivery.parse
        self._patience = delivery.patience
        self._final_report: Report | None = None
        self._looked = False
        self.met = False
        """Whether the broker has ever answered: one that never did is more likely a wrong address."""
        self._close = weakref.finalize(self, _close, runner, spool)

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the runner; this stops a local cluster and deletes results that were not saved elsewhere."""
        self._close()

    def wait(
        self,
        timeout: float | None = None,
        on_progress: Callable[[JobStatus], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> JobStatus:
        """Wait until the job has succeeded, and bring a local OUTPUT home.

        - ``timeout`` is in seconds.
        - ``on_progress`` is called at each poll.
        - ``on_event`` is called with each event that a waiting person should know of (:mod:`mrcelery.events`), such as
          that the broker is away or that no worker listens. By default events are logged as warnings.

        This waits for a broker that restarts, for a minute at most. If the broker has lost the job, the job is
        registered again and resumes from storage. Raises :class:`JobFailedError`, :class:`JobCancelledError`,
        :class:`WaitTimeoutError` while the job still runs, and :class:`UsageError` in a task of a worker's only
        process, which the job would need.
        """

        deadline = None if timeout is None else time.monotonic() + timeout
        began = time.monotonic()
        state, answered = "", began if self.met else 0.0
        monitor = Monitor(self.id, on_event or log_event, self.runner.patience if self.runner is not None else 0.0)
        while True:
            try:
                fields = self._poll(monitor)
                state = fields["state"]
                if state in FINAL:
                    break
                answered = time.monotonic()
                if on_progress is not None:
                    on_progress(status_of(self.id, fields, self._store))
            except BrokerUnreachableError as e:
                monitor.unreachable(str(e))
                # It may be restarting.
                if self.runner is None or not answered or time.monotonic() - answered > self.runner.patience:
                    raise
            if self.runner is not None:
                self.runner.check()
            pause = min(max(_FIRST_PAUSE, (time.monotonic() - began) * _LATENESS), _LONGEST_PAUSE)
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise WaitTimeoutError(f"job {self.id} is still {state}: wait again, or see `mrcelery status`")
            time.sleep(min(pause, left))
        self._raise_unless_succeeded()
        if self.bring_home is not None:
            self.fetch(self.bring_home, overwrite=self._overwrite, on_event=on_event)
            self.bring_home = None
        return self.status()

    def status(self) -> JobStatus:
        """Return the job's status now. Raises :class:`UsageError` if neither job store nor storage knows it."""
        return status_of(self.id, self.fields(), self._store)

    def cancel(self) -> bool:
        """Cancel the job: its tasks stop between blocks. Return False if it had ended already."""
        if self._store is None:
            raise ConfigError(f"cannot cancel {self.id} without its broker: give --broker")
        fields = self.fields()
        with perhaps(self.id, "cancelled", "or cancel it again"):
            return end_as_cancelled(self._store, self.id, fields)

    def retry(self) -> None:
        """Resume a failed job from its committed tasks, or restart a cancelled one.

        Attempts are counted from zero again. Returns at once; :meth:`wait` for the end. If a cancelled job's tasks
        have not all stopped yet, this first waits for them, half a minute at most; if no worker listens, the job's
        data is deleted from here. Safe to repeat until the job runs. Raises :class:`UsageError` for a job that runs,
        is still stopping or has succeeded, and :class:`ConfigError` without a broker.
        """
        if self._store is None or self.runner is None:
            raise ConfigError(f"cannot retry {self.id} without its broker: give --broker")
        fields = self._store.fields(self.id)
        with perhaps(self.id, "retried", "or retry it again"):
            if not fields:
                fields = enter_from_storage(self, self._store)
            else:
                revive(self, self._store)
                fields = self._store.fields(self.id)
            self._final_report = None
            self.runner.start(self.id, fields.get("queue") or "celery", generation_of(fields))

    def counters(self) -> Counters:
        """Return the counters of committed attempts, ``group -> name -> value``: so far, while the job runs."""
        fields = self.fields()
        if (report := self._counted(fields)) is not None:
            return report.counters

        total: Counters = {}
        for step, one in counted(self.id, fields, self._store):
            add_counters(total, one.counters if isinstance(one, Commit) else one.all_counters(step))
        return total

    def requests(self) -> dict[str, int]:
        """Return the job's requests to S3 as they are billed: so far, while the job runs.

        Keys are GET, PUT, LIST and DELETE (HEAD counts as GET, a copy as PUT), and RETRY for those made again. Counted
        are the requests of committed attempts, and those of the coordinator until it wrote the report.
        """
        fields = self.fields()
        if (report := self._counted(fields)) is not None:
            return report.totals.requests

        total: dict[str, int] = {}
        add_coordinator_requests(total, fields)
        for _, one in counted(self.id, fields, self._store):
            add_requests(total, one.requests if isinstance(one, Commit) else one.totals.requests)
        return total

    def failure(self) -> Failure | None:
        """Return why the job failed, or None if it did not."""
        return failure_of(self.fields())

    def overview(self) -> Overview:
        """Return the job as its page shows it, with its attempts: live, or from its report."""
        from mrcelery.reporting.overview import overview  # noqa: PLC0415 - few clients ask for it

        return self._seen(overview)

    def glance(self) -> Overview:
        """Return the :meth:`overview` without the attempts: as cheap for 10,000 tasks as for one."""
        from mrcelery.reporting.overview import glance  # noqa: PLC0415 - few clients ask for it

        return self._seen(glance)

    def has_workers(self) -> bool:
        """Return whether a worker listens on the job's queue; True if that cannot be known here."""
        if self._store is None or self.runner is None:
            return True

        queue = self._store.fields(self.id).get("queue") or "celery"
        return bool(listening(self._store.workers(), queue))

    def _seen(self, read: Callable[[JobStore, str], Overview | None]) -> Overview:
        if not self._looked:  # at first what is true; then what moves
            self._looked = True
            with suppress(UsageError):
                self.fields()
        found = read(self._store, self.id) if self._store is not None else None
        if found is None and self.fields() and (report := self.read_report()):
            found = report.overview
        if found is None:
            raise UsageError(f"job {self.id} has no history: it was run by an earlier version")
        return found

    def page(self) -> bytes:
        """Return the job's page as one self-contained HTML file: its present state, or its report.

        Raises as :meth:`overview` does.
        """
        from mrcelery.reporting.excerpts import gather  # noqa: PLC0415 - few clients ask for it
        from mrcelery.reporting.page import job_page  # noqa: PLC0415 - few clients ask for it

        seen = self.overview()
        return job_page(seen, gather(self.open_storage(), seen))

    def report(self) -> Report:
        """Return the final report. Raises :class:`UsageError` while the job runs, or if it left none."""
        report = self.read_report()
        if report is None:
            raise UsageError(f"job {self.id} has no report yet: see `mrcelery status {self.id}`")
        return report

    def results(self) -> Iterator[Pair]:
        """Iterate over pairs (key, value) in the order of the part files.

        The json format gives parsed JSON, a job's output protocol whatever it reads, and any other text format
        (None, line). Raises as :meth:`wait` does for a job that did not succeed.
        """
        lines = self.output_lines()
        parse = self._parse or self._guess_parse()
        return map(parse, lines)

    __iter__ = results

    def output_lines(self) -> Iterator[bytes]:
        """Iterate over the raw lines of the part files, without newlines."""
        return results.lines(self.output())

    def output(self) -> Iterator[bytes]:
        """Iterate over the part files' bytes in order, in pieces, decompressed."""
        self._raise_unless_succeeded()
        if self._store is not None and (small := self._store.get_blob(self.id, "results")) is not None:
            return iter([small])
        patience = results.waiting(self.id, self._patience, log_event)
        storage, keys = patience.call(self._parts)
        return results.content(storage, keys, patience)

    def fetch(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        on_bytes: Callable[[str, int], None] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        """Bring part files, ``_SUCCESS`` and bad records into a local folder, which appears whole or not at all.

        A storage that is away is waited for; ``on_event`` is called with what is awaited, by default a warning is
        logged. Raises :class:`OutputExistsError` if it holds something and ``overwrite`` is False.
        """
        target = local(folder, FOLDER)
        self._raise_unless_succeeded()

        patience = results.waiting(self.id, self._patience, on_event or log_event)
        storage, keys = patience.call(self._parts)
        report = self.report()
        if report.bad_records:
            bad = object_keys.BAD_RECORDS if report.output else object_keys.bad_records_root(self.id)
            keys += patience.call(lambda: [found.key for found in storage.list(bad)])
        success, stream = encode(report), partial(patience.stream, storage)
        results.fetch(stream, keys, target, success, overwrite=overwrite, progress=on_bytes)

    def _counted(self, fields: dict[str, str]) -> Report | None:
        """Return the report if it says what counts; None if the job store does."""
        from_store = "queue" in fields
        return None if from_store and fields["state"] != "succeeded" else self.read_report()

    def _poll(self, monitor: Monitor) -> dict[str, str]:
        """Read the fields of the job that is waited for; register it again if the job store has lost it."""
        fields = self._store.fields(self.id) if self._store is not None else {}
        self.met = True
        monitor.answered(fields)
        if self.runner is not None and self.runner.restore_if_lost(self.id, fields):
            monitor.reentered()
            return {"state": "queued"}
        if not fields.get("state"):
            fields = self.fields()
        elif self._store is not None:
            fields = caught_up(self._store, self.id, fields)
        if self.runner is not None and self._store is not None and fields["state"] not in FINAL and monitor.due():
            self._store.keep_live(self.id)
            monitor.observe(fields, self._store.workers(), lambda: self.status().stages)
        return fields

    def fields(self) -> dict[str, str]:
        """Return the job's fields in the job store, or those that its report has. Raises :class:`UsageError`."""
        if self._store is not None and (fields := self._store.fields(self.id)).get("state"):
            return caught_up(self._store, self.id, fields)
        if self.storage and (report := self.read_report()):
            # the job store forgets a job in time; its report stays
            seen = report.overview
            return {
                "state": report.state,
                "name": report.name,
                "created": repr(seen.created if seen else 0.0),
                "started": repr(report.started),
                "finished": repr(report.finished),
                "storage": self.storage,
                "output": report.output,
                "owner": seen.owner if seen else "",
                "failure": encode(seen.failure).decode() if seen and seen.failure else "",
            }
        raise UsageError(f"job {self.id} is not known here: see `mrcelery list`, or correct --broker or --storage")

    def _raise_unless_succeeded(self) -> None:
        fields = self.fields()
        state = fields["state"]
        if state == "cancelled":
            raise JobCancelledError(f"job {self.id} was cancelled: submit or retry it to run it again")
        if state == "failed":
            if failure := failure_of(fields):
                raise JobFailedError(failure)
            raise MRCeleryError(f"job {self.id} failed; the error is no longer kept: see `mrcelery logs {self.id}`")
        if state != "succeeded":
            raise UsageError(f"job {self.id} is {state}: wait until it ends")

    def open_storage(self) -> Storage:
        """Open the storage that holds the job's data."""

        uri = self.storage
        if self._store is not None:
            uri = self._store.fields(self.id).get("storage") or uri
        if not uri:
            raise ConfigError(f"the storage of job {self.id} is no longer known: give --storage")
        return open_storage(uri)

    def read_report(self) -> Report | None:
        """Read the job's report, once; None if it has none (yet)."""
        if self._final_report is None:
            from mrcelery.reporting.report import read_client_report  # noqa: PLC0415 - few clients ask for it

            self._final_report = read_client_report(self.open_storage(), self.id, Config.load({}).signing_key or None)
        return self._final_report

    def _parts(self) -> tuple[Storage, list[str]]:
        report = self.report()
        if any("/" in name for name in report.parts):
            raise CorruptDataError(f"the report of job {self.id} names no part files: it was altered; submit it again")
        if not report.output:
            return self.open_storage(), [object_keys.output(self.id) + name for name in report.parts]

        return open_storage(report.output), list(report.parts)

    def _guess_parse(self) -> Callable[[bytes], Pair]:
        """Choose a parser by the request's output format: the job's class, and with it a protocol, is not at hand."""

        sealed = self._store.request(self.id) if self._store is not None else None
        if sealed is not None:
            request = unseal(sealed, Request, None, self.id)
        else:
            key = object_keys.spec(self.id)
            request = unseal(self.open_storage().read(key), JobSpec, None, key).request
        return results.parse_lenient if request.options.output_format == "json" else results.parse_raw


def log_event(event: Event) -> None:
    """Log an event as a warning."""
    logging.getLogger("mrcelery").warning("%s", event)


def _close(runner: Runner | None, spool: str) -> None:
    try:
        if runner is not None:
            runner.close()
    finally:
        if spool:
            shutil.rmtree(spool, ignore_errors=True)
