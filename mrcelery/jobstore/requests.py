"""A job's request, as the job store has it, and what of it is to be trusted."""

from __future__ import annotations

from collections.abc import Mapping

from mrcelery.errors import UnsignedError
from mrcelery.jobstore.base import JobStore
from mrcelery.schema.signing import unseal
from mrcelery.schema.structs import Request


def read_request(store: JobStore, job: str, secret: str | bytes | None) -> Request | None:
    """Return the job's request as its client sent it, verified with a ``secret``; None if the job is not known."""
    data = store.request(job)
    if data is None:
        return None
    where = f"the request of job {job}"
    request = unseal(data, Request, secret, where)
    check_identity(request, job, where)
    return request


def storage_of(store: JobStore, job: str, fields: Mapping[str, str], secret: str | bytes | None) -> str:
    """Return the address of the job's storage, "" if the job store does not know it.

    With a ``secret`` it is the one that the client has signed: who sets the job's field of that name could have the
    workers read, and write, elsewhere.
    """
    if secret is None:
        return fields.get("storage", "")
    request = read_request(store, job, secret)
    return "" if request is None else request.storage


def check_identity(request: Request, job: str, where: str) -> None:
    """Raise :class:`UnsignedError` for another job's request, which a signature does not tell from this one's."""
    # A signature says who wrote a record, not where it was put: another job's would run that one again.
    if request.job != job:
        raise UnsignedError(f"{where} is that of job {request.job}: it was moved there; submit the job again")
