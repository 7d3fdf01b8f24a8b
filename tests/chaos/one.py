"""One seed: an undisturbed run, the same job with the seed's faults, and the checks afterwards."""

from __future__ import annotations

import itertools
import shutil
import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mrcelery
from mrcelery import JobHandle
from mrcelery.errors import MRCeleryError, WaitTimeoutError
from mrcelery.jobstore.redis import RedisJobStore
from mrcelery.schema.states import FINAL
from tests.chaos import chaos_jobs, check
from tests.chaos.check import Result
from tests.chaos.cluster import QUEUE, Member, fleet
from tests.chaos.faults import Injector, S3Faults
from tests.chaos.plan import Plan, draw
from tests.support.s3_endpoint import s3_bucket, s3_endpoint
from tests.support.s3_proxy import proxy
from tests.support.services import RedisServer, redis_server

RECOVERY = 5.0
"""Seconds that a fault may cost beyond its duration: enough for a killed worker and a visibility timeout of 4 s."""

ALLOWANCE = 10.0
"""Seconds that a run with faults may take longer, however few faults there are."""

SETTLE = 20.0
"""Seconds after a job until all is tidy: its losing attempts and its leases have ended."""

READY = 30.0
LATE = 60.0
"""Further seconds to wait for a job that hangs, to distinguish a late job from one that never ends."""


@dataclass
class Outcome:
    """The outcome of a seed. Its seconds count from submission to the end of the wait; 0 if it got less far."""

    seed: int
    plan: str
    kinds: list[str] = field(default_factory=list)
    """The faults that took place."""
    verdict: str = "right"
    """``right``, ``wrong``, ``hang``, ``untidy`` (something was left behind), or ``error`` (of the driver)."""
    undisturbed: float = 0.0
    disturbed: float = 0.0
    bound: float = 0.0
    settled: float = 0.0
    problems: list[str] = field(default_factory=list)

    def blame(self, verdict: str, *problems: str) -> None:
        self.verdict = verdict if self.verdict == "right" else self.verdict
        self.problems += problems


def run(seed: int, folder: Path, patience: float = 1.0) -> Outcome:
    """Run a seed in a folder, which remains for inspection if anything goes wrong.

    ``patience`` multiplies the times above, for a busy machine.
    """
    plan = draw(seed)
    outcome = Outcome(seed, str(plan))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "plan.txt").write_text(f"{plan}\n")
    try:
        with ExitStack() as stack:
            _Seed(plan, folder, outcome, stack, patience).run()
    except Exception:
        outcome.blame("error", traceback.format_exc())
    if outcome.verdict == "right":
        shutil.rmtree(folder)
    else:
        (folder / "problems.txt").write_text("\n".join(outcome.problems))
    return outcome


