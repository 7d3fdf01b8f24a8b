"""What every storage promises, checked for each of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mrcelery.errors import ConfigError, StorageUnreachableError, VersionError
from mrcelery.storage import Storage, check, locate, open_storage
from mrcelery.storage.base import ObjectInfo
from mrcelery.storage.transfers import carried, transfers

LARGE = bytes(range(256)) * (20 << 12)  # 20 MiB: three parts on S3


@pytest.fixture
def storage(root: str) -> Storage:
    return open_storage(root)


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return [info.key for info in storage.list(prefix)]


def test_is_a_storage_and_names_its_root(storage: Storage, root: str) -> None:
    assert isinstance(storage, Storage)
    assert storage.uri == root
    assert open_storage(root) is storage


def test_reads_what_was_written(storage: Storage) -> None:
    storage.write("a/b", b"0123456789")
    assert storage.read("a/b") == b"0123456789"
    storage.write("a/b", b"new")
    assert storage.read("a/b") == b"new"
    storage.write("empty", b"")
    assert storage.read("empty") == b""
    assert b"".join(storage.stream("empty")) == b""


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (3, None), (0, 4), (2, 7), (9, 10), (9, 99), (10, None), (12, 15), (4, 4), (0, 0)]
)
def test_a_range_is_a_slice(storage: Storage, start: int, end: int | None) -> None:
    storage.write("a", b"0123456789")
    assert storage.read("a", start, end) == b"0123456789"[start:end]
    pieces = list(storage.stream("a", start, end, chunk=3))
    assert b"".join(pieces) == b"0123456789"[start:end]
    assert all(0 < len(piece) <= 3 for piece in pieces)


def test_what_a_block_that_writes_raises_is_not_the_storages(storage: Storage) -> None:
    """A merge reads from scratch as it writes to storage: a full scratch disk is not the storage's fault."""
    error = OSError(errno.ENOSPC, "No space left on device", "/scratch/spill")
    with pytest.raises(OSError) as caught, storage.writer("a") as out:
        out.write(b"x")
        raise error
    assert caught.value is error
    assert keys(storage) == []


def test_a_missing_object(storage: Storage) -> None:
    storage.write("a/b", b"x")
    for key in ("b", "a", "a/b/c", "a/bb"):
        with pytest.raises(FileNotFoundError):
            storage.read(key)
        with pytest.raises(FileNotFoundError):
            next(storage.stream(key))
        with pytest.raises(FileNotFoundError):
            storage.copy(key, storage, "copy")
        assert storage.stat(key) is None
    assert keys(storage) == ["a/b"]


def test_create_takes_only_a_free_key(storage: Storage) -> None:
    assert storage.create("job/commit.json", b"first") is True
    assert storage.create("job/commit.json", b"second") is False
    assert storage.create("job/commit.json", b"first") is False
    assert storage.read("job/commit.json") == b"first"
    storage.delete(["job/commit.json"])
    assert storage.create("job/commit.json", b"third") is True
    assert keys(storage) == ["job/commit.json"]


