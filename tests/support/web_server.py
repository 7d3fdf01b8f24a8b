"""A web server that serves one file and misbehaves as a test wants."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web(BaseHTTPRequestHandler):
    """Serves ``data`` at every path; the attributes of its class say how, and may change while it runs."""

    protocol_version = "HTTP/1.1"
    data = b""
    head = "as GET"  # or "refused", "empty"
    ranges = "served"  # or "ignored", "refused", "moved", "multipart", "bare", "short", "long"
    body = "sized"  # or "chunked", "closed", "chunked too long", "broken off"
    validators = "etag"  # or "date", "weak", "date and weak", "none", "bare"
    date = "Sat, 28 Nov 2026 10:00:00 GMT"
    conditions = "kept"  # or "ignored", "never met"
    redirect = ""  # where to; {n} is the number of the request
    break_once = False  # cut the connection in the middle of the next body
    requests: list[dict[str, str]]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.head == "refused":
            self.send_error(405)
        else:
            self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _tags(self) -> dict[str, str]:
        etag = hashlib.md5(self.data).hexdigest()
        weak, date = {"ETag": f'W/"{etag}"'}, {"Last-Modified": self.date}
        kinds = {"weak": weak, "date": date, "date and weak": date | weak, "none": {}, "bare": {"ETag": etag}}
        return kinds.get(self.validators, {"ETag": f'"{etag}"'})

    def _answer(self) -> None:
        kind = type(self)
        kind.requests.append({"method": self.command, "path": self.path, **self.headers})
        if kind.redirect and not self.path.startswith("/signed"):
            self._send(302, {"Location": kind.redirect.format(n=len(kind.requests)), "Content-Length": "0"})
            return
        tags, asked = self._tags(), self.headers.get("Range", "")
        wanted = self.headers.get("If-Match", tags.get("ETag")), self.headers.get("If-Unmodified-Since", self.date)
        conditional = "If-Match" in self.headers or "If-Unmodified-Since" in self.headers
        failed = self.conditions == "never met" or wanted != (tags.get("ETag"), self.date)
        if conditional and self.conditions != "ignored" and failed:
            self._send(412, {"Content-Length": "0"})
            return
        if self.command == "HEAD":
            length = 0 if self.head == "empty" else len(self.data)
            self._send(200, {**tags, "Content-Length": str(length), "Accept-Ranges": "bytes"})
            return
        if not asked or self.ranges == "ignored":
            self._body(200, tags, self.data)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else len(self.data), len(self.data))
        if start >= len(self.data) or self.ranges == "refused":
            self._send(416, {"Content-Length": "0"})
            return
        shift = {"moved": 7, "short": 0}.get(self.ranges, 0)
        start, end = start + shift, end + shift
        if self.ranges == "short":
            end = min(end, start + 1000)
        if self.ranges == "long":
            end = len(self.data)
        said = {"Content-Range": f"bytes {start}-{end - 1}/{len(self.data)}"}
        if self.ranges == "multipart":
            said = {"Content-Type": "multipart/byteranges; boundary=x"}
        self._body(206, tags | ({} if self.ranges == "bare" else said), self.data[start:end])

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, status: int, headers: dict[str, str], data: bytes) -> None:
        kind = type(self)
        if kind.break_once:
            kind.break_once = False
            self._send(status, {**headers, "Content-Length": str(len(data))})
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif self.body.startswith("chunked"):
            self._send(status, {**headers, "Transfer-Encoding": "chunked"})
            for piece in (data, b"more\n" if "too long" in self.body else b"", b""):
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif self.body == "closed":
            self._send(status, {**headers, "Connection": "close"})
            self.wfile.write(data)
            self.close_connection = True
        elif self.body == "broken off":
            self._send(status, {**headers, "Connection": "close"})
            self.wfile.write(data[: (len(data) + 1) // 2])
            self.close_connection = True
        else:
            self._send(status, {**headers, "Content-Length": str(len(data))})
            self.wfile.write(data)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True  # the client has read what it wanted


class _Servers(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients leave when they have read what they wanted."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve requests on this machine while the block runs; yield the server's root."""
    with _Servers(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def web_server(data: bytes, **switches: object) -> Iterator[tuple[str, type[Web]]]:
    """Start a server; yield its root and its handler's class, whose attributes are the switches."""
    kind = type("Handler", (Web,), {"data": data, "requests": [], **switches})
    with serving(kind) as root:
        yield root, kind
