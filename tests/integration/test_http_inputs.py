"""http(s) inputs against a real server on this machine, one that has byte ranges and one that has not."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from mrcelery.errors import ChangedInputError, ConfigError, CorruptDataError, InputError, StorageUnreachableError
from mrcelery.formats import input_format
from mrcelery.planning.listing import InputFile, list_inputs
from mrcelery.planning.splits import cut
from mrcelery.storage import http, locate, open_storage, readahead
from tests.support.web_server import serving

DATA = b"".join(b"line %d of the file\n" % i for i in range(5000))
FILES = {"/data.txt": DATA, "/data.txt.gz": gzip.compress(DATA), "/empty": b""}
TEXT = input_format("text")


class Server(BaseHTTPRequestHandler):
    """Serves FILES; what a server may lack or do wrong is switched by the class's attributes."""

    protocol_version = "HTTP/1.1"
    ranges = True
    announces = True
    head = True
    length = True
    break_at = 0  # bytes of a body after which the connection is cut, once per request
    changes = False
    encoding = ""  # with which bodies are sent though nobody asked for it
    requests: list[tuple[str, str]]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.head:
            self._answer(body=False)
        else:
            self.send_error(405)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        type(self).requests.append((self.command, self.headers.get("Range", "")))
        data = FILES.get(self.path.partition("?")[0])
        if data is not None and self.encoding in ("gzip", "x-gzip") and not self.path.startswith("/data.txt.gz"):
            data = gzip.compress(data)
        if data is None:
            self.send_error(403 if self.path == "/secret" else 404)
            return
        asked = self.headers.get("Range")
        if asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(data)
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}")
            data = data[start:end]
        else:
            self.send_response(200)
        if self.announces and self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{len(type(self).requests)}"' if self.changes else '"same"')
        if self.encoding:
            self.send_header("Content-Encoding", self.encoding)
        if self.length:
            self.send_header("Content-Length", str(len(data)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if not body:
            return
        try:
            if self.break_at and len(data) > self.break_at:
                self.wfile.write(data[: self.break_at])
                self.close_connection = True
            else:
                self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client has read what it wanted


@contextmanager
def _serving(**switches: object) -> Iterator[tuple[str, type[Server]]]:
    handler = type("Handler", (Server,), {**switches, "requests": []})
    with serving(handler) as root:
        yield root, handler


Serve = Callable[..., tuple[str, type[Server]]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **switches: stack.enter_context(_serving(**switches))


def lines(uri: str, split_size: int) -> tuple[int, list[str]]:
    splits = list(cut(list_inputs([uri], TEXT), split_size))
    extents = [extent for split in splits for extent in split.extents]
    return len(extents), [v for e in extents for b in TEXT.read(e, 1 << 20) for v in b.values]


EXPECTED = DATA.decode().split("\n")[:-1]


@pytest.mark.parametrize("switches", [{}, {"announces": False}, {"head": False}])
def test_split_by_range_where_the_server_has_ranges(serve: Serve, switches: dict[str, bool]) -> None:
    root, handler = serve(**switches)
    assert list(list_inputs([f"{root}/data.txt"], TEXT)) == [InputFile(f"{root}/data.txt", len(DATA), True, '"same"')]
    count, found = lines(f"{root}/data.txt", len(DATA) // 7)
    assert (count, found) == (7, EXPECTED)
    assert sum(bool(asked) for method, asked in handler.requests if method == "GET") >= 7


def test_splits_are_read_ahead_in_ranges(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "RANGE", len(DATA) // 20)
    root, handler = serve()
    assert lines(f"{root}/data.txt", len(DATA) // 3) == (3, EXPECTED)
    starts = [asked for method, asked in handler.requests if method == "GET" and asked]
    assert len(starts) == len(set(starts)) > 18
    root, _ = serve(changes=True)
    with pytest.raises(ChangedInputError, match="has changed since it was planned"):
        lines(f"{root}/data.txt", len(DATA) // 3)
    root, handler = serve(ranges=False)
    assert lines(f"{root}/data.txt", 1000) == (1, EXPECTED)
    assert [method for method, _ in handler.requests].count("GET") == 2  # one to see whether it has ranges


def test_one_split_where_it_has_not(serve: Serve) -> None:
    root, _ = serve(ranges=False)
    assert list(list_inputs([f"{root}/data.txt"], TEXT)) == [InputFile(f"{root}/data.txt", len(DATA), False, '"same"')]
    assert lines(f"{root}/data.txt", 1000) == (1, EXPECTED)


def test_a_size_that_is_not_told(serve: Serve) -> None:
    root, _ = serve(ranges=False, length=False)
    assert list(list_inputs([f"{root}/data.txt"], TEXT)) == [InputFile(f"{root}/data.txt", -1, False, '"same"')]
    assert lines(f"{root}/data.txt", 1000) == (1, EXPECTED)


def test_compressed_with_a_query(serve: Serve) -> None:
    root, _ = serve()
    assert lines(f"{root}/data.txt.gz?signature=a/b.c", 1000) == (1, EXPECTED)


@pytest.mark.parametrize("switches", [{}, {"head": False}, {"ranges": False}, {"ranges": False, "length": False}])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "identity, br"])
def test_a_body_compressed_unasked_is_refused(serve: Serve, switches: dict[str, bool], encoding: str) -> None:
    root, handler = serve(**switches)
    (file,) = list_inputs([f"{root}/data.txt"], TEXT)
    handler.encoding = encoding  # from now on: what was planned is as long as the file
    with pytest.raises(InputError, match=r"/data\.txt comes compressed \(Content-Encoding: (x-)?(gzip|br)\)"):
        [list(TEXT.read(e, 1 << 20)) for split in cut([file], 1000) for e in split.extents]
    with pytest.raises(InputError, match="copy it to storage decompressed"):
        list(list_inputs([f"{root}/data.txt"], TEXT))


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_a_gzip_file_that_is_called_encoded_is_read_as_the_file(serve: Serve, encoding: str) -> None:
    root, _ = serve(encoding=encoding)  # as Apache's AddEncoding has it
    assert lines(f"{root}/data.txt.gz?signature=a/b.c", 1000) == (1, EXPECTED)
    assert locate(f"{root}/data.txt.gz")[0].read("data.txt.gz") == FILES["/data.txt.gz"]


def test_an_encoding_that_compresses_nothing_is_passed_over(serve: Serve) -> None:
    root, _ = serve(encoding="utf-8")
    assert lines(f"{root}/data.txt", len(DATA) // 2) == (2, EXPECTED)


def test_an_empty_file_gives_no_split(serve: Serve) -> None:
    for switches in ({}, {"head": False}, {"ranges": False}):
        root, _ = serve(**switches)
        assert lines(f"{root}/empty", 1000) == (0, [])


def test_ranges_are_slices(serve: Serve) -> None:
    for ranges in (True, False):
        root, _ = serve(ranges=ranges)
        storage, key = locate(f"{root}/data.txt")
        for start, end in ((0, None), (0, 10), (5, 5), (17, 4000), (len(DATA) - 3, None), (len(DATA), None)):
            assert storage.read(key, start, end) == DATA[start:end]


def test_a_download_that_breaks_is_taken_up_where_it_stopped(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    root, handler = serve(break_at=40_000)
    storage, key = locate(f"{root}/data.txt")
    assert b"".join(storage.stream(key, chunk=1000)) == DATA
    assert len(handler.requests) == -(-len(DATA) // 40_000)


def test_a_download_that_breaks_again_and_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    root, _ = serve(ranges=False, break_at=40_000)
    storage, key = locate(f"{root}/data.txt")
    with pytest.raises(StorageUnreachableError, match="keeps breaking off at byte 40000"):
        list(storage.stream(key, chunk=1000))


def test_a_file_that_is_replaced_meanwhile(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    root, _ = serve(break_at=40_000, changes=True)
    storage, key = locate(f"{root}/data.txt")
    with pytest.raises(CorruptDataError, match="was replaced while it was read"):
        list(storage.stream(key, chunk=1000))


def test_what_is_not_there_or_not_ours(serve: Serve) -> None:
    root, _ = serve()
    with pytest.raises(InputError, match="does not exist"):
        list(list_inputs([f"{root}/nothing"], TEXT))
    with pytest.raises(StorageUnreachableError, match="HTTP 403"):
        list(list_inputs([f"{root}/secret"], TEXT))
    storage, key = locate(f"{root}/nothing")
    assert storage.stat(key) is None
    with pytest.raises(FileNotFoundError):
        storage.read(key)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http._RETRIES, "total", 0)
    storage, key = locate("http://127.0.0.1:9/x")
    with pytest.raises(StorageUnreachableError, match="cannot be reached"):
        storage.read(key)


def test_read_only(serve: Serve) -> None:
    root, _ = serve()
    storage, key = locate(f"{root}/data.txt")
    for act in (
        lambda: storage.write(key, b""),
        lambda: storage.create(key, b""),
        lambda: storage.writer(key),
        lambda: storage.delete([key]),
        lambda: storage.list(key),
        lambda: open_storage(root),
    ):
        with pytest.raises(ConfigError):
            act()
    copy = open_storage("memory://http-copy")
    storage.copy(key, copy, "x")
    assert copy.read("x") == DATA
    assert storage.local_path(key) is None
