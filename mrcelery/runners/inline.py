"""The inline runner: the whole job in this process, one task after the other, so that a debugger works."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from contextlib import suppress
from functools import partial

from mrcelery.attempt.cleanup import clean_up
from mrcelery.attempt.failure import fail_job, failure
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.run import run_attempt
from mrcelery.coordinator.barrier import barrier
from mrcelery.coordinator.finish import finish, withdraw_output
from mrcelery.coordinator.start import start
from mrcelery.errors import JobStoppedError, MRCeleryError
from mrcelery.jobstore.base import generation_of
from mrcelery.jobstore.memory import MemoryJobStore
from mrcelery.reporting.report import write_report
from mrcelery.runners.enter import enter
from mrcelery.schema import object_keys
from mrcelery.schema.signing import seal
from mrcelery.schema.structs import Request
from mrcelery.storage import open_storage
from mrcelery.storage.patience import Patience


class InlineRunner:
    """Runs jobs in this process; ``breakpoint()`` works in user code, and its output is not captured.

    Without a ``storage`` the data is in a temporary folder, which :meth:`close` removes.
    """

    patience = 0.0

    def __init__(self, storage: str | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="mrcelery-")
        self.storage = storage or f"{self._folder}/storage"
        self.store = MemoryJobStore()

    def submit(self, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
        """Run the job to its end; its final state is in the job store."""
        # A request's signature protects it on its way to a fleet; here it never leaves the process.
        enter(self.store, request, seal(request, None), code, blobs)
        self.start(request.job, request.options.queue)

    def start(self, job: str, queue: str, generation: int = 0) -> None:
        """Run a registered job, or the rest of it."""
        jobs = OpenJobs(self.store, scratch=f"{self._folder}/scratch")
        step, kind, number = -1, "", -1
        try:
            patience = Patience(jobs.options(job).storage_patience, _report)
            stage = patience.call(lambda: start(jobs, job))
            while stage is not None:
                step, kind = stage.id.step, stage.id.kind
                for number in range(stage.tasks) if stage.missing is None else stage.missing:
                    patience.call(partial(run_attempt, jobs, stage.id.task_id(number), capture=False))
                number = -1
                stage = patience.call(partial(barrier if stage.then == "barrier" else finish, jobs, job, step))
            clean_up(jobs, job)
        except JobStoppedError:
            pass
        except MRCeleryError as e:
            failed = failure(e, job=job, step=step, kind=kind, task=number)
            fail_job(self.store, failed, generation_of(self.store.fields(job)), None)
            with suppress(MRCeleryError):
                withdraw_output(jobs, job)
                write_report(self.store, job, None)
        except KeyboardInterrupt:
            self.store.move(job, "cancelled", {"finished": repr(time.time())})
            with suppress(MRCeleryError):
                withdraw_output(jobs, job)
                clean_up(jobs, job)
                # Nobody can resume it after this process has ended.
                storage = open_storage(self.store.fields(job)["storage"])
                storage.delete(info.key for info in storage.list(object_keys.job_root(job)))
            raise

    def restore_if_lost(self, job: str, fields: dict[str, str]) -> bool:
        """Return False: nothing is lost while this process lives."""
        return False

    def check(self) -> None:
        """Do nothing: the job runs in this process."""

    def close(self) -> None:
        """Remove the temporary folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _report(seconds: float, patience: float, reason: str) -> None:
    logging.getLogger("mrcelery").warning(
        "storage not reachable for %.0f s: waiting, at most %.0f s (%s)", seconds, patience, reason
    )
