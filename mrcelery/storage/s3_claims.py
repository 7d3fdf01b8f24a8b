"""Claims on S3: one object each, which lists the multipart uploads that its holder has begun.

S3 cannot make the write of one object depend on another object. But an upload can be aborted, and then cannot be
completed. So every change is an upload that was begun, and recorded in the claim, before it is completed; the claim is
written on condition that nobody has written to it meanwhile. To revoke a claim is to mark it, on the same condition,
and to abort the uploads it lists. To remove an object, it is overwritten in this way by unique bytes, and then deleted
on condition that it still has them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager

import msgspec
from botocore.exceptions import ClientError

from mrcelery.errors import StorageUnreachableError
from mrcelery.schema.decoders import decoder
from mrcelery.storage.base import RevokedError, Source
from mrcelery.storage.s3 import S3Storage, conflict_pauses
from mrcelery.storage.s3_errors import code_of
from mrcelery.storage.s3_uploads import Upload
from mrcelery.storage.transfers import submit

_CHANGED = ("PreconditionFailed", "412", "NoSuchKey", "404")
_UNKNOWN = ("NotImplemented", "501")


class _Record(msgspec.Struct, frozen=True):
    """The content of a claim's object."""

    token: str
    """Unique to each write, so that no two writes have the same ETag."""
    uploads: tuple[tuple[str, str], ...] = ()
    """Keys, and their uploads that may be completed."""
    revoked: bool = False


class S3Claim:
    """The claim whose object is ``key``."""

    def __init__(self, storage: S3Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._etag = ""
        self._uploads: dict[str, str] = {}
        self._lock = threading.Lock()

    def take(self) -> None:
        """Write the claim's object."""
        self._etag = self._put(())

    def _put(self, uploads: Iterable[tuple[str, str]]) -> str:
        return _write(self._storage, self._key, _Record(os.urandom(8).hex(), tuple(uploads)), self._etag)

    def announce(self, keys: Collection[str]) -> None:
        """Begin an upload of each key, and record the uploads in the claim."""
        call = self._storage._call
        with self._lock, self._storage._errors("s3:PutObject", self._key):
            begun = {key: submit(call, "create_multipart_upload", key) for key in keys if key not in self._uploads}
            wait(begun.values())
            mine = {key: one.result()["UploadId"] for key, one in begun.items()}
            try:
                self._etag = self._put([*self._uploads.items(), *mine.items()])
            except RevokedError:
                _abort(self._storage, mine.items())
                raise
            self._uploads.update(mine)

    def _upload(self, key: str) -> Upload:
        if key not in self._uploads:
            self.announce([key])
        with self._lock:
            return Upload(self._storage, key, self._uploads.pop(key))

    def copy(self, source: Source, key: str) -> None:
        """Copy within S3, in parts; from other storages through this process."""
        with self._changing(key, source) as upload:
            if isinstance(source.storage, S3Storage):
                where = {"Bucket": source.storage.bucket, "Key": source.storage._prefix + source.key}
                upload.copy(where, source.size, source.tag)
            else:
                for chunk in source.storage.stream(source.key):
                    upload.write(chunk)
                if source.tag and _tag(source) != source.tag:
                    raise source.changed()
            upload.finish()

    def write(self, key: str, data: bytes) -> None:
        """Upload the bytes."""
        self._write(key, data)

    def _write(self, key: str, data: bytes) -> str:
        with self._changing(key) as upload:
            upload.write(data)
            return upload.finish()

    def remove(self, key: str) -> None:
        """Overwrite the object by unique bytes, and delete it if it still has them."""
        etag = self._write(key, os.urandom(16).hex().encode())
        with self._storage._errors("s3:DeleteObject", key):
            try:
                self._storage._call("delete_object", key, IfMatch=etag)
            except ClientError as e:
                if code_of(e) in _UNKNOWN:  # an endpoint without conditional deletes
                    self._check()
                    self._storage._call("delete_object", key)
                elif code_of(e) not in _CHANGED:
                    raise

    def release(self) -> None:
        """Delete the claim's object, and abort unused uploads."""
        self._storage.delete([self._key])
        with self._lock:
            _abort(self._storage, self._uploads.items())
            self._uploads.clear()

    @contextmanager
    def _changing(self, key: str, source: Source | None = None) -> Iterator[Upload]:
        """Yield the upload of ``key``; if it fails, find out why."""
        if key not in self._uploads:
            self.announce([key])
        with self._lock:
            upload = Upload(self._storage, key, self._uploads.pop(key))
        try:
            yield upload
        except BaseException as e:
            upload.abort()
            if isinstance(e, StorageUnreachableError | FileNotFoundError):
                self._check()
                if source is not None and source.tag and _tag(source) not in ("", source.tag):
                    raise source.changed() from None
            raise

    def _check(self) -> None:
        found = _read(self._storage, self._key)
        if found is None or found[0].revoked:
            raise RevokedError


def revoke(storage: S3Storage, key: str) -> None:
    """Revoke the claim whose object is ``key``; do nothing if it does not exist."""
    while (found := _read(storage, key)) is not None:
        record, etag = found
        if not record.revoked:
            try:
                _write(storage, key, _Record(os.urandom(8).hex(), record.uploads, revoked=True), etag)
            except RevokedError:
                continue  # its holder, or another process that revokes it, has written it meanwhile
        _abort(storage, record.uploads)
        storage.delete([key])
        return


def _tag(source: Source) -> str:
    found = source.storage.stat(source.key)
    return "" if found is None else found.tag


def _read(storage: S3Storage, key: str) -> tuple[_Record, str] | None:
    """Read a claim and its ETag; None if it does not exist."""
    with storage._errors("s3:GetObject", key):
        try:
            answer = storage._call("get_object", key)
        except ClientError as e:
            if code_of(e) in ("NoSuchKey", "404"):
                return None
            raise
        data = answer["Body"].read()
    try:
        return decoder(_Record)(data), answer["ETag"]
    except msgspec.DecodeError:
        return _Record(""), answer["ETag"]


def _write(storage: S3Storage, key: str, record: _Record, etag: str) -> str:
    """Write a claim and return its ETag; with an ``etag`` raise :class:`RevokedError` if the claim's differs."""
    condition = {"IfMatch": etag} if etag else {}
    waits = conflict_pauses()
    with storage._errors("s3:PutObject", key):
        while True:
            try:
                return str(storage._call("put_object", key, Body=msgspec.json.encode(record), **condition)["ETag"])
            except ClientError as e:
                # Another write is under way; S3 requires the loser to retry.
                if code_of(e) in ("ConditionalRequestConflict", "409") and (wait_for := next(waits, 0.0)):
                    time.sleep(wait_for)
                    continue
                if code_of(e) not in _CHANGED:
                    raise
                # The answer to a PUT that succeeded may have been lost, and boto3 retried it.
                found = _read(storage, key)
                if found is None or found[0] != record:
                    raise RevokedError from None
                return found[1]


def _abort(storage: S3Storage, uploads: Iterable[tuple[str, str]]) -> None:
    """Abort uploads, ignoring those already completed or aborted."""

    def abort(key: str, upload: str) -> None:
        try:
            storage._call("abort_multipart_upload", key, UploadId=upload)
        except ClientError as e:
            if code_of(e) not in ("NoSuchUpload", "404"):
                raise

    with storage._errors("s3:AbortMultipartUpload"):
        for one in [submit(abort, key, upload) for key, upload in uploads]:
            one.result()
