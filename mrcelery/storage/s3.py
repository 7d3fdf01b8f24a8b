"""S3, and endpoints that speak it. Credentials, region, profile and endpoint are all boto3's own."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from mrcelery.config import Config as Settings
from mrcelery.errors import ConfigError, CorruptDataError, StorageUnreachableError
from mrcelery.storage.base import ObjectInfo, ObjectWriter, Storage, Version, copy_through
from mrcelery.storage.encodings import check_encoding
from mrcelery.storage.s3_errors import code_of, retries_of, translate
from mrcelery.storage.transfers import THREADS, current, submit

PART = 8 << 20
"""Bytes of a part of a multipart upload (S3 wants 5 MiB at least); a smaller object is one PUT."""

COPY_PART = 512 << 20
"""Bytes of a part of a multipart copy, which moves nothing through this process (S3 takes 5 GB at most)."""

UPLOADS = 3
"""Parts of one object on their way at once; a writer holds at most ``UPLOADS + 1`` parts."""

RESUMES = 5
"""How often in a row a broken download is taken up again where it stopped."""

# How each operation is billed: HEAD as GET; copies and the steps of a multipart upload as PUT.
_BILLED = {
    "get_object": "GET",
    "head_object": "GET",
    "put_object": "PUT",
    "copy_object": "PUT",
    "create_multipart_upload": "PUT",
    "upload_part": "PUT",
    "upload_part_copy": "PUT",
    "complete_multipart_upload": "PUT",
    "abort_multipart_upload": "DELETE",
    "list_objects_v2": "LIST",
    "list_multipart_uploads": "LIST",
    "delete_objects": "DELETE",
}

# The operations that say how an object is encrypted.
_ENCRYPTED = {"put_object", "copy_object", "create_multipart_upload"}

# A client holds to the settings it was made with, so one is kept per process and settings.
_KEPT_CLIENTS = (
    4  # each takes some 15 MB and up to 2 * THREADS connections, and settings such as a session's token change
)
_SETTINGS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN",
    "MRCELERY_STORAGE_TIMEOUT",
)
clients: dict[tuple[object, ...], Any] = {}
_connecting = threading.Lock()  # threads that start together wait for the client that one of them makes


def _forked() -> None:
    """Make a new lock: a thread that the child does not have may hold the parent's."""
    global _connecting
    _connecting = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def _client() -> Any:
    settings = (os.getpid(), *map(os.environ.get, _SETTINGS))
    if (client := clients.get(settings)) is not None:
        return client
    with _connecting:
        if (client := clients.get(settings)) is None:
            client = clients[settings] = _connect()
            for oldest in list(clients)[:-_KEPT_CLIENTS]:
                del clients[oldest]  # closed as soon as no call uses it any more
        return client


def _connect() -> Any:
    # A session of our own: boto3's default session is not safe to share between threads.
    session = boto3.session.Session()
    timeout = Settings.load({}).storage_timeout
    config = Config(
        connect_timeout=min(10, timeout),
        read_timeout=timeout,
        tcp_keepalive=True,
        max_pool_connections=2 * THREADS,
    )
    profile = session._session.get_scoped_config()
    if not {"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"} & os.environ.keys() and "retry_mode" not in profile:
        # boto3's default mode, "legacy", does not retry all that S3 says is worth it.
        config = config.merge(Config(retries={"mode": "standard", "total_max_attempts": 4}))
    return session.client("s3", config=config)


def _encryption() -> dict[str, str]:
    """Return the encryption parameters that the configuration asks for with each object written."""
    config = Settings.load({})
    if config.s3_kms_key and not (config.s3_encryption or "").startswith("aws:kms"):
        raise ConfigError("s3_kms_key is of no use without s3_encryption: set that to aws:kms (MRCELERY_S3_ENCRYPTION)")
    asked = {"ServerSideEncryption": config.s3_encryption, "SSEKMSKeyId": config.s3_kms_key}
    return {name: value for name, value in asked.items() if value}


