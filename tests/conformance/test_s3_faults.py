"""S3 over a connection that breaks, against a small server that breaks it; and inputs listed from S3."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mrcelery.errors import ChangedInputError, CorruptDataError, InputError, StorageUnreachableError
from mrcelery.formats import input_format
from mrcelery.planning.listing import InputFile, list_inputs
from mrcelery.storage import open_storage
from mrcelery.storage.base import Planned, Version
from mrcelery.storage.transfers import transfers
from tests.support.s3_endpoint import s3_bucket

pytestmark = pytest.mark.slow  # an endpoint is started

DATA = bytes(range(256)) * 2000


class Faulty(BaseHTTPRequestHandler):
    """One object that is served in pieces, and conditional writes whose first answer gets lost."""

    protocol_version = "HTTP/1.1"
    piece = 100_000
    etag = '"one"'
    etag_after = '"one"'
    listed = '"one"'
    ranges = True
    stored: dict[str, tuple[bytes, str]]
    gets: list[str]
    lost = 0
    busy = 0
    """Requests that are refused until it is zero."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _slow_down(self) -> bool:
        kind = type(self)
        if kind.busy:
            kind.busy -= 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._send(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
            return True
        return False

    def do_GET(self) -> None:
        kind = type(self)
        if self._slow_down():
            return
        kind.gets.append(self.headers.get("Range", ""))
        if "list-type" in self.path:
            date = "<LastModified>2026-11-28T10:00:00.000Z</LastModified>"
            listed = f"<Key>key</Key>{date}<ETag>{kind.listed}</ETag><Size>{len(DATA)}</Size>"
            self._send(200, f"<ListBucketResult><Contents>{listed}</Contents></ListBucketResult>".encode())
            return
        if (wanted := self.headers.get("If-Match")) and wanted != kind.etag:
            self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = DATA[first:]
        kind.etag, etag = kind.etag_after, kind.etag
        self.close_connection = len(body) > self.piece
        said = {"Content_Range": f"bytes {first}-{len(DATA) - 1}/{len(DATA)}"} if first and self.ranges else {}
        self._send(206 if said else 200, body[: self.piece], Content_Length=str(len(body)), ETag=etag, **said)

    def do_PUT(self) -> None:
        kind = type(self)
        if self._slow_down():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match") and self.path in kind.stored:
            self._send(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        kind.stored[self.path] = (body, self.headers.get("x-amz-meta-mrcelery-create", ""))
        if kind.lost:
            kind.lost -= 1
            self.close_connection = True  # written, and no answer
            return
        self._send(200, ETag='"x"')

    def do_HEAD(self) -> None:
        kind = type(self)
        if self.path.endswith("/key"):
            self._send(200, Content_Length=str(len(DATA)), ETag=kind.etag)
            return
        body, token = kind.stored[self.path]
        self._send(200, Content_Length=str(len(body)), x_amz_meta_mrcelery_create=token)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Faulty]]:
    handler = type("Handler", (Faulty,), {"stored": {}, "gets": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setattr("mrcelery.storage.s3.time.sleep", lambda seconds: None)
        try:
            yield handler
        finally:
            server.shutdown()
            thread.join()


def test_a_broken_download_is_taken_up_where_it_stopped(faulty: type[Faulty]) -> None:
    storage = open_storage("s3://bucket")
    assert b"".join(storage.stream("key", chunk=10_000)) == DATA
    assert len(faulty.gets) > 1
    assert faulty.gets[0] == ""
    assert all(asked.startswith("bytes=") for asked in faulty.gets[1:])


def test_a_download_that_gets_nowhere(faulty: type[Faulty]) -> None:
    faulty.piece = 0
    with pytest.raises(StorageUnreachableError, match="keeps breaking off at byte 0"):
        open_storage("s3://bucket").read("key")
    assert len(faulty.gets) < 20


def test_an_object_replaced_between_two_pieces(faulty: type[Faulty]) -> None:
    faulty.etag_after = '"two"'
    with pytest.raises(CorruptDataError, match="was replaced while it was read"):
        list(open_storage("s3://bucket").stream("key", chunk=10_000))


@pytest.mark.parametrize("listed", ['"one"', "one", "&quot;one&quot;"])
def test_a_listing_that_quotes_tags_otherwise(faulty: type[Faulty], listed: str) -> None:
    faulty.listed, faulty.piece = listed, len(DATA)
    (info,) = open_storage("s3://bucket").list()
    version = Version(Planned(info.tag, info.size))
    assert b"".join(open_storage("s3://bucket").stream("key", version=version)) == DATA
    faulty.etag = faulty.etag_after = '"two"'
    with pytest.raises(ChangedInputError, match=r'and the ETag "?one"?, and now has 512000 bytes and the ETag "two"'):
        list(open_storage("s3://bucket").stream("key", version=Version(Planned(info.tag, info.size))))


def test_an_object_replaced_where_a_connection_broke(faulty: type[Faulty]) -> None:
    faulty.etag_after = '"two"'
    with pytest.raises(ChangedInputError, match='the ETag "one", and now has 512000 bytes and the ETag "two"'):
        list(open_storage("s3://bucket").stream("key", version=Version(Planned('"one"', len(DATA)))))


def test_an_endpoint_that_ignores_ranges(faulty: type[Faulty]) -> None:
    faulty.ranges = False
    with pytest.raises(StorageUnreachableError, match="was asked for bytes from 7 on, and sends others"):
        open_storage("s3://bucket").read("key", 7, 20)


def test_a_create_whose_answer_got_lost_is_ours_all_the_same(faulty: type[Faulty]) -> None:
    storage = open_storage("s3://bucket")
    faulty.lost = 1
    assert storage.create("commit.json", b"mine") is True
    assert storage.create("commit.json", b"mine") is False


def test_an_endpoint_that_is_busy_for_a_while(faulty: type[Faulty]) -> None:
    storage = open_storage("s3://bucket")
    faulty.piece = len(DATA)
    with transfers(behind=True) as moved:
        for act in (
            lambda: storage.read("key"),
            lambda: storage.write("a", b"1"),
            lambda: storage.create("commit.json", b"mine"),
        ):
            faulty.busy = 3
            act()
            assert faulty.busy == 0
        faulty.busy = 3
        with storage.writer("part") as out:
            out.write(b"2")
    assert {path.rpartition("/")[2]: body for path, (body, _) in faulty.stored.items()} == {
        "a": b"1",
        "commit.json": b"mine",
        "part": b"2",
    }
    assert moved.requests == {"GET": 1, "PUT": 3, "RETRY": 12}


def test_an_endpoint_that_stays_busy(faulty: type[Faulty]) -> None:
    faulty.busy = 1000
    with pytest.raises(StorageUnreachableError, match="SlowDown"), transfers() as moved:
        open_storage("s3://bucket").write("a", b"1")
    assert moved.requests == {"PUT": 1, "RETRY": 3}


@pytest.fixture
def own_bucket(bucket: str) -> Iterator[str]:
    """A bucket with nothing of other tests in it."""
    with s3_bucket() as name:
        yield name


def test_inputs_on_s3(own_bucket: str) -> None:
    bucket = own_bucket
    root = f"s3://{bucket}/inputs"
    storage = open_storage(root)
    for name in ("a.txt", "a/b.gz", "a/_tmp/c", "a[1].txt", "folder/"):
        storage.write(name, b"123")
    text = input_format("text")

    def names(uri: str) -> list[str]:
        found = list(list_inputs([uri], text))
        assert all(file.size == 3 for file in found)
        return [file.uri.removeprefix(root + "/") for file in found]

    tag = f'"{hashlib.md5(b"123").hexdigest()}"'
    assert list(list_inputs([f"{root}/a.txt"], text)) == [InputFile(f"{root}/a.txt", 3, True, tag)]
    assert names(root) == names(root + "/") == names(f"s3://{bucket}") == ["a.txt", "a/b.gz", "a[1].txt"]
    assert names(f"{root}/a") == names(f"{root}/a/*") == names(f"s3://{bucket}/*/a/") == ["a/b.gz"]
    assert names(f"{root}/*.txt") == ["a.txt", "a[1].txt"]
    assert names(f"{root}/a[1].txt") == ["a[1].txt"]
    for nothing in (f"{root}/a.tx", f"{root}/folder/", f"s3://{bucket}/no*"):
        with pytest.raises(InputError, match="matches no file"):
            names(nothing)
    with pytest.raises(StorageUnreachableError, match="does not exist"):
        names(f"s3://{bucket}-not/x")
