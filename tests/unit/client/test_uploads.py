"""Local inputs as addresses that workers can read."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrcelery.client import uploads
from mrcelery.errors import InputError
from mrcelery.storage import open_storage


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> str:
    return f"memory://inputs-{request.node.name}"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    stdin(monkeypatch, b"piped")
    (tmp_path / "spool").mkdir()
    given = ["a.txt", f"file://{tmp_path}/a.txt", "*.txt", "s3://b/k", "https://h/x", "-"]
    found = uploads.absolute(given, str(tmp_path / "spool"))
    a = str(tmp_path / "a.txt")
    assert found.uris == [a, a, str(tmp_path / "*.txt"), "s3://b/k", "https://h/x", str(tmp_path / "spool" / "stdin")]
    assert (tmp_path / "spool" / "stdin").read_bytes() == b"piped"


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.txt"):
        uploads.absolute([str(tmp_path / "nope.txt")], "")
    with pytest.raises(InputError, match=r"nope\.txt"):
        uploads.upload([str(tmp_path / "nope.txt")], "memory://none", "text")


def test_small_inputs_travel_with_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.txt", "a.txt", "_hidden"):
        (tmp_path / "in" / name).write_text(name)
    stdin(monkeypatch, b"piped")
    found = uploads.upload([str(tmp_path / "in"), "s3://b/k", "-"], storage, "text")
    a, b, piped = digest(b"a.txt"), digest(b"b.txt"), digest(b"piped")
    assert found.uris == [
        f"{storage}/inputs/{a}/a.txt",
        f"{storage}/inputs/{b}/b.txt",
        "s3://b/k",
        f"{storage}/inputs/{piped}/stdin",
    ]
    assert found.blobs == {a: b"a.txt", b: b"b.txt", piped: b"piped"}
    assert found.names == {a: "a.txt", b: "b.txt", piped: "stdin"}
    assert list(open_storage(storage).list()) == []


def test_the_same_content_under_two_names_is_one_blob(tmp_path: Path, storage: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    found = uploads.upload([str(tmp_path / "a"), str(tmp_path / "b")], storage, "text")
    assert found.uris == [f"{storage}/inputs/{digest(b'same')}/a"] * 2
    assert found.names == {digest(b"same"): "a"}


def test_large_inputs_are_uploaded_once(tmp_path: Path, storage: str) -> None:
    data = b"x" * (uploads.SMALL + 1)
    (tmp_path / "big").write_bytes(data)
    seen: list[tuple[str, int, int]] = []
    for _ in range(2):
        found = uploads.upload([str(tmp_path / "big")], storage, "text", lambda *args: seen.append(args))
        key = f"inputs/{digest(data)}/big"
        assert (found.uris, found.blobs, found.names) == ([f"{storage}/{key}"], {}, {})
        assert open_storage(storage).read(key) == data
    assert seen == [("big", len(data), len(data))]


def test_each_spelling_is_uploaded_or_passed_on(tmp_path: Path, storage: str) -> None:
    (tmp_path / "sp ace").write_text("a")
    given = [(tmp_path / "sp ace").as_uri(), f"file://localhost{tmp_path}/sp%20ace", "S3A://b/k%20", "HTTPS://h/x"]
    uploaded = f"{storage}/inputs/{digest(b'a')}/sp ace"
    assert uploads.upload(given, storage, "text").uris == [uploaded, uploaded, "s3://b/k%20", "https://h/x"]
    local = str(tmp_path / "sp ace")
    assert uploads.absolute(given, "").uris == [local, local, "s3://b/k%20", "https://h/x"]


def test_a_glob_to_upload_names_its_archive(tmp_path: Path, storage: str) -> None:
    for name in ("a.txt", "b.tgz"):
        (tmp_path / name).write_text(name)
    with pytest.raises(InputError, match=r"b\.tgz is an archive"):
        uploads.upload([f"{tmp_path}/*"], storage, "text")


def test_a_file_that_is_rewritten_while_it_is_uploaded_is_refused_by_name(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "big.log"
    path.write_bytes(bytes(3 << 20))

    def rewrite(name: str, sent: int, size: int) -> None:
        with path.open("r+b") as file:
            file.seek(2 << 20)
            file.write(b"another line\n")

    with pytest.raises(InputError, match=r"big\.log changed while it was uploaded"):
        uploads.upload([str(path)], storage, "text", rewrite)
    assert list(open_storage(storage).list()) == []


def test_a_file_that_grows_while_it_is_uploaded_is_what_it_was(tmp_path: Path, storage: str) -> None:
    path = tmp_path / "big.log"
    before = bytes(3 << 20)
    path.write_bytes(before)

    def grow(name: str, sent: int, size: int) -> None:
        if sent < 4 * size:  # a reader to the end of the file would send this, too
            with path.open("ab") as file:
                file.write(b"another line\n")

    (uri,) = uploads.upload([str(path)], storage, "text", grow).uris
    assert uri == f"{storage}/inputs/{digest(before)}/big.log"
    assert open_storage(storage).read(uri.removeprefix(f"{storage}/")) == before
