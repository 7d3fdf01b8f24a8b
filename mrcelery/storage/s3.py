"""S3, and compatible endpoints. Credentials, region, profile and endpoint are boto3's settings."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from mrcelery.config import Config as Settings
from mrcelery.errors import ConfigError, CorruptDataError, StorageOutageError, StorageRefusedError
from mrcelery.schema.backoff import pause, pauses
from mrcelery.storage.base import ObjectInfo, ObjectWriter, Storage, Version, copy_through
from mrcelery.storage.encodings import check_encoding
from mrcelery.storage.s3_clients import client
from mrcelery.storage.s3_errors import code_of, retries_of, translate
from mrcelery.storage.s3_uploads import Upload
from mrcelery.storage.transfers import current

RESUMES = 5
"""How often in a row a broken download is resumed where it stopped."""

CONFLICTS = 12
"""How often a conditional write is retried that conflicts with another one under way: for about ten seconds."""

LONGEST_PAUSE = 2.0
"""Longest pause between two tries of one request, in seconds."""

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
    "delete_object": "DELETE",
    "delete_objects": "DELETE",
}

# The operations that specify how an object is encrypted.
_ENCRYPTED = {"put_object", "copy_object", "create_multipart_upload"}


def _encryption() -> dict[str, str]:
    """Return the configured encryption parameters for each object written."""
    config = Settings.load({})
    if config.s3_kms_key and not (config.s3_encryption or "").startswith("aws:kms"):
        raise ConfigError(
            "s3_kms_key has no effect without s3_encryption: set that to aws:kms (MRCELERY_S3_ENCRYPTION)"
        )
    asked = {"ServerSideEncryption": config.s3_encryption, "SSEKMSKeyId": config.s3_kms_key}
    return {name: value for name, value in asked.items() if value}


def _size_of(response: Any) -> int:
    """Return the whole object's size from an answer with a part of it; -1 if it is not stated."""
    total = response["ContentRange"].rpartition("/")[2] if response.get("ContentRange") else ""
    if total.isdigit():
        return int(total)
    return -1 if response.get("ContentRange") else int(response.get("ContentLength", -1))


def _same_tag(one: str, other: str) -> bool:
    """Compare two ETags: some endpoints quote them in answers and not in listings."""
    return one.strip('"') == other.strip('"')


def conflict_pauses() -> Iterator[float]:
    """Yield the seconds before each new try of a conditional write that conflicted with another one under way."""
    return islice(pauses(0.05, LONGEST_PAUSE), CONFLICTS)