def test_one_of_many_threads_creates(storage: Storage) -> None:
    for number in range(5):
        barrier = threading.Barrier(8)
        won: list[int] = []

        def create(i: int, key: str, barrier: threading.Barrier, won: list[int]) -> None:
            barrier.wait()
            if storage.create(key, b"%d" % i):
                won.append(i)

        key = f"commit-{number}"
        threads = [threading.Thread(target=create, args=(i, key, barrier, won)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read(key) == b"%d" % won[0]


def _create(root: str, key: str, i: int, barrier: object, won: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    won.put((i, open_storage(root).create(key, b"%d" % i)))  # type: ignore[attr-defined]


def test_one_of_many_processes_creates(storage: Storage, root: str) -> None:
    if root.startswith("memory:"):
        pytest.skip("memory is one process's own")
    storage.list("")  # the parent's client is open when the children fork
    context = multiprocessing.get_context("fork")
    barrier, won = context.Barrier(4), context.SimpleQueue()
    processes = [context.Process(target=_create, args=(root, "commit", i, barrier, won)) for i in range(4)]
    for process in processes:
        process.start()
    results = dict(won.get() for _ in processes)
    for process in processes:
        process.join()
    winners = [i for i, created in results.items() if created]
    assert len(winners) == 1
    assert storage.read("commit") == b"%d" % winners[0]


def test_stat(storage: Storage) -> None:
    storage.write("a/b", b"four")
    assert storage.stat("a/b") == ObjectInfo("a/b", 4, storage.stat("a/b").tag)  # type: ignore[union-attr]


def test_list_is_in_order_of_key_and_by_prefix(storage: Storage) -> None:
    names = ["a", "b-c", "b.d/x", "b.d/y/z", "b/c", "b/c-", "b/d/e", "b0", "c/é", "c/日", "Z"]
    for name in reversed(names):
        storage.write(name, name.encode())
    assert keys(storage) == sorted(names)
    assert [info.size for info in storage.list("c/")] == [len("c/é".encode()), len("c/日".encode())]
    for prefix in ("b", "b/", "b/c", "b.", "b.d/y", "nothing", "nothing/", "a", "a/"):
        assert keys(storage, prefix) == [name for name in sorted(names) if name.startswith(prefix)]


def test_list_is_paginated(storage: Storage, root: str) -> None:
    if root.startswith("s3:"):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: storage.write(f"many/{i:05}", b""), range(2500)))
    else:
        for i in range(2500):
            storage.write(f"many/{i:05}", b"")
    assert keys(storage, "many/") == [f"many/{i:05}" for i in range(2500)]
    assert storage.delete(f"many/{i:05}" for i in range(2500)) == 2500
    assert keys(storage, "many/") == []


def test_delete_takes_missing_ones_and_leaves_the_rest(storage: Storage) -> None:
    storage.write("a/b/c", b"x")
    storage.write("a/d", b"x")
    assert storage.delete(["a/b/c", "not/there", "a/b"]) == 3
    assert keys(storage) == ["a/d"]
    assert storage.delete([]) == 0


def test_delete_what_is_being_listed(storage: Storage) -> None:
    for name in ("a/b/c", "a/b/d", "a/e", "f"):
        storage.write(name, b"x")
    assert storage.delete(info.key for info in storage.list("a/")) == 3
    assert keys(storage) == ["f"]


@pytest.mark.parametrize("size", [0, 1, 1000, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, len(LARGE)])
def test_writer(storage: Storage, size: int) -> None:
    data = LARGE[:size]
    with storage.writer("w/object") as out:
        for at in range(0, size, 3_000_000):
            out.write(memoryview(data)[at : at + 3_000_000])
        assert storage.stat("w/object") is None
        assert keys(storage) == []
    found = storage.stat("w/object")
    assert found is not None
    assert found[:2] == ("w/object", size)
    assert storage.read("w/object") == data


@pytest.mark.parametrize("size", [10, len(LARGE)])
def test_a_writer_that_fails_leaves_nothing(storage: Storage, size: int, root: str) -> None:
    storage.write("old", b"old")
    for key in ("new", "old"):
        with pytest.raises(ZeroDivisionError), storage.writer(key) as out:
            out.write(LARGE[:size])
            1 / 0  # noqa: B018
    assert keys(storage) == ["old"]
    assert storage.read("old") == b"old"
    if root.startswith("s3:"):
        import boto3

        uploads = boto3.client("s3").list_multipart_uploads(Bucket=root.split("/")[2])
        assert uploads.get("Uploads", []) == []


UNFINISHED = """
import os, sys
from mrcelery.storage import open_storage
with open_storage(sys.argv[1]).writer("a/b/new") as out:
    out.write(bytes(20 << 20))
    os._exit(0)
"""


def test_what_a_dead_process_left_of_a_write_is_swept_away(storage: Storage, root: str) -> None:
    storage.write("a/b/old", b"old")
    if root.startswith("memory:"):
        storage.sweep("a/")
        assert storage.read("a/b/old") == b"old"
        return

    def unfinished() -> int:
        if root.startswith("s3:"):
            import boto3

            bucket, prefix = root.removeprefix("s3://").split("/")
            found = boto3.client("s3").list_multipart_uploads(Bucket=bucket, Prefix=prefix)
            return len(found.get("Uploads", []))
        return len(list(Path(root).glob("**/.mrcelery-tmp-*")))

    subprocess.run([sys.executable, "-c", UNFINISHED, root], check=True)
    assert unfinished() == 1
    storage.sweep("a/c/")
    storage.sweep("b/")
    assert unfinished() == 1
    storage.sweep("a/")
    assert unfinished() == 0
    assert keys(storage) == ["a/b/old"]


def test_copy_within_and_across(storage: Storage, tmp_path: Path) -> None:
    storage.write("a", b"content")
    storage.write("taken", b"old")
    storage.copy("a", storage, "b/c")
    storage.copy("a", storage, "taken")
    assert storage.read("b/c") == storage.read("taken") == storage.read("a") == b"content"
    storage.copy("a", storage, "a")
    assert storage.read("a") == b"content"
    for other in (open_storage(str(tmp_path / "other")), open_storage(f"memory://{tmp_path.name}")):
        storage.copy("a", other, "x/y")
        other.copy("x/y", storage, "back")
        assert storage.read("back") == other.read("x/y") == b"content"
        storage.delete(["back"])


def test_locate_finds_an_object_by_its_address(storage: Storage, root: str) -> None:
    storage.write("in/a b.txt", b"text")
    found, key = locate(f"{root}/in/a b.txt")
    assert found.read(key) == b"text"


def test_folders(storage: Storage) -> None:
    assert list(storage.folders("jobs/")) == []
    for key in ("jobs/b/spec.json", "jobs/b/step-0/x", "jobs/a.1/y", "jobs/file", "jobs2/c/z", "x"):
        storage.write(key, b"")
    assert sorted(storage.folders("jobs/")) == ["a.1", "b"]
    assert sorted(storage.folders("jobs/b/")) == ["step-0"]


def test_check_probes_once(storage: Storage, root: str) -> None:
    check(storage)
    assert keys(storage) == ["mrcelery.json"]
    assert storage.read("mrcelery.json") == b'{"layout": 1}'
    with transfers() as moved:
        check(storage)
    assert moved.requests == ({"GET": 1} if root.startswith("s3://") else {})


def test_check_refuses_another_layout(storage: Storage) -> None:
    for marker in (b'{"layout": 2}', b"garbage", b"[]"):
        storage.write("mrcelery.json", marker)
        with pytest.raises(VersionError, match="layout"):
            check(storage)


class Overwriting:
    """A storage that ignores the condition, as some endpoints do."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def create(self, key: str, data: bytes) -> bool:
        self._inner.write(key, data)
        return True


def test_check_refuses_a_storage_that_overwrites(storage: Storage) -> None:
    with pytest.raises(StorageUnreachableError, match="ignores If-None-Match"):
        check(Overwriting(storage))  # type: ignore[arg-type]
    assert keys(storage) == []


# --- folder only


def test_folder_keys_stay_within_the_root(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "root"))
    for key in ("../x", "a/../../x", "/etc/passwd", "", "a//b", ".", "a/."):
        with pytest.raises(ValueError, match="not a storage key"):
            storage.write(key, b"x")
    assert list(tmp_path.iterdir()) == []


def test_folder_removes_empty_folders_and_what_the_dead_left(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    storage.write("jobs/a/b", b"x")
    storage.write("jobs/c", b"x")
    stale = tmp_path / "jobs/a/.mrcelery-tmp-1-abc"
    stale.write_bytes(b"half")
    assert keys(storage) == ["jobs/a/b", "jobs/c"]
    os.utime(stale, (time.time() - 7200,) * 2)
    storage.delete(["jobs/a/b"])
    assert not (tmp_path / "jobs/a").exists()
    (tmp_path / "jobs/.mrcelery-tmp-1-abc").write_bytes(b"somebody is writing this")
    storage.delete(["jobs/c"])
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [".mrcelery-tmp-1-abc"]


def test_folder_survives_writers_and_deleters_of_one_folder(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "root"))
    errors: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for _ in range(200):
                storage.write(f"a/b/{name}", b"x")
                storage.delete([f"a/b/{name}"])
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=churn, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert keys(storage) == []


def test_folder_walk_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(b"x")
    (tmp_path / "root/sub/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/sub/other").symlink_to(tmp_path / "other")
    (tmp_path / "root/broken").symlink_to(tmp_path / "nowhere")
    assert keys(open_storage(str(tmp_path / "root"))) == ["sub/other/file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_folder_without_rights(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageUnreachableError, match="access denied"):
        open_storage(str(tmp_path / "locked")).write("a", b"x")


def test_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageUnreachableError, match="file"):
        open_storage(str(tmp_path / "file/root")).write("a", b"x")


@pytest.mark.parametrize(
    "uri", ["", "gs://bucket/x", "http://host/x", "file://host/x", "redis://x", "s3://", "s3:///x"]
)
def test_addresses_that_are_no_storage(uri: str) -> None:
    with pytest.raises(ConfigError):
        open_storage(uri)


# --- S3 only


@pytest.mark.slow
def test_s3_bucket_that_does_not_exist(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}-not/prefix")
    for act in (
        lambda: storage.read("a"),
        lambda: storage.write("a", b""),
        lambda: storage.create("a", b""),
        lambda: list(storage.list()),
        lambda: storage.delete(["a"]),
        lambda: check(storage),
    ):
        with pytest.raises(StorageUnreachableError, match=f"bucket {bucket}-not does not exist: create it"):
            act()


@pytest.mark.slow
def test_s3_endpoint_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageUnreachableError, match="cannot be reached: check AWS_ENDPOINT_URL_S3"):
        open_storage(f"s3://{bucket}/x").read("a")


@pytest.mark.slow
def test_s3_without_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageUnreachableError, match="no AWS credentials"):
        open_storage(f"s3://{bucket}/x").read("a")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StorageUnreachableError, match="nobody"):
        open_storage(f"s3://{bucket}/x").read("a")


def test_s3_counts_requests_as_they_are_billed(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")
    with transfers() as moved:
        storage.write("a", b"abc")
        storage.create("b", b"abc")
        storage.read("a")
        storage.stat("a")
        storage.copy("a", storage, "c")
        assert keys(storage) == ["a", "b", "c"]
        storage.delete(["a", "b", "c"])
    assert moved.requests == {"PUT": 3, "GET": 2, "LIST": 1, "DELETE": 1}
    storage.stat("a")
    assert moved.requests["GET"] == 2


def test_s3_requests_of_two_tasks_in_one_process_are_told_apart(bucket: str) -> None:
    storage = open_storage(f"s3://{bucket}/{os.urandom(4).hex()}")

    def task(reads: int) -> dict[str, int]:
        with transfers() as moved, ThreadPoolExecutor(2) as pool:
            assert list(pool.map(carried(storage.stat), ["none"] * reads)) == [None] * reads
            return dict(moved.requests)

    with ThreadPoolExecutor(4) as tasks:
        assert list(tasks.map(task, range(1, 5))) == [{"GET": n} for n in range(1, 5)]
