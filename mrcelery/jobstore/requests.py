"""A job's request as the job store holds it, and which of its data can be trusted."""

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

    With a ``secret`` it is the address that the client has signed: anyone able to set the job's ``storage`` field could
    otherwise have the workers read, and write, elsewhere.
    """
    if secret is None:
        return fields.get("storage", "")
    request = read_request(store, job, secret)
    return "" if request is None else request.storage


def check_identity(request: Request, job: str, where: str) -> None:
    """Raise :class:`UnsignedError` if this is another job's request; its signature alone does not show that."""
    # A signature proves who wrote a record, not where it was put: another job's request would run that job again.
    if request.job != job:
        raise UnsignedError(f"{where} belongs to job {request.job}: it was moved there; submit the job again")
