"""Web servers that change a file between plan and read, or answer otherwise than they should."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from mrcelery.errors import ChangedInputError, InputError, StorageRefusedError, StorageUnreachableError
from mrcelery.formats import input_format
from mrcelery.planning.listing import InputFile, list_inputs
from mrcelery.planning.splits import cut
from tests.support.web_server import Web, web_server

DATA = b"".join(b"%07d\n" % i for i in range(5000))
OTHER = DATA[::-1]
Serve = Callable[..., tuple[str, type[Web]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with ExitStack() as stack:
        yield lambda data=DATA, **switches: stack.enter_context(web_server(data, **switches))


def planned(uri: str, name: str = "text") -> InputFile:
    (file,) = list_inputs([uri], input_format(name))
    return file


def read(file: InputFile, name: str = "text") -> bytes:
    fmt = input_format(name)
    extents = [extent for split in cut([file], max(1, file.size // 3)) for extent in split.extents]
    return b"".join(f"{value}\n".encode() for e in extents for block in fmt.read(e, 1 << 20) for value in block.values)


def test_a_condition_is_no_request_of_its_own(serve: Serve) -> None:
    root, web = serve()
    assert read(planned(f"{root}/a")) == DATA
    assert [asked["method"] for asked in web.requests] == ["HEAD", "GET", "GET", "GET"]
    assert all(asked["If-Match"] for asked in web.requests[1:])


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"head": "refused"},
        {"head": "empty"},
        {"ranges": "ignored"},
        {"head": "refused", "ranges": "ignored"},
        {"head": "refused", "ranges": "refused"},
        {"head": "refused", "ranges": "multipart"},
        {"head": "refused", "ranges": "bare"},
        {"ranges": "short"},
        {"ranges": "long"},
        {"head": "refused", "ranges": "ignored", "body": "chunked"},
        {"head": "refused", "ranges": "ignored", "body": "closed"},
        {"ranges": "ignored", "body": "chunked"},
        {"ranges": "ignored", "body": "closed"},
        {"body": "chunked"},
        {"validators": "date"},
        {"validators": "weak"},
        {"validators": "date and weak"},
        {"validators": "none"},
        {"validators": "bare"},
        {"conditions": "ignored"},
        {"conditions": "never met"},
        {"break_once": True},
    ],
)
def test_the_file_is_what_it_is(serve: Serve, switches: dict[str, object]) -> None:
    root, _ = serve(**switches)
    assert read(planned(f"{root}/a")) == DATA


@pytest.mark.parametrize("conditions", ["kept", "ignored"])
@pytest.mark.parametrize("ranges", ["served", "ignored"])
@pytest.mark.parametrize("validators", ["etag", "date", "weak", "date and weak", "bare"])
@pytest.mark.parametrize("head", ["as GET", "refused"])
def test_other_contents_of_the_same_length(
    serve: Serve, conditions: str, ranges: str, validators: str, head: str
) -> None:
    root, web = serve(conditions=conditions, ranges=ranges, validators=validators, head=head)
    file = planned(f"{root}/a?token=secret")
    assert read(file) == DATA
    web.data, web.date = OTHER, "Sat, 28 Nov 2026 10:00:01 GMT"
    web.requests.clear()
    with pytest.raises(ChangedInputError, match=r"it had 40000 bytes and the .*, and now has 40000 bytes and the") as e:
        read(file)
    assert not e.value.retryable
    assert "secret" not in str(e.value)
    assert len(web.requests) <= 2  # the one refused, and one to see what is there


@pytest.mark.parametrize("change", [DATA[:-8], DATA + b"more\n", DATA[:8], b""])
@pytest.mark.parametrize("ranges", ["served", "ignored"])
@pytest.mark.parametrize("body", ["sized", "chunked", "closed"])
def test_another_length_where_the_server_has_no_tags(serve: Serve, change: bytes, ranges: str, body: str) -> None:
    root, web = serve(validators="none", ranges=ranges, body=body)
    file = planned(f"{root}/a")
    assert file.size == len(DATA)
    web.data = change
    with pytest.raises(ChangedInputError, match="it had 40000 bytes, and now has "):
        read(file)


def test_more_than_planned_in_chunks(serve: Serve) -> None:
    root, web = serve(ranges="ignored")
    file = planned(f"{root}/a")
    web.body = "chunked too long"
    with pytest.raises(ChangedInputError, match=r"it had 40000 bytes .*, and now has other contents"):
        read(file)


def test_a_reply_that_ends_early_again_and_again(serve: Serve) -> None:
    root, web = serve(ranges="ignored")
    file = planned(f"{root}/a")
    web.body = "broken off"
    with pytest.raises(StorageUnreachableError, match="keeps breaking off at byte 20000"):
        read(file)
    with pytest.raises(ChangedInputError, match="it had 40000 bytes, and now has 20000 bytes"):
        web.validators = "none"
        read(file._replace(tag=""))
    web.ranges = "served"
    assert read(file) == DATA  # taken up where it stopped


def test_replaced_where_a_connection_broke(serve: Serve) -> None:
    root, web = serve(gzip.compress(DATA, mtime=0), head="refused", ranges="ignored")
    file = planned(f"{root}/a.gz")
    web.break_once = True

    fmt, extent = input_format("text"), next(e for s in cut([file], 1 << 30) for e in s.extents)
    original = web._body

    def body(self: Web, status: int, headers: dict[str, str], data: bytes) -> None:
        original(self, status, headers, data)
        web.data = gzip.compress(OTHER, mtime=0)

    web._body = body  # type: ignore[method-assign]
    with pytest.raises(ChangedInputError, match="has changed since it was planned"):
        list(fmt.read(extent, 1 << 20))
    assert len(web.requests) > 3


@pytest.mark.parametrize("ranges", ["moved", "multipart", "bare"])
def test_other_bytes_than_asked_for(serve: Serve, ranges: str) -> None:
    root, web = serve()
    file = planned(f"{root}/a")
    web.ranges = ranges
    with pytest.raises(StorageRefusedError, match="the server was asked for bytes from 13332 on, and sends others"):
        read(file)
    root, web = serve(head="refused", ranges="moved")
    assert not planned(f"{root}/a").splittable


def test_parquet(serve: Serve) -> None:
    def table(first: int) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table({"n": range(first, first + 4000)}), out, row_group_size=500, compression="none")
        return out.getvalue()

    root, web = serve(table(0))
    file = planned(f"{root}/a.parquet", "parquet")
    rows = read(file, "parquet")
    assert rows.count(b"\n") == 4000
    for conditions in ("kept", "ignored"):
        web.data, web.conditions = table(1), conditions
        with pytest.raises(ChangedInputError, match="has changed since it was planned"):
            read(file, "parquet")
        web.data = table(0)
        blocks = input_format("parquet").read(next(e for s in cut([file], 1 << 30) for e in s.extents), 1 << 20)
        next(blocks)
        web.data = table(1)  # between two row groups
        with pytest.raises(ChangedInputError, match="has changed since it was planned"):
            list(blocks)
        web.data = table(0)
    assert read(file, "parquet") == rows


def test_redirects_are_followed_and_asked_for_anew(serve: Serve) -> None:
    there, target = serve()
    root, web = serve(redirect=f"{there}/signed?Signature={{n}}")
    file = planned(f"{root}/a")
    assert (file.uri, file.size, file.splittable) == (f"{root}/a", len(DATA), True)
    assert read(file) == DATA
    assert len({asked["path"] for asked in target.requests}) == len(target.requests) == 4
    assert not any("Authorization" in asked or "Cookie" in asked for asked in target.requests)
    web.redirect = "/signed/here"
    web.data = DATA
    assert read(file) == DATA
    web.redirect = f"{there}/signed"
    target.data = OTHER
    with pytest.raises(ChangedInputError, match=rf"input {root}/a has changed since it was planned"):
        read(file)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "s3://bucket/a", "/again"])
def test_redirects_to_where_no_file_can_be_read(serve: Serve, target: str) -> None:
    root, web = serve()
    file = planned(f"{root}/a")
    web.redirect = target
    for act in (lambda: planned(f"{root}/a"), lambda: read(file)):
        web.requests.clear()
        with pytest.raises(StorageRefusedError, match="is redirected"):
            act()
        assert len(web.requests) <= 11


def test_encoded_from_the_second_read_on(serve: Serve) -> None:
    root, web = serve()
    file = planned(f"{root}/a")
    tags = web._tags
    web._tags = lambda self: tags(self) | {"Content-Encoding": "gzip"}  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"comes compressed \(Content-Encoding: gzip\)"):
        read(file)


def test_a_server_that_forbids_later(serve: Serve) -> None:
    root, web = serve()
    file = planned(f"{root}/a")
    web.do_GET = lambda self: self.send_error(403)  # type: ignore[method-assign]
    with pytest.raises(StorageUnreachableError, match="requires authentication"):
        read(file)
