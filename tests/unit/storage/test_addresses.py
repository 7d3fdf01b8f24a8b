"""Addresses: against urllib.parse and pathlib, and every spelling that is refused."""

from __future__ import annotations

import os
import string
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import ConfigError, InputError, UsageError
from mrcelery.storage import locate, open_storage
from mrcelery.storage.addresses import FILE, FOLDER, INPUT, OUTPUT, STORAGE, is_remote, local, parse, scheme_of, tidy

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text(":/.~-%s3afile htp@", max_size=12)
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
buckets = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=12)


@given(text=texts, role=st.sampled_from([INPUT, OUTPUT, STORAGE, FOLDER, FILE]))
def test_every_text_has_one_spelling_or_is_refused(text: str, role: str) -> None:
    try:
        address = parse(text, role)
    except UsageError as e:
        assert "\n" not in str(e).replace(text, "")
        assert str(e).partition(" ")[2]
        return
    assert address.scheme in ("", "s3", "http", "https", "memory")
    assert parse(str(address), role) == address
    assert scheme_of(str(address)) == address.scheme
    assert address.scheme or os.path.isabs(address.key)
    assert text != "-" or role == INPUT


@given(parts=st.lists(names, min_size=1, max_size=4))
def test_what_pathlib_writes_names_the_same_file(parts: list[str]) -> None:
    path = Path("/", *parts)
    assert local(path.as_uri()) == str(path)
    assert local(path.as_uri().replace("file://", "FILE://localhost")) == str(path)
    assert local(path.as_uri().replace("file://", "file:")) == str(path)
    assert local(path) == local(str(path)) == str(path)
    assert parse("./" + "/".join(parts)).key == str(Path.cwd().joinpath(*parts))


@given(
    scheme=st.sampled_from(["s3", "S3", "s3a", "S3A", "s3n"]), bucket=buckets, key=st.text(string.printable, max_size=9)
)
def test_keys_of_s3_are_taken_as_they_are(scheme: str, bucket: str, key: str) -> None:
    assert parse(f"{scheme}://{bucket}/{key}") == ("s3", bucket, key)
    assert parse(f"{scheme}://{bucket}") == ("s3", bucket, "")


@pytest.mark.parametrize("tail", ["", "/", "/a", "/a/b?c=d/e", "?q=1", "?q=a/b", "/a%20b", "//a", "/a?x=http://y/z"])
@pytest.mark.parametrize("host", ["h", "h.example:8080", "user:pw@h", "[::1]:80"])
def test_web_addresses_are_cut_as_urllib_does(host: str, tail: str) -> None:
    for scheme in ("http", "HTTPS"):
        found = urlsplit(f"{scheme}://{host}{tail}")
        query = f"?{found.query}" if found.query else ""
        assert parse(f"{scheme}://{host}{tail}") == (
            found.scheme,
            found.netloc,
            found.path.removeprefix("/") + query,
        )


REFUSED = {
    "gs://b/o": "Google Cloud Storage",
    "GS://b/o": "Google Cloud Storage",
    "gs:b": "Google Cloud Storage",
    "abfs://c@a.dfs.core.windows.net/x": "Azure",
    "wasbs://c@a/x": "Azure",
    "hdfs://n/x": "HDFS",
    "hdfs:/x": "HDFS",
    "ftp://h/x": "file server",
    "minio://b/k": "AWS_ENDPOINT_URL_S3",
    "foo://b/o": "unknown scheme: .*./foo://b/o for a path",
    "1s3://b": "unknown scheme",
    "s3:/b/k": "write s3://b/k, or ./s3:/b/k",
    "S3A:b/k": "write s3://b/k",
    "s3:": "lacks the two slashes",
    "http:/h/x": "write http://h/x",
    "s3//b/k": "write s3://b/k",
    "https//h/x": "write https://h/x",
    "s3;//b/k": "write s3://b/k",
    " s3://b/k": "write s3://b/k",
    "'s3://b/k'": "write s3://b/k, or",
    "s3 ://b/k": "write s3://b/k",
    "file:x": "three slashes",
    "file://x/y": "the host 'x'",
    "file://": "three slashes",
    "file:///a%00b": "NUL",
    "a\0b": "NUL",
    "arn:aws:s3:::b/k": "write s3://bucket/key",
    "redis://:pw@h/0": "--broker",
    "": "is empty, perhaps from a shell variable",
    " \t": "is empty, perhaps from a shell variable",
}


@pytest.mark.parametrize("role", [INPUT, OUTPUT, STORAGE, FOLDER, FILE])
@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str, role: str) -> None:
    with pytest.raises(InputError if role == INPUT else ConfigError, match=REFUSED[text]):
        parse(text, role)


@pytest.mark.parametrize(
    ("text", "role", "why"),
    [
        ("s3://", STORAGE, "has no bucket"),
        ("s3:///k", OUTPUT, "has no bucket"),
        ("s3://arn:aws:s3:eu-west-1:1:accesspoint/a", OUTPUT, "alias"),
        ("https://h/x", OUTPUT, "read-only"),
        ("http://h/x", STORAGE, "read-only"),
        ("s3://b/x", FOLDER, "not on this machine"),
        ("s3://b/x", FILE, "a file of this machine"),
        ("-", OUTPUT, "leave it out to print"),
        ("s3://b/x\r", OUTPUT, "line break"),
    ],
)
def test_what_is_refused_for_what_it_is_for(text: str, role: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(text, role)


def test_inputs_without_a_host_or_a_bucket() -> None:
    for text in ("s3://", "s3:///k", "http:///x", "http://?q", "memory://"):
        with pytest.raises(InputError, match="has no"):
            parse(text)


def test_no_message_shows_a_secret() -> None:
    for text in ("s3://AKIA:hidden@b/k", "redis://u:hidden@h/0", "foo://u:hidden@h"):
        with pytest.raises(InputError) as caught:
            parse(text)
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["12:30.log", "gene:1", "a:b/c", "s3", "s3.txt", "s3/x", "x/s3://y", "~", "-", "data:1"]
)
def test_names_with_colons_are_reached(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local(f"./{name}") == str(tmp_path / name)
    if name != "~":
        assert local(name) == str(tmp_path / name)


def test_a_path_object_is_never_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tidy(Path("-"), INPUT) == str(tmp_path / "-")
    assert tidy("-", INPUT) == "-"
    with pytest.raises(InputError, match="give it as text"):
        parse(Path("s3://bucket/key"))
    with pytest.raises(InputError, match="as text or a pathlib"):
        parse(3)  # type: ignore[arg-type]


def test_two_dots_leave_what_a_link_stands_for(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/x").write_text("right")
    (tmp_path / "x").write_text("wrong")
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    assert Path(local(f"{tmp_path}/link/../x")).read_text() == "right"
    storage, key = locate(f"{tmp_path}/link/../x")
    assert storage.read(key) == b"right"
    assert local(f"{tmp_path}/link/x") == f"{tmp_path}/link/x"


def test_one_storage_however_it_is_spelt(tmp_path: Path) -> None:
    assert open_storage(f"{tmp_path}/") is open_storage(tmp_path.as_uri()) is open_storage(str(tmp_path))
    assert open_storage("S3A://bucket/p/") is open_storage("s3://bucket/p")
    assert open_storage("s3a://bucket/p").uri == "s3://bucket/p"
    assert open_storage("file:///").uri == "/"


def test_is_remote() -> None:
    assert [is_remote(uri) for uri in ("-", "a", "file:///a", "S3A://b", "https://h", "memory://m")] == [False] * 3 + [
        True
    ] * 3
