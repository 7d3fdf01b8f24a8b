"""Uploading an object to S3: in one PUT or in parts, from here or from another object."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, wait
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from mrcelery.storage.transfers import current, submit

PART = 8 << 20
"""Bytes of a part of a multipart upload (S3 requires at least 5 MiB); a smaller object is one PUT."""

COPY_PART = 512 << 20
"""Bytes of a part of a multipart copy, which does not pass through this process (S3 allows at most 5 GB)."""

UPLOADS = 3
"""Parts of one object in transfer at once; a writer holds at most ``UPLOADS + 1`` parts."""


class Upload:
    """An object being written: one PUT if it is small, otherwise a multipart upload.

    Its parts are transferred while more is written. Holds one part more than may be in transfer: :data:`UPLOADS`, or
    fewer if ``Transfers.memory`` has no room for them. ``upload``: the id of an existing multipart upload of this key,
    for an object that is written in that way however small it is.
    """

    def __init__(self, storage: Any, key: str, upload: str = "") -> None:
        self._storage = storage
        self._key = key
        self._moved = current()
        self._most = max(1, min(UPLOADS, self._moved.memory // PART - 1))
        self._buffer = bytearray()
        self._id = upload
        self._pending: deque[Future[Any]] = deque()
        self._etags: list[str] = []
        self._sent = 0

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Append bytes; send a part when it is full."""
        left = memoryview(data).cast("B")
        while left:
            room = self._part_size() - len(self._buffer)
            if not room:
                self._send()
                continue
            self._buffer += left[:room]
            left = left[room:]

    def _part_size(self) -> int:
        # S3 allows at most 10,000 parts: growing ones leave room for half a terabyte.
        return PART << min(3, self._sent // 1000)

    def copy(self, source: dict[str, str], size: int, tag: str = "") -> None:
        """Have S3 copy an object of ``size`` bytes, in parts; refused if its ETag is no longer ``tag``."""
        more = {"CopySourceIfMatch": tag} if tag else {}
        for start in range(0, size, COPY_PART):
            part = f"bytes={start}-{min(size, start + COPY_PART) - 1}"
            self._begin_part("upload_part_copy", CopySource=source, CopySourceRange=part, **more)

    def _send(self) -> None:
        """Send the buffer as a part; it is not copied, so a new one replaces it."""
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

    def finish(self) -> str:
        """Write the object and return its ETag, "" for one that is written behind."""
        if not self._id:
            if not self._moved.behind:
                return str(self._storage._put(self._key, self._buffer))
            self._moved.write_behind(len(self._buffer), self._storage._put, self._key, self._buffer)
            return ""
        if self._buffer or not self._sent:  # S3 requires a part, even for an empty object
            self._send()
        while self._pending:
            self._collect()
        parts = [{"PartNumber": i, "ETag": etag} for i, etag in enumerate(self._etags, 1)]
        with self._storage._errors("s3:PutObject", self._key):
            answer = self._storage._call(
                "complete_multipart_upload", self._key, UploadId=self._id, MultipartUpload={"Parts": parts}
            )
        return str(answer["ETag"])

    def abort(self) -> None:
        """End the upload, so that nothing of it is kept."""
        if not self._id:
            return
        # Parts still in transfer would be kept, and billed, after an abort that overtakes them.
        for part in self._pending:
            part.cancel()
        wait(self._pending)
        try:
            self._storage._call("abort_multipart_upload", self._key, UploadId=self._id)
        except (BotoCoreError, ClientError):
            pass  # the user must see the error that made the write fail