class S3Storage:
    """Objects of a bucket below a prefix, ``s3://bucket/prefix``.

    Requests are counted, as they are billed, in the caller's :class:`mrcelery.storage.transfers.Transfers`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.bucket, _, prefix = uri.rstrip("/").partition("://")[2].partition("/")
        self._prefix = prefix + "/" if prefix else ""
        if not self.bucket:
            raise ConfigError(f"{uri} has no bucket: write s3://bucket/prefix")
        self._encryption = _encryption()
        self._met = False
        """Whether the endpoint has ever answered."""

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
            answer = getattr(client(), operation)(Bucket=self.bucket, **params)
            again = retries_of(answer)
            self._met = True
        except ClientError as e:
            self._met = True
            again = retries_of(e.response)
            raise
        except HTTPError as e:
            if isinstance(e, BotoCoreError):
                raise
            raise HTTPClientError(error=e) from e  # botocore does not translate errors in a body that it reads itself
        finally:
            if again:
                moved.count("RETRY", again)
        return answer

    @contextmanager
    def _errors(self, right: str, key: str = "") -> Iterator[None]:
        """Translate botocore's errors to those of the storage interface; ``right`` names the IAM permission needed."""
        began = time.monotonic()
        try:
            yield
        except (BotoCoreError, ClientError) as e:
            took = time.monotonic() - began
            raise translate(e, right, self.bucket, self._prefix + key, met=self._met, seconds=took) from None

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read with one GET, resumed if it breaks; a missing object raises FileNotFoundError."""
        return b"".join(self.stream(key, start, end))

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Stream the bytes; resume a broken download where it stopped, up to :data:`RESUMES` times in a row.

        Requests with a planned ``version``, and all but the first with an unplanned one, carry ``If-Match``, so a
        replaced object raises :class:`CorruptDataError`; so does a body that does not match its checksum, after its
        bytes were yielded. With a ``version``, a compressed object whose key does not show the compression raises
        :class:`InputError`.
        """
        is_input = version is not None
        at, failures, version, heard = start, 0, version or Version(), time.monotonic()
        while end is None or at < end:
            with self._errors("s3:GetObject", key):
                if (response := self._get(key, at, end, version)) is None:
                    return
            body = response["Body"]
            try:
                tag, size = response["ETag"], _size_of(response)
                if _same_tag(tag, version.tag):
                    tag = version.tag
                if not version.met(tag, size):
                    raise version.replaced(f"{self.uri}/{key}", at, tag=tag, size=size)
                if is_input:
                    check_encoding(f"{self.uri}/{key}", response.get("ContentEncoding", ""))
                while data := body.read(chunk):
                    at += len(data)
                    failures, heard = 0, time.monotonic()
                    yield data
                return
            except FlexibleChecksumError as e:
                # Known only at the end of the body, when its bytes have been passed on.
                raise CorruptDataError(
                    f"{self.uri}/{key} does not match its checksum: {e}",
                    file=f"{self.uri}/{key}",
                ) from None
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, OSError) as e:
                failures += 1
                if failures > RESUMES:
                    raise StorageOutageError(
                        f"{self.uri}/{key} keeps breaking off at byte {at} ({e}): "
                        "check the network to the endpoint, then run `mrcelery retry`",
                        seconds=time.monotonic() - heard,
                    ) from None
                time.sleep(pause(failures, 0.1, LONGEST_PAUSE))
            finally:
                body.close()

    def _get(self, key: str, at: int, end: int | None, version: Version, *, conditional: bool = True) -> Any:
        """Request a range of one version; None if it is at or past the end, where a slice has no bytes."""
        params: dict[str, Any] = {}
        if conditional and version.tag and not version.tag.startswith("W/"):
            params["IfMatch"] = version.tag
        if at or end is not None:
            params["Range"] = f"bytes={at}-{'' if end is None else end - 1}"
        try:
            response = self._call("get_object", key, **params)
        except ClientError as e:
            changed = conditional and version.tag and code_of(e) in ("PreconditionFailed", "412")
            past = code_of(e) in ("InvalidRange", "416")
            if past and not (version.planned is not None and at < version.planned.size):
                return None
            if not past and not changed:
                raise
        else:
            if "Range" in params:
                self._check_range(key, at, end, response)
            return response
        if version.planned is None:
            raise version.replaced(f"{self.uri}/{key}", at)
        now = self.stat(key)
        if now is None:
            raise FileNotFoundError(f"{self.uri}/{key}")
        if not past and _same_tag(version.tag, now.tag):  # an endpoint that writes tags in several ways
            return self._get(key, at, end, version, conditional=False)
        raise version.replaced(f"{self.uri}/{key}", at, tag=now.tag, size=now.size)

    def _check_range(self, key: str, at: int, end: int | None, response: Any) -> None:
        """Raise :class:`StorageRefusedError` for an answer with other bytes than requested."""
        said = str(response.get("ContentRange", ""))
        whole = not said and at == 0 and end is not None and response["ContentLength"] <= end
        if not whole and not said.startswith(f"bytes {at}-"):
            response["Body"].close()
            raise StorageRefusedError(
                f"s3://{self.bucket}/{self._prefix}{key}: the endpoint was asked for bytes from {at} on, and sends "
                f"others ({said or 'no Content-Range'}): use one that has byte ranges, see `mrcelery doctor`"
            )

    def write(self, key: str, data: bytes) -> None:
        """Write with one PUT, whatever the size."""
        self._put(key, data)

    def _put(self, key: str, data: bytes | bytearray) -> str:
        """Write with one PUT, and return the object's ETag."""
        with self._errors("s3:PutObject", key):
            return str(self._call("put_object", key, Body=data)["ETag"])

    def create(self, key: str, data: bytes) -> bool:
        """Write with ``If-None-Match: *``.

        A token in the object's metadata shows whether a PUT that boto3 retried had succeeded the first time.
        """
        token = os.urandom(8).hex()
        waits = conflict_pauses()
        with self._errors("s3:PutObject", key):
            while True:
                try:
                    self._call("put_object", key, Body=data, IfNoneMatch="*", Metadata={"mrcelery-create": token})
                    return True
                except ClientError as e:
                    code = code_of(e)
                    # Another create is under way; S3 requires the loser to retry.
                    if code in ("ConditionalRequestConflict", "409") and (wait_for := next(waits, 0.0)):
                        time.sleep(wait_for)
                        continue
                    if code not in ("PreconditionFailed", "412"):
                        raise
                    if not e.response["ResponseMetadata"].get("RetryAttempts"):
                        return False
                    # The answer to a PUT that succeeded may have been lost, and boto3 retried it.
                    found = self._call("head_object", key)
                    return bool(found["Metadata"].get("mrcelery-create") == token)

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Write with one PUT, or with a multipart upload if it is large, aborted if the block raises."""
        return self._upload(key)

    @contextmanager
    def _upload(self, key: str) -> Iterator[Upload]:
        upload = Upload(self, key)
        try:
            yield upload
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def stat(self, key: str) -> ObjectInfo | None:
        """Use a HEAD request; "forbidden" raises, because without s3:ListBucket a missing key answers the same."""
        with self._errors("s3:GetObject and s3:ListBucket", key):
            try:
                found = self._call("head_object", key)
                return ObjectInfo(key, found["ContentLength"], found["ETag"])
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
                modified = found["LastModified"].timestamp()
                yield ObjectInfo(found["Key"][len(self._prefix) :], found["Size"], found["ETag"], modified)
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def folders(self, prefix: str) -> Iterator[str]:
        """List with the delimiter ``/``, 1,000 names per request."""
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
        """Delete 1,000 keys per request; the first key that S3 refuses raises."""
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
        """Abort unfinished multipart uploads below ``folder``; without permission, leave them to a lifecycle rule."""
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
            pass  # many lack this permission; a lifecycle rule of the bucket ends the uploads, too

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Copy within S3; above 5 GB with a multipart copy."""
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
                # Above 5 GB only a multipart copy works.
                size = self._call("head_object", key)["ContentLength"]
                with to._upload(to_key) as upload:
                    upload.copy(source, size)

    def expect(self, present: bool = True) -> None:
        """Do nothing: an endpoint that is away does not answer."""

    def local_path(self, key: str) -> str | None:
        """Return None: no object is in the file system."""
        return None
