"""http(s) addresses as inputs: read-only, by byte range if the server supports ranges."""

from __future__ import annotations

import logging
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, ProtocolError

from mrcelery.errors import ConfigError, StorageOutageError, StorageRefusedError, mask
from mrcelery.schema.backoff import pause
from mrcelery.storage.base import ObjectInfo, ObjectWriter, Storage, Version, copy_through
from mrcelery.storage.encodings import check_encoding
from mrcelery.storage.http_replies import Reply, conditions, examine, moved_to, part_of, size_past, tag_of, whole_of

RESUMES = 5
"""How often in a row a broken download is resumed where it stopped."""

_DRAINED = 64 << 10

REDIRECTS = 10
"""How many redirects in a row are followed."""

_RETRIES = urllib3.Retry(total=4, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)
# An encoded body would have other offsets than the file. A server may send one anyway.
_PLAIN = {"Accept-Encoding": "identity", "User-Agent": "mrcelery"}

# A body that ends early is an error, which urllib3 before 2.0 would not report.
_AS_SENT: dict[str, Any] = {"preload_content": False, "decode_content": False, "enforce_content_length": True}


class _Masked(logging.Filter):
    """Masks signatures in the addresses that urllib3 logs when it retries."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(record.getMessage()), ()
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_Masked())


class Probed(NamedTuple):
    """A server's statement about a file: its size in bytes (-1: none), whether it has ranges, and its tag."""

    size: int
    ranges: bool
    tag: str = ""


