"""Which Content-Encoding of an input is refused."""

from __future__ import annotations

import pytest

from mrcelery.errors import InputError
from mrcelery.storage.encodings import check_encoding


@pytest.mark.parametrize(
    ("uri", "header"),
    [
        ("s3://b/a.txt", ""),
        ("s3://b/a.txt", "identity"),
        ("s3://b/a.txt", "aws-chunked"),
        ("s3://b/a.txt", "utf-8"),
        ("s3://b/a.GZ", "gzip"),
        ("s3://b/a.gz", "aws-chunked, GZIP"),
        ("s3://b/a.zst", "zstd"),
    ],
)
def test_taken(uri: str, header: str) -> None:
    check_encoding(uri, header)


@pytest.mark.parametrize(
    ("uri", "header", "remedy"),
    [
        ("s3://b/a.txt", "gzip", "decompressed, or unchanged under a name that ends in .gz"),
        ("s3://b/a.gz", "gzip, zstd", "decompressed, or unchanged under a name that ends in .zst"),
        ("s3://b/a.gz", "BR", "decompressed$"),
        ("s3://b/a", "deflate", "decompressed$"),
    ],
)
def test_refused(uri: str, header: str, remedy: str) -> None:
    with pytest.raises(InputError, match=f"^{uri} comes compressed .*: copy it to storage {remedy}"):
        check_encoding(uri, header)


def test_the_name_is_that_of_the_path() -> None:
    check_encoding("http://host/a.gz?x=1", "gzip", "/a.gz")
    with pytest.raises(InputError, match=r"x=a\.gz comes compressed"):
        check_encoding("http://host/a?x=a.gz", "gzip", "/a")