class S3Storage:
    """Objects of a bucket below a prefix, ``s3://bucket/prefix``.

    Requests are counted, as they are billed, in the caller's :class:`mrcelery.storage.transfers.Transfers`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, _, prefix = uri.rstrip("/").partition("://")[2].partition("/")
        self._prefix = prefix + "/" if prefix else ""
        if not self.bucket:
            raise ConfigError(f"{uri} names no bucket: write s3://bucket/prefix")
        self._encryption = _encryption()

    def __repr__(self) -> str:
        return f"S3Storage({self.uri!r})"

    def _call(self, operation: str, key: str | None = None, **params: Any) -> Any:
        moved, again = current(), 0
        moved.count(_BILLED[operation])
        if key is not None:
            params["Key"] = self._prefix + key
        if operation in _ENCRYPTED:
            params |= self._encryption
        try:
            answer = getattr(_client(), operation)(Bucket=self.bucket, **params)
            again = retries_of(answer)
        except ClientError as e:
            again = retries_of(e.response)
            raise
        finally:
            if again:
                moved.count("RETRY", again)
        return answer

    @contextmanager
    def _errors(self, right: str, key: str = "") -> Iterator[None]:
        """Translate botocore's errors to those of the storage seam; ``right`` names what the call needs of IAM."""
        try:
            yield
        except (BotoCoreError, ClientError) as e:
            raise translate(e, right, self.bucket, self._prefix + key) from None

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read with one GET, resumed if it breaks; a missing object raises FileNotFoundError."""
        return b"".join(self.stream(key, start, end))

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Resume a broken download where it stopped, up to :data:`RESUMES` times in a row.

        Later requests of one ``version`` carry ``If-Match``, so a replaced object raises :class:`CorruptDataError`;
        so does a body that does not match its checksum, after its bytes were yielded. With a ``version``, an object
        that is compressed and whose key does not say so raises :class:`InputError`.
        """
        is_input = version is not None
        at, failures, version = start, 0, version or Version()
        while end is None or at < end:
            params: dict[str, Any] = {"IfMatch": version.tag} if version.tag else {}
            if at or end is not None:
                params["Range"] = f"bytes={at}-{'' if end is None else end - 1}"
            with self._errors("s3:GetObject", key):
                try:
                    response = self._call("get_object", key, **params)
                except ClientError as e:
                    if code_of(e) in ("InvalidRange", "416"):
                        return  # at or past the end: no bytes, as a slice has none
                    if version.tag and code_of(e) in ("PreconditionFailed", "412"):
                        raise version.replaced(f"{self.uri}/{key}", at) from None
                    raise
            body = response["Body"]
            try:
                if not version.met(response["ETag"]):
                    raise version.replaced(f"{self.uri}/{key}", at)
                if is_input:
                    check_encoding(f"{self.uri}/{key}", response.get("ContentEncoding", ""))
                while data := body.read(chunk):
                    at += len(data)
                    failures = 0
                    yield data
                return
            except FlexibleChecksumError as e:
                # Known at the body's end only, when its bytes are handed on.
                raise CorruptDataError(
                    f"{self.uri}/{key} does not match its checksum: {e}",
                    file=f"{self.uri}/{key}",
                ) from None
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, OSError) as e:
                failures += 1
                if failures > RESUMES:
                    raise StorageUnreachableError(
                        f"{self.uri}/{key} breaks off at byte {at} again and again ({e}): "
                        "check the network to the endpoint, then run `mrcelery retry`"
                    ) from None
                time.sleep(0.1 * 2**failures)
            finally:
                body.close()

    def write(self, key: str, data: bytes) -> None:
        """Write with one PUT, whatever the size."""
        self._put(key, data)

    def _put(self, key: str, data: bytes | bytearray) -> None:
        with self._errors("s3:PutObject", key):
            self._call("put_object", key, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        """Write with ``If-None-Match: *``.

        A token in the object's metadata shows whether a PUT that boto3 retried had succeeded the first time.
        """
        token = os.urandom(8).hex()
        with self._errors("s3:PutObject", key):
            while True:
                try:
                    self._call("put_object", key, Body=data, IfNoneMatch="*", Metadata={"mrcelery-create": token})
                    return True
                except ClientError as e:
                    code = code_of(e)
                    if code in ("ConditionalRequestConflict", "409"):
                        continue  # another create is under way; S3 wants the loser to ask again
                    if code not in ("PreconditionFailed", "412"):
                        raise
                    if not e.response["ResponseMetadata"].get("RetryAttempts"):
                        return False
                    # The answer to a PUT that succeeded may have been lost, and boto3 asked again.
                    found = self._call("head_object", key)
                    return bool(found["Metadata"].get("mrcelery-create") == token)

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Write with one PUT, or a multipart upload from :data:`PART` bytes on, aborted if the block raises."""
        return self._upload(key)

    @contextmanager
    def _upload(self, key: str) -> Iterator[_Upload]:
        upload = _Upload(self, key)
        try:
            yield upload
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def stat(self, key: str) -> ObjectInfo | None:
        """Ask with a HEAD; "forbidden" raises, since without s3:ListBucket a missing key answers the same."""
        with self._errors("s3:GetObject and s3:ListBucket", key):
            try:
                return ObjectInfo(key, self._call("head_object", key)["ContentLength"])
            except ClientError as e:
                if code_of(e) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List in pages of 1,000 keys; S3 orders them by their UTF-8 bytes, which is by code point."""
        more: dict[str, str] = {}
        while True:
            with self._errors("s3:ListBucket", prefix):
                page = self._call("list_objects_v2", Prefix=self._prefix + prefix, **more)
            for found in page.get("Contents", ()):
                yield ObjectInfo(found["Key"][len(self._prefix) :], found["Size"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def folders(self, prefix: str) -> Iterator[str]:
        """List with the delimiter ``/``, 1,000 names a request."""
        full = self._prefix + prefix
        more: dict[str, str] = {}
        while True:
            with self._errors("s3:ListBucket", prefix):
                page = self._call("list_objects_v2", Prefix=full, Delimiter="/", **more)
            for found in page.get("CommonPrefixes", ()):
                yield found["Prefix"][len(full) : -1]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> int:
        """Delete 1,000 keys a request; the first key that S3 refuses raises."""
        count = 0
        source = iter(keys)
        while batch := list(islice(source, 1000)):
            count += len(batch)
            objects = [{"Key": self._prefix + key} for key in batch]
            with self._errors("s3:DeleteObject"):
                answer = self._call("delete_objects", Delete={"Objects": objects, "Quiet": True})
                if failed := answer.get("Errors"):
                    raise ClientError({"Error": failed[0]}, "DeleteObjects")
        return count

    def sweep(self, folder: str) -> None:
        """Abort unfinished multipart uploads below ``folder``; without the right to, leave them to a lifecycle rule."""
        more: dict[str, str] = {}
        try:
            while True:
                page = self._call("list_multipart_uploads", Prefix=self._prefix + folder, **more)
                for found in page.get("Uploads", ()):
                    key = found["Key"][len(self._prefix) :]
                    self._call("abort_multipart_upload", key, UploadId=found["UploadId"])
                if not page.get("IsTruncated"):
                    return
                more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
        except (BotoCoreError, ClientError):
            pass  # a right that many lack; a lifecycle rule of the bucket's ends them, too

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Copy within S3; above 5 GB in a multipart copy."""
        if not isinstance(to, S3Storage):
            copy_through(self, key, to, to_key)
            return
        source = {"Bucket": self.bucket, "Key": self._prefix + key}
        if source == {"Bucket": to.bucket, "Key": to._prefix + to_key}:
            with self._errors("s3:GetObject", key):
                self._call("head_object", key)
            return  # S3 refuses to copy an object to itself
        with self._errors("s3:GetObject, s3:PutObject", key):
            try:
                to._call("copy_object", to_key, CopySource=source)
            except ClientError as e:
                if code_of(e) not in ("InvalidRequest", "EntityTooLarge"):
                    raise
                # Above 5 GB only a multipart copy will do.
                size = self._call("head_object", key)["ContentLength"]
                with to._upload(to_key) as upload:
                    upload.copy(source, size)

    def local_path(self, key: str) -> str | None:
        """Return None: no object lies in the file system."""
        return None


class _Upload:
    """An object being written: one PUT if it is small, a multipart upload if it is not.

    Its parts are on their way while more is written. Holds one part more than may be on their way:
    :data:`UPLOADS`, or fewer if ``Transfers.memory`` has no room for them.
    """

    def __init__(self, storage: S3Storage, key: str) -> None:
        self._storage = storage
        self._key = key
        self._moved = current()
        self._most = max(1, min(UPLOADS, self._moved.memory // PART - 1))
        self._buffer = bytearray()
        self._id = ""
        self._pending: deque[Future[Any]] = deque()
        self._etags: list[str] = []
        self._sent = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        left = memoryview(data).cast("B")
        while left:
            room = self._part_size() - len(self._buffer)
            if not room:
                self._send()
                continue
            self._buffer += left[:room]
            left = left[room:]

    def _part_size(self) -> int:
        # S3 takes 10,000 parts at most: growing ones leave room for half a terabyte.
        return PART << min(3, self._sent // 1000)

    def copy(self, source: dict[str, str], size: int) -> None:
        """Have S3 copy an object of ``size`` bytes, in parts."""
        for start in range(0, size, COPY_PART):
            part = f"bytes={start}-{min(size, start + COPY_PART) - 1}"
            self._begin_part("upload_part_copy", CopySource=source, CopySourceRange=part)

    def _send(self) -> None:
        """Send the buffer as a part; it is not copied, so a new one takes its place."""
        part, self._buffer = self._buffer, bytearray()
        self._begin_part("upload_part", Body=part)

    def _begin_part(self, operation: str, **params: Any) -> None:
        if not self._id:
            with self._storage._errors("s3:PutObject", self._key):
                self._id = self._storage._call("create_multipart_upload", self._key)["UploadId"]
        while len(self._pending) >= self._most:
            self._collect()
        self._sent += 1
        params |= {"UploadId": self._id, "PartNumber": self._sent}
        self._pending.append(submit(self._storage._call, operation, self._key, **params))

    def _collect(self) -> None:
        with self._storage._errors("s3:PutObject", self._key):
            answer = self._pending.popleft().result()
        self._etags.append(answer.get("CopyPartResult", answer)["ETag"])

    def finish(self) -> None:
        if not self._id:
            if self._moved.behind:
                self._moved.write_behind(len(self._buffer), self._storage._put, self._key, self._buffer)
            else:
                self._storage._put(self._key, self._buffer)
            return
        if self._buffer:
            self._send()
        while self._pending:
            self._collect()
        parts = [{"PartNumber": i, "ETag": etag} for i, etag in enumerate(self._etags, 1)]
        with self._storage._errors("s3:PutObject", self._key):
            self._storage._call(
                "complete_multipart_upload", self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )

    def abort(self) -> None:
        if not self._id:
            return
        # Parts still on their way would be kept, and billed, after an abort that overtakes them.
        for part in self._pending:
            part.cancel()
        wait(self._pending)
        try:
            self._storage._call("abort_multipart_upload", self._key, UploadId=self._id)
        except (BotoCoreError, ClientError):
            pass  # what made the write fail is what the user must read
