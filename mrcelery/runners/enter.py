"""Registers a job in the job store, for every runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from mrcelery.errors import BrokerUnreachableError, UsageError
from mrcelery.jobstore.base import JobStore
from mrcelery.schema import object_keys
from mrcelery.schema.structs import Request
from mrcelery.storage import open_storage

INLINE_CODE = 1 << 20
"""Most bytes of code sent through the job store; the client puts larger code into storage."""


def enter(store: JobStore, request: Request, envelope: bytes, code: bytes, blobs: dict[str, bytes]) -> None:
    """Register a submitted job with its code and small inputs.

    Raises :class:`UsageError` if the job's id is taken.
    """
    send(store, request, code, blobs)
    register(store, request, envelope)


def send(store: JobStore, request: Request, code: bytes, blobs: dict[str, bytes]) -> None:
    """Send a job's code and small inputs: before the job, which others may start once it is registered."""
    if len(code) <= INLINE_CODE:
        store.put_blob(request.job, request.bundle.sha256, code)
    else:
        open_storage(request.storage).write(object_keys.code(request.job), code)
    for digest, data in blobs.items():
        store.put_blob(request.job, digest, data)


def register(store: JobStore, request: Request, envelope: bytes) -> None:
    """Register a job whose code has been sent. Raises :class:`UsageError` if its id is taken."""
    if not store.create(request.job, job_fields(request), envelope):
        raise UsageError(f"a job {request.job} exists already: give another --client-token, or none")


@contextmanager
def perhaps(job: str, done: str, remedy: str) -> Iterator[None]:
    """Add to a broker's failure that it may have carried out the request anyway, and how to find out."""
    try:
        yield
    except BrokerUnreachableError as e:
        raise BrokerUnreachableError(
            f"{e}; job {job} may have been {done} all the same: look with `mrcelery status {job}`, {remedy}"
        ) from e


def job_fields(request: Request) -> dict[str, str]:
    """Return the fields of a submitted job in the job store."""
    return {
        "name": request.name,
        "owner": request.owner,
        "created": repr(request.created),
        "storage": request.storage,
        "output": request.output,
        "queue": request.options.queue,
        "storage_patience": repr(request.options.storage_patience),
        "steps": msgspec.json.encode([(step.name, step.has_reducer) for step in request.steps]).decode(),
    }
