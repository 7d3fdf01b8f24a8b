"""How a web server's headers are understood."""

from __future__ import annotations

import pytest

from mrcelery.errors import ChangedInputError, CorruptDataError, StorageRefusedError
from mrcelery.storage.base import Planned, Version
from mrcelery.storage.http_replies import conditions, examine, moved_to, tag_like, tag_of

URL = "https://host/a"
DATE = "Sat, 28 Nov 2026 10:00:00 GMT"
LATER = "Sat, 28 Nov 2026 10:00:01 GMT"


@pytest.mark.parametrize(
    ("headers", "tag"),
    [
        ({"ETag": '"a"', "Last-Modified": DATE}, '"a"'),
        ({"ETag": 'W/"a"', "Last-Modified": DATE}, DATE),
        ({"Last-Modified": DATE}, DATE),
        ({"ETag": 'W/"a"'}, 'W/"a"'),
        ({"ETag": "a"}, '"a"'),
        ({}, ""),
    ],
)
def test_tags(headers: dict[str, str], tag: str) -> None:
    assert tag_of(headers) == tag
    assert tag_like(tag, headers) == tag
    assert tag_like("", headers) == tag


@pytest.mark.parametrize(
    ("tag", "headers", "same"),
    [
        ('"a"', {"ETag": '"b"'}, False),
        ('"a"', {"ETag": 'W/"a"'}, True),  # weakened on the way
        ('"a"', {"ETag": 'W/"b"', "Last-Modified": DATE}, False),
        (DATE, {"ETag": '"x"', "Last-Modified": DATE}, True),
        (DATE, {"ETag": '"x"', "Last-Modified": LATER}, False),
        ('W/"a"', {"ETag": 'W/"b"'}, False),
        ('W/"a"', {"ETag": '"a"'}, True),
        ('"a"', {}, True),  # the reply has no validator
        ("", {"ETag": '"a"'}, True),  # nor had it one when the job was planned
    ],
)
def test_versions(tag: str, headers: dict[str, str], same: bool) -> None:
    version = Version(Planned(tag, 5))
    if same:
        examine(URL, 200, headers | {"Content-Length": "5"}, 0, version)
    else:
        with pytest.raises(ChangedInputError, match="has changed since it was planned"):
            examine(URL, 200, headers | {"Content-Length": "5"}, 0, version)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Content-Length": "6"}),
        (206, {"Content-Range": "bytes 2-3/6"}),
        (206, {"Content-Range": "bytes 2-3/4"}),
    ],
)
def test_another_size(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(ChangedInputError, match=r"it had 5 bytes, and now has [46] bytes: submit the job again") as e:
        examine(URL, status, headers, 2, Version(Planned("", 5)))
    assert "copy the file to storage if servers that differ answer" in str(e.value)


def test_without_a_plan_a_change_is_worth_another_attempt() -> None:
    version = Version()
    examine(URL, 200, {"ETag": '"a"'}, 0, version)
    with pytest.raises(CorruptDataError, match="was replaced while it was read") as e:
        examine(URL, 200, {"ETag": '"b"'}, 0, version)
    assert e.value.retryable


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 0-4/5"},
        {"Content-Range": "bytes 3-4/5"},
        {"Content-Range": "bytes 2-1/5"},
        {"Content-Range": "items 2-4/5"},
        {"Content-Range": "bytes */5"},
        {"Content-Type": "multipart/byteranges; boundary=x"},
        {"Content-Type": "multipart/byteranges; boundary=x", "Content-Range": "bytes 2-4/5"},
        {},
    ],
)
def test_another_range_than_asked(headers: dict[str, str]) -> None:
    with pytest.raises(StorageRefusedError, match=r"asked for bytes from 2 on, and sends others .*: copy the file"):
        examine(URL, 206, headers, 2, Version(Planned("", 5)))


def test_conditions() -> None:
    assert conditions(Version(Planned('"a"'))) == {"If-Match": '"a"'}
    assert conditions(Version(Planned(DATE))) == {"If-Unmodified-Since": DATE}
    assert conditions(Version(Planned('W/"a"'))) == conditions(Version()) == {}


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b?x=1#part", "https://host/b?x=1"),
        ("https://other/c", "https://other/c"),
        ("//other:8080/c", "https://other:8080/c"),
        ("", ""),
    ],
)
def test_redirects(location: str, target: str) -> None:
    for status in (301, 302, 303, 307, 308):
        assert moved_to(URL, status, {"Location": location}) == target
    assert moved_to(URL, 200, {"Location": location}) == ""
    assert moved_to("http://host/a", 302, {"Location": "https://host/a"}) == "https://host/a"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/a", "s3://bucket/a", "data:,x"])
def test_redirects_out_of_the_web_are_refused(location: str) -> None:
    with pytest.raises(StorageRefusedError, match=r"is redirected to .*, which is not an http"):
        moved_to(URL, 302, {"Location": location})


def test_a_redirect_that_gives_encryption_up_is_refused_without_its_secrets() -> None:
    with pytest.raises(StorageRefusedError, match="which is not encrypted") as e:
        moved_to(URL, 302, {"Location": "http://user:pw@host/a?X-Amz-Signature=abc"})
    assert "abc" not in str(e.value)
    assert "pw" not in str(e.value)