class _Seed:
    def __init__(self, plan: Plan, folder: Path, outcome: Outcome, stack: ExitStack, patience: float) -> None:
        self.plan, self.folder, self.outcome, self.patience = plan, folder, outcome, patience
        self.ready = READY * patience
        self.s3: S3Faults | None = None
        if plan.s3:
            stack.enter_context(s3_endpoint())
            root = f"s3://{stack.enter_context(s3_bucket())}"
            self.s3 = S3Faults(stack.enter_context(proxy()))
        else:
            root = str(folder)
        self.storage, self.root = f"{root}/storage", root
        self.server: RedisServer = stack.enter_context(redis_server(appendonly="yes" if plan.durable else "no"))
        shutil.copy(chaos_jobs.__file__, folder / "chaos_jobs.py")
        self.job_file = str(folder / "chaos_jobs.py")
        self.input = folder / "input.txt"
        self.input.write_text("".join(f"{line}\n" for line in plan.lines))
        self.members: list[Member] = stack.enter_context(
            fleet(plan.workers, plan.processes, self.server, folder, self.storage)
        )
        self.store = RedisJobStore(self.server.socket_url)
        stack.callback(self.store.close)
        self._probes = itertools.count()

    def run(self) -> None:
        outcome, plan = self.outcome, self.plan
        if not self._everybody_works():
            raise RuntimeError(f"the fleet is not ready after {self.ready:.0f} s")
        before, handle = self._job("undisturbed", self.ready, None)
        if before is None:
            return
        outcome.undisturbed, outcome.disturbed = outcome.disturbed, 0.0
        self._tidy(handle, None)
        if not plan.speculative and (repeated := check.repeated(self.store, handle.id)):
            outcome.blame("wrong", *repeated)
            return
        left = self._left(handle)
        allowed = sum(RECOVERY * self.patience + f.seconds % 60 for f in plan.faults) + ALLOWANCE * self.patience
        outcome.bound = outcome.undisturbed + allowed
        injector = Injector(plan.faults, self.members, self.server, self.s3, self.folder / "tickets")
        after, handle = self._job("disturbed", outcome.bound, injector)
        outcome.kinds = [fault.kind for fault in injector.done]
        (self.folder / "faults.txt").write_text("\n".join(injector.said))
        if after is None:
            return
        if differences := list(before.differences(after)):
            outcome.blame("wrong", *differences)
        self._tidy(handle, left)
        if outcome.verdict == "right" and not self._everybody_works():
            outcome.blame("wrong", "not every process of the fleet takes tasks any more")

    def _submit(self, job: str, inputs: str, output: str, **options: Any) -> JobHandle:
        return mrcelery.submit(
            f"{self.job_file}:{job}",
            inputs,
            output or None,
            runner="celery",
            broker=self.server.tcp_url,
            storage=self.storage,
            queue=QUEUE,
            **options,
        )

    def _job(self, name: str, bound: float, injector: Injector | None) -> tuple[Result | None, JobHandle]:
        """Run the plan's job; return its result, or None if it had none within ``bound`` seconds."""
        plan, outcome = self.plan, self.outcome
        output = self._output(name)
        began = time.monotonic()
        handle = self._submit(
            plan.job,
            str(self.input),
            output,
            name=name,
            args=list(plan.args),
            reducers=plan.reducers or None,
            split_size=-(-self.input.stat().st_size // plan.tasks),
            max_attempts=20,
            max_bad_records=plan.bad,
            speculative=plan.speculative,
        )
        if injector is not None:
            injector.start(outcome.undisturbed)
        try:
            if not plan.waits:
                self._look_on(handle, began + bound)
            handle.wait(max(0.0, began + bound - time.monotonic()))
            outcome.disturbed = time.monotonic() - began
        except WaitTimeoutError:
            check.dump(self.folder, self.store, handle.id, self.storage)
            outcome.blame("hang", f"the {name} job had not ended after {bound:.1f} s; {self._later(handle, began)}")
        except MRCeleryError as e:
            check.dump(self.folder, self.store, handle.id, self.storage)
            outcome.blame("wrong", f"the {name} job: {type(e).__name__}: {e}")
        finally:
            if injector is not None:
                injector.job_has_ended()
                injector.finish()
        if outcome.verdict != "right":
            handle.close()
            return None, handle
        return check.result(handle, output), handle

    def _look_on(self, handle: JobHandle, until: float) -> None:
        """Wait until the job has ended, without helping it as a waiting client does."""
        while time.monotonic() < until:
            with suppress(MRCeleryError):  # Redis is away
                if self.store.state(handle.id) in FINAL:
                    return
            time.sleep(0.05)

    def _output(self, name: str) -> str:
        return f"{self.root}/out-{name}" if self.plan.output else ""

    @staticmethod
    def _later(handle: JobHandle, began: float) -> str:
        try:
            handle.wait(LATE)
        except WaitTimeoutError:
            return "nor did it later"
        except MRCeleryError as e:
            return f"later: {type(e).__name__}: {e}"
        return f"it had after {time.monotonic() - began:.1f} s"

    def _left(self, handle: JobHandle) -> set[str]:
        """Return all names in storage and at the job's OUTPUT, except those of other jobs."""
        names = check.names_left(self.storage, handle.id)
        found = {name for name in names if not name.startswith("jobs/") or name.startswith("jobs/<job>/")}
        if self.plan.output:
            uri = self._output(handle.id.partition("-")[0])
            found |= {f"OUTPUT/{name}" for name in check.names_left(uri, handle.id)}
        return found

    def _tidy(self, handle: JobHandle, before: set[str] | None) -> None:
        """Wait until storage is as it was ``before``, and Redis and the workers keep nothing of the job."""
        began = time.monotonic()
        while True:
            problems = check.redis_left(self.store, handle.id) + check.members_left(self.members)
            if before is not None:
                left = self._left(handle)
                problems += [f"left in storage: {name}" for name in sorted(left - before)]
                problems += [f"not in storage: {name}" for name in sorted(before - left)]
            self.outcome.settled = time.monotonic() - began
            if not problems:
                return
            if self.outcome.settled > SETTLE * self.patience:
                self.outcome.blame("untidy", *problems)
                check.dump(self.folder, self.store, handle.id, self.storage)
                return
            time.sleep(0.1)

    def _everybody_works(self) -> bool:
        """Check whether each process of the fleet takes a task: all must run one at the same time."""
        number = next(self._probes)
        folder = self.folder / f"probe-{number}"
        folder.mkdir()
        processes = self.plan.workers * self.plan.processes
        text = self.folder / f"probe-{number}.txt"
        text.write_text("".join(f"{task:03d}\n" for task in range(processes)))
        args = ["--processes", str(processes), "--folder", str(folder)]
        with self._submit("Everybody", str(text), "", args=args, split_size=4, speculative=False) as handle:
            try:
                handle.wait(self.ready)
            except MRCeleryError as e:
                self.outcome.problems.append(f"probe: {e}")
                check.dump(self.folder, self.store, handle.id, self.storage)
                return False
            return sorted(line for line, _ in handle) == [f"{task:03d}" for task in range(processes)]
