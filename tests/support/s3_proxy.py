"""A proxy before an S3 endpoint that logs the requests, and can make them wait for each other, or fail."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from tests.support.s3_endpoint import VARIABLE

PATIENCE = 60.0


class Asked(NamedTuple):
    """A request: its method, its path without the bucket, its query, its byte range ("" for none), and how many
    others were under way when it arrived."""

    method: str
    key: str
    query: str
    range: str
    beside: int

    @property
    def billed(self) -> str:
        """The kind of request that S3 bills: GET, PUT, LIST or DELETE."""
        if self.method == "GET" and "list-type" in self.query:
            return "LIST"
        if self.method == "DELETE" or self.query == "delete":
            return "DELETE"
        return {"HEAD": "GET", "POST": "PUT"}.get(self.method, self.method)


@dataclass
class Fault:
    """What to do with a request instead of just passing it on.

    ``status`` and ``code``: refuse it with them. ``drop``: break the connection. ``reset``: pass it on, and break the
    connection instead of answering. ``keep``: send only this share of the body, then break the connection. ``pieces``:
    send the body in this many pieces, ``pause`` seconds apart. ``flip``: change one bit in the middle of the body.
    ``silent``: take the request and never answer; with ``keep``, send that share of the body and then nothing.
    ``ignore``: the headers, in lower case, that the endpoint does not know.
    """

    status: int = 0
    code: str = ""
    reset: bool = False
    keep: float = 1.0
    pieces: int = 1
    pause: float = 0.0
    flip: bool = False
    silent: bool = False
    ignore: tuple[str, ...] = ()
    drop: bool = False


class Log:
    """The requests so far, and how many were under way at once.

    No request is answered until ``together`` have been under way at the same time, or a minute has passed, so that
    a test fails and does not hang. ``fault`` decides what to do with each request.
    """

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.together = 0
        self.fault: Callable[[Asked], Fault | None] = lambda asked: None
        self.at_once = 0
        self.most_at_once = 0
        self.over = threading.Event()
        self._change = threading.Condition()

    @contextmanager
    def _passing(self, method: str, key: str, query: str, byte_range: str) -> Iterator[Fault]:
        with self._change:
            asked = Asked(method, key, query, byte_range, self.at_once)
            self.requests.append(asked)
            fault = self.fault(asked) or Fault()
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self._change.notify_all()
            self._change.wait_for(lambda: self.most_at_once >= self.together, PATIENCE)
        try:
            yield fault
        finally:
            with self._change:
                self.at_once -= 1

    def billed(self) -> dict[str, int]:
        return dict(Counter(asked.billed for asked in self.requests))

    def gets(self, key: str = "") -> list[Asked]:
        """Return the reads of objects whose key ends in ``key``, without HEAD requests."""
        return [a for a in self.requests if (a.method, a.billed) == ("GET", "GET") and a.key.endswith(key)]


class _Server(ThreadingHTTPServer):
    """The proxy, with the address that it passes requests on to and the log that it keeps."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, onward: str, log: Log) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.onward = onward
        self.log = log


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.onward = http.client.HTTPConnection(self.server.onward)

    def finish(self) -> None:
        super().finish()
        self.onward.close()

    def handle(self) -> None:
        with suppress(ConnectionResetError):  # a client may leave before its answer arrives
            super().handle()

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        byte_range = self.headers.get("Range", "")
        with self.server.log._passing(self.command, key, parts.query, byte_range) as fault:
            if fault.silent and fault.keep == 1:
                self._say_nothing()
                return
            if fault.drop:
                self.close_connection = True
                return
            if fault.status:
                self._refuse(fault)
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", *fault.ignore)}
            answer, data = self._ask(body, headers)
        if fault.reset:
            self.close_connection = True
            return
        self._pass_back(answer, data, fault)

    def _ask(self, body: bytes, headers: Mapping[str, str]) -> tuple[http.client.HTTPResponse, bytes]:
        """Pass a request on, a second time if the endpoint has closed an idle connection."""
        for again in (True, False):
            try:
                self.onward.request(self.command, self.path, body, headers)
                answer = self.onward.getresponse()
                return answer, answer.read()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.onward.close()
                if not again:
                    raise
        raise AssertionError

    def _pass_back(self, answer: http.client.HTTPResponse, data: bytes, fault: Fault) -> None:
        if fault.flip and data:
            data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        size = answer.headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD":
            try:
                self._send(data, fault)
            except OSError:
                self.close_connection = True  # the client has what it wanted

    def _send(self, data: bytes, fault: Fault) -> None:
        kept = data[: int(len(data) * fault.keep)]
        step = max(1, -(-len(kept) // fault.pieces))
        for at in range(0, len(kept), step):
            self.wfile.write(kept[at : at + step])
            self.wfile.flush()
            if fault.pause:
                time.sleep(fault.pause)  # a slow network is what is tested
        if fault.silent:
            self._say_nothing()
        self.close_connection |= len(kept) < len(data)

    def _say_nothing(self) -> None:
        self.server.log.over.wait()
        self.close_connection = True

    def _refuse(self, fault: Fault) -> None:
        body = f"<Error><Code>{fault.code}</Code><Message>as the test wants</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request


@contextmanager
def proxy() -> Iterator[Log]:
    """Run a proxy before the endpoint in the environment, which names the proxy while the block runs."""
    target = os.environ[VARIABLE]
    log = Log()
    with _Server(urlsplit(target).netloc, log) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        os.environ[VARIABLE] = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield log
        finally:
            os.environ[VARIABLE] = target
            log.over.set()
            server.shutdown()
            thread.join()
