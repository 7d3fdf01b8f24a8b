"""The job processes of a pool process: start them, give them attempts, end them.

A pool process runs no job code itself. For each job it forks a process (:mod:`mrcelery.attempt.job_process`) to which
it sends the job's attempts, one at a time, over a socket. If the job process dies during an attempt, the pool process
ends the same way, so that the worker sees one process die of the same cause, as if the attempt had run in it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import warnings
from collections import OrderedDict
from contextlib import suppress
from typing import Any

import msgspec

from mrcelery.attempt.begin import begin
from mrcelery.attempt.descendants import adopt_orphans, end_as, end_children, supported
from mrcelery.attempt.job_process import MESSAGE, serve
from mrcelery.attempt.machine import of_the_machine
from mrcelery.attempt.open_jobs import OpenJobs
from mrcelery.attempt.orders import Begun, Ended, raise_again
from mrcelery.errors import MRCeleryError
from mrcelery.schema.decoders import decoder
from mrcelery.schema.task_id import TaskId
from mrcelery.storage.transfers import transfers

__all__ = ["JobProcesses", "supported"]

KEPT = 2
"""Job processes that a pool process keeps at a time; it ends the least recently used one to start another."""

GRACE_SECONDS = 1.0
"""How long a job process may take to end what its attempt has started, before it is killed."""


class _Ended(Exception):
    """The job process has ended without starting the attempt it was given: it had been idle for too long."""


class JobProcesses:
    """The job processes of this pool process; created in it, once."""

    def __init__(self) -> None:
        self._running: OrderedDict[tuple[str, int], _Running] = OrderedDict()
        self._unforkable: set[tuple[str, int]] = set()
        self._ended: dict[int, int] = {}
        adopt_orphans()
        signal.signal(signal.SIGCHLD, self._reap)

    def _reap(self, number: int, frame: Any) -> None:
        """Record children that have ended, so that none stays a zombie while this process waits for tasks."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self._ended[found[0]] = found[1]

    def attempt(self, jobs: OpenJobs, task: TaskId, worker: str, generation: int) -> None:
        """Run an attempt at a task in its job's process; raises like :func:`mrcelery.attempt.run.run_attempt`."""
        begun = _with_split(jobs, begin(jobs, task, worker, alone=True))
        which = (task.job, generation)
        while True:
            running = self._running.get(which) or self._start(jobs, which, begun)
            self._running.move_to_end(which)
            try:
                ended = running.run(begun)
            except _Ended:
                status = self._forget(which)
                if status:
                    self._end_as(status)
                continue
            except BaseException:  # a time limit of the app, for example: the attempt must not continue unseen
                self._forget(which)
                raise
            if ended.unforkable:
                self._unforkable.add(which)
                self._forget(which)
                continue
            if ended.died is not None:
                self._end_as(ended.status)
            raise_again(ended)
            return

    def _start(self, jobs: OpenJobs, which: tuple[str, int], begun: Begun) -> _Running:
        while len(self._running) >= KEPT:
            self._forget(next(iter(self._running)))
        living = {running.pid for running in self._running.values()}
        self._ended = {pid: status for pid, status in self._ended.items() if pid in living}
        # If the task may have been started too often, the attempt reports that before any of the job's code runs.
        counted = begun.number <= jobs.open(begun.job).spec.request.options.max_attempts
        ahead = counted and which not in self._unforkable
        try:
            running = self._running[which] = _Running(jobs, which[0], ahead=ahead)
        except OSError as e:
            raise of_the_machine(e, begun.name, jobs) from e
        return running

    def _forget(self, which: tuple[str, int]) -> int:
        """End a job process, and return its exit status."""
        running = self._running.pop(which)
        running.close()
        while running.pid not in self._ended:
            with suppress(ChildProcessError):  # already reaped
                pid, status = os.waitpid(running.pid, 0)
                self._ended[pid] = status
        # If the job process had to be killed, its children now belong to this process.
        end_children({other.pid for other in self._running.values()})
        return self._ended.pop(running.pid)

    def _end_as(self, status: int) -> None:
        """End this process, and all that it has started, the way the job process has ended."""
        for running in self._running.values():
            running.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_children()
        end_as(status)


class _Running:
    """One job's process."""

    def __init__(self, jobs: OpenJobs, job: str, *, ahead: bool) -> None:
        self._channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Until its pidfd is open, the child may end but must not be reaped.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        try:
            with warnings.catch_warnings():
                # Python 3.12 warns about forking if this process has threads: the child needs none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.pid = os.fork()
            if self.pid:
                self._watch = os.pidfd_open(self.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if not self.pid:
            serve(jobs, job, other, ahead=ahead)
        other.close()
        self._waiting = select.poll()
        self._waiting.register(self._channel, select.POLLIN)
        self._waiting.register(self._watch, select.POLLIN)

    def run(self, begun: Begun) -> Ended:
        """Send the process an attempt, and wait until it has ended. Raises :class:`_Ended`."""
        try:
            self._channel.send(msgspec.json.encode(begun))
        except OSError:
            raise _Ended from None
        while True:
            # Watch the process too, not only the channel: a process that the job started may hold the other end open.
            seen = dict(self._waiting.poll())
            if self._channel.fileno() not in seen:
                raise _Ended
            try:
                data = self._channel.recv(2 * MESSAGE)
            except ConnectionResetError:  # it ended without reading the attempt
                data = b""
            if not data:
                raise _Ended
            ended = decoder(Ended)(data)
            if ended.died in (None, "", begun.token):  # else it died of something that followed an earlier attempt
                return ended

    def close(self) -> None:
        """End the process: it exits when its channel closes, and is killed if it does not."""
        self._channel.close()
        ended = select.poll()
        ended.register(self._watch, select.POLLIN)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
            if not ended.poll(GRACE_SECONDS * 1000):
                os.kill(self.pid, signal.SIGKILL)
        os.close(self._watch)


def _with_split(jobs: OpenJobs, begun: Begun) -> Begun:
    """Add a map task's split, whose page this process caches for longer than one attempt."""
    if begun.kind != "map":
        return begun
    with suppress(MRCeleryError, OSError), transfers() as moved:  # the attempt hits the same error and reports it
        split = jobs.split(jobs.open(begun.job), begun.step, begun.task)
        requests = {**begun.requests}
        for kind, number in moved.requests.items():
            requests[kind] = requests.get(kind, 0) + number
        more = msgspec.structs.replace(begun, split=split, requests=requests)
        if len(msgspec.json.encode(more)) < MESSAGE:
            return more
    return begun
