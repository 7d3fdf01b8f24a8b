"""http(s) addresses as inputs: read-only, by byte range if the server has them."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from mrcelery.errors import ConfigError, StorageOutageError, StorageRefusedError, mask
from mrcelery.schema.backoff import pause
from mrcelery.storage.base import ObjectInfo, ObjectWriter, Storage, Version, copy_through
from mrcelery.storage.encodings import check_encoding

RESUMES = 5
"""How often in a row a broken download is taken up again where it stopped."""

_RETRIES = urllib3.Retry(total=4, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
# An encoded body would have other offsets than the file. A server may send one all the same.
_PLAIN = {"Accept-Encoding": "identity", "User-Agent": "mrcelery"}

# A body that ends early is an error, which urllib3 before 2.0 would not say.
_AS_SENT: dict[str, Any] = {"preload_content": False, "decode_content": False, "enforce_content_length": True}


class _Masked(logging.Filter):
    """urllib3 logs the addresses that it asks again, with their signatures."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(record.getMessage()), ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Masked())


class HttpStorage:
    """Objects of one web server, ``https://host:port``; a key is a path with its query.

    ``FileNotFoundError`` for 404 and 410, :class:`StorageOutageError` for a server that cannot serve now,
    :class:`StorageRefusedError` for all other refusals.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._met = False
        timeout = urllib3.Timeout(connect=10, read=60)
        proxy = _proxy(uri)
        if proxy:
            self._pool: urllib3.PoolManager = urllib3.ProxyManager(proxy, retries=_RETRIES, timeout=timeout)
        else:
            self._pool = urllib3.PoolManager(maxsize=8, retries=_RETRIES, timeout=timeout)

    def __repr__(self) -> str:
        return f"HttpStorage({self.uri!r})"

    @contextmanager
    def _open(self, method: str, key: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        url = f"{self.uri}/{key.partition('#')[0]}"
        try:
            response = self._pool.request(method, url, headers=_PLAIN | headers, **_AS_SENT)
        except HTTPError as e:
            raise StorageOutageError(
                f"{url} cannot be reached: check the address and the network ({e})", met=self._met
            ) from None
        self._met = True
        try:
            if response.status in (200, 206):
                _check_encoding(url, response)
            yield response
        finally:
            response.close()

    def _refuse(self, key: str, status: int) -> NoReturn:
        url = f"{self.uri}/{key}"
        if status in (404, 410):
            raise FileNotFoundError(mask(url))
        if status in (408, 425, 429) or (status >= 500 and status != 501):
            raise StorageOutageError(f"{url}: the server cannot serve it now (HTTP {status}): see how the server is")
        reason = "requires authentication" if status in (401, 403) else "refuses it"
        raise StorageRefusedError(f"{url}: the server {reason} (HTTP {status}): check the address in a browser")

    def probe(self, key: str) -> tuple[int, bool] | None:
        """Ask for the size of a file in bytes and whether the server serves byte ranges; None if it answers 404."""
        with self._open("HEAD", key, {}) as response:
            length = response.headers.get("Content-Length", "")
            if response.status == 200 and length.isdigit() and response.headers.get("Accept-Ranges") == "bytes":
                return int(length), True
        # Many servers do not announce ranges, or refuse HEAD: ask for one byte.
        with self._open("GET", key, {"Range": "bytes=0-0"}) as response:
            if response.status == 206:
                total = response.headers.get("Content-Range", "").rpartition("/")[2]
                return (int(total), True) if total.isdigit() else (-1, False)
            if response.status == 416:
                return 0, False
            if response.status == 200:
                length = response.headers.get("Content-Length", "")
                return int(length) if length.isdigit() else -1, False
            if response.status not in (404, 410):
                self._refuse(key, response.status)
            return None

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the size that the server states, -1 if it states none; None if it answers 404."""
        found = self.probe(key)
        return None if found is None else ObjectInfo(key, found[0])

    def accepts_ranges(self, key: str) -> bool:
        """Whether the server has the object in byte ranges, so that it may be split."""
        found = self.probe(key)
        return found is not None and found[1]

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read with a ranged GET; the server's whole file is cut here if it ignores the range."""
        return b"".join(self.stream(key, start, end))

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Resume a broken download where it stopped, up to :data:`RESUMES` times in a row.

        An ETag (or Last-Modified) other than that of ``version`` raises :class:`CorruptDataError`.
        """
        at, failures, version, heard = start, 0, version or Version(), time.monotonic()
        while end is None or at < end:
            headers = {"Range": f"bytes={at}-{'' if end is None else end - 1}"} if at or end is not None else {}
            with self._open("GET", key, headers) as response:
                if response.status == 416:
                    return
                if response.status not in (200, 206):
                    self._refuse(key, response.status)
                found = response.headers.get("ETag", "") or response.headers.get("Last-Modified", "")
                if not version.met(found):
                    raise version.replaced(f"{self.uri}/{key}", at)
                try:
                    # A server without ranges sends the whole file each time.
                    skip = at if response.status == 200 else 0
                    while data := response.read(chunk):
                        wanted = data[skip : None if end is None else skip + end - at]
                        skip = max(0, skip - len(data))
                        if wanted:
                            at += len(wanted)
                            failures, heard = 0, time.monotonic()
                            yield wanted
                        if end is not None and at >= end:
                            return
                    return
                except (HTTPError, OSError) as e:
                    failures += 1
                    if failures > RESUMES:
                        raise StorageOutageError(
                            f"{self.uri}/{key} breaks off at byte {at} again and again ({e}): "
                            "check the network, or copy the file to storage first",
                            seconds=time.monotonic() - heard,
                        ) from None
            time.sleep(pause(failures, 0.1, 2.0))

    def copy(self, key: str, to: Storage, to_key: str) -> None:
        """Download the file and write it to ``to``."""
        copy_through(self, key, to, to_key)

    def expect(self, present: bool = True) -> None:
        """Do nothing: a server that is away does not answer."""

    def local_path(self, key: str) -> str | None:
        """Return None: no file of a server lies on this machine."""
        return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Raise :class:`ConfigError`: HTTP has no listing."""
        raise ConfigError(f"{self.uri}/{prefix} cannot be listed: name each http(s) file as an input of its own")

    def folders(self, prefix: str) -> Iterator[str]:
        """Raise :class:`ConfigError`, as :meth:`list` does."""
        return (found.key for found in self.list(prefix))

    def _read_only(self) -> NoReturn:
        raise ConfigError(f"{self.uri} can only be read: set --storage or --output to s3://bucket/prefix or a folder")

    def write(self, key: str, data: bytes) -> None:
        """Raise :class:`ConfigError`: a server is an input, never a target."""
        self._read_only()

    def create(self, key: str, data: bytes) -> bool:
        """Raise :class:`ConfigError`, as :meth:`write` does."""
        self._read_only()

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Raise :class:`ConfigError`, as :meth:`write` does."""
        self._read_only()

    def sweep(self, folder: str) -> None:
        """Raise :class:`ConfigError`, as :meth:`write` does."""
        self._read_only()

    def delete(self, keys: Iterable[str]) -> int:
        """Raise :class:`ConfigError`, as :meth:`write` does."""
        self._read_only()


def _check_encoding(url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Raise :class:`InputError` for a body that is compressed, in transfer too, and whose name does not say so."""
    headers = (response.headers.get(name, "") for name in ("Content-Encoding", "Transfer-Encoding"))
    check_encoding(url, ",".join(headers), path=urlsplit(url).path)


def _proxy(uri: str) -> str:
    """Return the proxy for an address by the environment's ``http(s)_proxy`` and ``no_proxy``; "" for none."""
    parts = urlsplit(uri)
    if parts.hostname and urllib.request.proxy_bypass(parts.hostname):
        return ""
    return urllib.request.getproxies().get(parts.scheme, "")