class _LongerError(Exception):
    """A body continues after the last planned byte."""


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
            response = self._send(method, url, _PLAIN | headers)
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

    def _send(self, method: str, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Send a request and follow redirects; nothing in the request is meant for one server only."""
        address = url
        for _ in range(REDIRECTS + 1):
            response = self._pool.request(method, address, headers=headers, redirect=False, **_AS_SENT)
            try:
                target = moved_to(address, response.status, response.headers)
            except StorageRefusedError:
                response.close()
                raise
            if not target:
                return response
            if whole_of(response.headers).size in range(_DRAINED):
                response.drain_conn()  # so that the connection can be used again
            response.close()
            address = target
        raise StorageRefusedError(
            f"{url} is redirected more than {REDIRECTS} times: give the address of the file itself"
        )

    def _refuse(self, key: str, status: int) -> NoReturn:
        url = f"{self.uri}/{key}"
        if status in (404, 410):
            raise FileNotFoundError(mask(url))
        if status in (408, 425, 429) or (status >= 500 and status != 501):
            raise StorageOutageError(f"{url}: the server cannot serve it now (HTTP {status}): check the server")
        reason = "requires authentication" if status in (401, 403) else "refuses it"
        raise StorageRefusedError(f"{url}: the server {reason} (HTTP {status}): check the address in a browser")

    def probe(self, key: str) -> Probed | None:
        """Request a file's size and tag, and whether the server serves byte ranges; None if it answers 404."""
        with self._open("HEAD", key, {}) as response:
            size = whole_of(response.headers).size
            # Some servers state 0 for everything that they would have to generate first.
            if response.status == 200 and size > 0 and response.headers.get("Accept-Ranges") == "bytes":
                return Probed(size, True, tag_of(response.headers))
        # Many servers do not announce ranges, or refuse HEAD: request one byte.
        with self._open("GET", key, {"Range": "bytes=0-0"}) as response:
            if response.status != 416:
                return self._probed(key, response)
            if size_past(response.headers) == 0:
                return Probed(0, False, tag_of(response.headers))
        with self._open("GET", key, {}) as response:  # it refuses ranges
            return self._probed(key, response)

    def _probed(self, key: str, response: urllib3.BaseHTTPResponse) -> Probed | None:
        tag = tag_of(response.headers)
        if response.status == 206:
            part = part_of(response.headers)
            # If the server answers with another range, or several, the whole file is requested.
            return Probed(part.size, part.start == 0 and part.size >= 0, tag) if part else Probed(-1, False, tag)
        if response.status == 200:
            return Probed(whole_of(response.headers).size, False, tag)
        if response.status not in (404, 410):
            self._refuse(key, response.status)
        return None

    def stat(self, key: str) -> ObjectInfo | None:
        """Return the size stated by the server, -1 if it states none; None if it answers 404."""
        found = self.probe(key)
        return None if found is None else ObjectInfo(key, found.size, found.tag)

    def accepts_ranges(self, key: str) -> bool:
        """Check whether the server serves the object in byte ranges, so that it may be split."""
        found = self.probe(key)
        return found is not None and found.ranges

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Read with a ranged GET; if the server ignores the range, its whole file is cut here."""
        return b"".join(self.stream(key, start, end))

    def stream(
        self, key: str, start: int = 0, end: int | None = None, chunk: int = 1 << 20, version: Version | None = None
    ) -> Iterator[bytes]:
        """Stream the bytes; resume a broken download where it stopped, up to :data:`RESUMES` times in a row.

        A tag or a size that differs from ``version`` raises :class:`CorruptDataError`, as does a body that ends before
        the planned size; values that the server does not state are not compared.
        """
        url, version = f"{self.uri}/{key}", version or Version()
        at, failures, heard, conditional = start, 0, time.monotonic(), True
        while end is None or at < end:
            began = at
            with self._open("GET", key, _asked(at, end, version, conditional)) as response:
                if response.status == 412 and conditional:
                    conditional = False  # an unconditional answer shows which version is there
                    continue
                if response.status == 416:
                    _check_end(url, at, size_past(response.headers), version)
                    return
                if response.status not in (200, 206):
                    self._refuse(key, response.status)
                reply = examine(url, response.status, response.headers, at, version)
                try:
                    for wanted in _wanted(response, reply, (at, end), chunk, version):
                        at += len(wanted)
                        failures, heard = 0, time.monotonic()
                        yield wanted
                    if not _goes_on(at, end, reply, version):
                        return
                    if at == began and not version.tag:
                        raise version.replaced(url, at, size=at)
                    if at == began:  # judging by its tag, it is the same file
                        raise ProtocolError("the reply ends there")
                    continue
                except _LongerError:
                    raise version.replaced(url, at) from None
                except (HTTPError, OSError) as e:
                    failures += 1
                    if failures > RESUMES:
                        raise StorageOutageError(
                            f"{url} keeps breaking off at byte {at} ({e}): "
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
        """Return None: a server's files are not on this machine."""
        return None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Raise :class:`ConfigError`: HTTP has no listing."""
        raise ConfigError(f"{self.uri}/{prefix} cannot be listed: name each http(s) file as an input of its own")

    def folders(self, prefix: str) -> Iterator[str]:
        """Raise :class:`ConfigError`, like :meth:`list`."""
        return (found.key for found in self.list(prefix))

    def _read_only(self) -> NoReturn:
        raise ConfigError(f"{self.uri} is read-only: set --storage or --output to s3://bucket/prefix or a folder")

    def write(self, key: str, data: bytes) -> None:
        """Raise :class:`ConfigError`: a server is an input, never a target."""
        self._read_only()

    def create(self, key: str, data: bytes) -> bool:
        """Raise :class:`ConfigError`, like :meth:`write`."""
        self._read_only()

    def writer(self, key: str) -> AbstractContextManager[ObjectWriter]:
        """Raise :class:`ConfigError`, like :meth:`write`."""
        self._read_only()

    def sweep(self, folder: str) -> None:
        """Raise :class:`ConfigError`, like :meth:`write`."""
        self._read_only()

    def delete(self, keys: Iterable[str]) -> int:
        """Raise :class:`ConfigError`, like :meth:`write`."""
        self._read_only()


def _asked(at: int, end: int | None, version: Version, conditional: bool) -> dict[str, str]:
    """Return the headers of a request for bytes, without a range if that would be the whole file."""
    headers = conditions(version) if conditional else {}
    planned = version.planned.size if version.planned is not None else -1
    if at or (end is not None and (planned < 0 or end < planned)):
        headers["Range"] = f"bytes={at}-{'' if end is None else end - 1}"
    return headers


def _wanted(
    response: urllib3.BaseHTTPResponse, reply: Reply, span: tuple[int, int | None], chunk: int, version: Version
) -> Iterator[bytes]:
    """Yield a body's bytes that are within ``span`` of the file: servers may send more.

    Raises :class:`_LongerError` if the body is longer than planned, and its length was not stated.
    """
    at, end = span
    skip = at - reply.start  # a server without ranges sends the whole file each time
    planned = version.planned.size if version.planned is not None else -1
    if reply.end >= 0:
        end = reply.end if end is None else min(end, reply.end)
    elif end is None and planned >= 0:
        end = planned
    while (end is None or at < end) and (data := response.read(chunk)):
        wanted = data[skip : None if end is None else skip + end - at]
        at += len(wanted)
        if at == end == planned and reply.size < 0 and (len(data) > skip + len(wanted) or response.read(1)):
            raise _LongerError
        skip = max(0, skip - len(data))
        if wanted:
            yield wanted


def _goes_on(at: int, end: int | None, reply: Reply, version: Version) -> bool:
    """Check whether a file continues after the end of a body."""
    planned = version.planned.size if version.planned is not None else -1
    size = reply.size if reply.size >= 0 else planned
    return at < (size if end is None else min(end, size))


def _check_end(url: str, at: int, size: int, version: Version) -> None:
    """Raise if byte ``at``, which the server places past the end of the file, was planned to be in it."""
    if version.planned is not None and at < version.planned.size:
        raise version.replaced(url, at, size=size)


def _check_encoding(url: str, response: urllib3.BaseHTTPResponse) -> None:
    """Raise :class:`InputError` for a body that is compressed, even in transfer, if its name does not show it."""
    headers = (response.headers.get(name, "") for name in ("Content-Encoding", "Transfer-Encoding"))
    check_encoding(url, ",".join(headers), path=urlsplit(url).path)


def _proxy(uri: str) -> str:
    """Return the proxy for an address from the environment's ``http(s)_proxy`` and ``no_proxy``; "" for none."""
    parts = urlsplit(uri)
    if parts.hostname and urllib.request.proxy_bypass(parts.hostname):
        return ""
    return urllib.request.getproxies().get(parts.scheme, "")
