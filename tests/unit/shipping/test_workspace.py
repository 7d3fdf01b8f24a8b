"""Running shipped code: isolation of modules, files and working directory, and bounded scratch space."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import ConfigError, CorruptDataError, JobLoadError, UsageError, UserCodeError, VersionError
from mrcelery.job.hooks import hooks
from mrcelery.schema.structs import Bundle
from mrcelery.shipping.workspace import LoadedBundle, Workspace

MANIFEST: dict[str, Any] = {
    "version": 1,
    "entry": "words:Words",
    "entry_file": "words.py",
    "modules": ["words", "helper", "pkg"],
    "path": ["lib"],
    "archives": [],
    "file_args": {},
}
JOB = """
from mrcelery.job.base import MRJob
import helper

class Words(MRJob):
    def mapper(self, _, line):
        yield line, helper.VERSION
"""


def shipped(members: dict[str, str | bytes], **manifest: Any) -> tuple[Bundle, bytes]:
    out = io.BytesIO()
    settings = MANIFEST | manifest
    with zipfile.ZipFile(out, "w") as packed:
        for name, text in {"manifest.json": json.dumps(settings), **members}.items():
            packed.writestr(name, text)
    data = out.getvalue()
    return Bundle(sha256=hashlib.sha256(data).hexdigest(), size=len(data), entry=settings["entry"]), data


def version(n: int) -> tuple[Bundle, bytes]:
    return shipped({"lib/words.py": JOB, "lib/helper.py": f"VERSION = {n}"})


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "scratch")
    before = (list(sys.path), set(sys.modules), Path.cwd(), list(sys.meta_path))
    yield made
    made.close()
    assert (sys.path, Path.cwd(), sys.meta_path) == (before[0], before[2], before[3])
    assert not {"words", "helper", "pkg", "mrjob"} & (set(sys.modules) - before[1])


def opened(workspace: Workspace, members: dict[str, str | bytes], **manifest: Any) -> LoadedBundle:
    bundle, data = shipped(members, **manifest)
    return workspace.open(bundle, lambda: data)


def mapped(loaded: LoadedBundle, line: str = "x", args: tuple[str, ...] = ()) -> list[Any]:
    with loaded.activate():
        mapper = hooks(loaded.job(args), 0).mapper
        assert mapper is not None
        return list(mapper(None, line))


def test_two_versions_of_one_job_do_not_see_each_other(workspace: Workspace) -> None:
    one, two = (workspace.open(b, lambda d=d: d) for b, d in (version(1), version(2)))  # type: ignore[misc]
    for _ in range(2):
        assert mapped(one) == [("x", 1)]
        assert mapped(two) == [("x", 2)]


COUNTING = {"lib/pkg/__init__.py": "", "lib/pkg/counting.py": "calls = []"}


def counting(more: str = "") -> dict[str, str | bytes]:
    """A job that yields how many calls a module of its own has noted."""
    job = JOB.replace("import helper", "import sys, pkg.counting") + "        pkg.counting.calls.append(line)\n" + more
    return {"lib/words.py": job.replace("helper.VERSION", "len(pkg.counting.calls)"), **COUNTING}


def test_a_task_finds_modules_as_they_are_imported(workspace: Workspace) -> None:
    loaded = opened(workspace, counting())
    assert [mapped(loaded) for _ in range(3)] == [[("x", 0)]] * 3
    with loaded.activate():
        job = loaded.job(())
        mapper = hooks(job, 0).mapper
        assert mapper is not None
        assert [list(mapper(None, "x")) for _ in range(3)] == [[("x", 0)], [("x", 1)], [("x", 2)]]


def test_a_job_may_keep_its_modules(workspace: Workspace) -> None:
    loaded = opened(workspace, counting("    KEEP_MODULES = True\n"))
    assert [mapped(loaded) for _ in range(3)] == [[("x", 0)], [("x", 1)], [("x", 2)]]
    assert loaded.keeps_modules


def test_modules_that_are_loaded_ahead_stay(workspace: Workspace) -> None:
    loaded = opened(workspace, counting())
    modules = loaded.load()
    assert set(modules) == {"words", "pkg", "pkg.counting"}
    assert not set(modules) & set(sys.modules)
    assert mapped(loaded) == [("x", 0)]
    assert modules["pkg.counting"].calls == ["x"]
    assert not loaded.keeps_modules


def test_modules_of_the_worker_are_hidden_meanwhile(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = type(sys)("helper")
    mine.VERSION = "the worker's"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "helper", mine)
    bundle, data = version(1)
    assert mapped(workspace.open(bundle, lambda: data)) == [("x", 1)]
    assert sys.modules.pop("helper") is mine


def test_late_and_relative_imports_and_packages_work(workspace: Workspace) -> None:
    job = """
from mrcelery.job.base import MRJob
from . import helper

class Words(MRJob):
    def mapper(self, _, line):
        from .late import VALUE
        import spaced.module
        yield helper.NAME, (VALUE, spaced.module.VALUE)
"""
    loaded = opened(
        workspace,
        {
            "lib/pkg/__init__.py": "",
            "lib/pkg/words.py": job,
            "lib/pkg/helper.py": "NAME = __name__",
            "lib/pkg/late.py": "VALUE = 1",
            "lib/spaced/module.py": "VALUE = 2",
        },
        entry="pkg.words:Words",
        entry_file="",
        modules=["pkg", "spaced"],
    )
    for _ in range(2):
        assert mapped(loaded) == [("pkg.helper", (1, 2))]
    assert "spaced" not in sys.modules


def test_zips_are_importable_and_path_changes_of_the_job_last_for_it(workspace: Workspace) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        packed.writestr("zipped.py", "VALUE = 1")
    job = """
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "vendor"))
from mrcelery.job.base import MRJob

class Words(MRJob):
    def mapper(self, _, line):
        import zipped, vendored
        yield zipped.VALUE, vendored.VALUE
"""
    loaded = opened(
        workspace,
        {"lib/words.py": job, "lib/vendor/vendored.py": "VALUE = 2", "py/0/x.zip": inner.getvalue()},
        path=["lib", "py/0/x.zip"],
    )
    with loaded.activate():
        loaded.job([])
    assert mapped(loaded) == [(1, 2)]
    assert not {"zipped", "vendored"} & set(sys.modules)


def test_an_mrjob_job_runs_and_may_import_late(workspace: Workspace) -> None:
    job = """
from mrjob.job import MRJob

class Words(MRJob):
    def mapper(self, _, line):
        from mrjob.util import to_lines
        yield line, list(to_lines([b"a"]))[0].decode()
"""
    assert mapped(opened(workspace, {"lib/words.py": job})) == [("x", "a")]


def test_a_job_of_the_installed_package_needs_nothing_in_the_bundle(workspace: Workspace) -> None:
    loaded = opened(workspace, {}, entry="mrcelery.job.mrjob_alias:MRJob", entry_file="", modules=[], path=[])
    from mrcelery.job.mrjob_alias import MRJob

    assert type(loaded.job([])) is MRJob


READS_FILES = """
import os
from pathlib import Path
from mrcelery.job.base import MRJob

class Words(MRJob):
    def configure_args(self):
        super().configure_args()
        self.add_file_arg("--db")

    def mapper(self, _, line):
        Path("own.txt").touch(exist_ok=False)
        yield Path(self.options.db).read_text(), {
            name: Path(name).read_text() for name in ("stop.txt", "dir/one.txt", "unpacked/in.txt", "zipped/in.txt")
        }
        yield "x", os.access("stop.txt", os.X_OK)
"""


def test_files_are_in_a_working_directory_of_each_tasks_own(workspace: Workspace) -> None:
    tar, packed_zip = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as packed:
        member = tarfile.TarInfo("in.txt")
        member.size = 3
        packed.addfile(member, io.BytesIO(b"tar"))
    with zipfile.ZipFile(packed_zip, "w") as packed_in_zip:
        packed_in_zip.writestr("in.txt", "zip")
    loaded = opened(
        workspace,
        {
            "lib/words.py": READS_FILES,
            "files/stop.txt": "stop",
            "files/dir/one.txt": "one",
            "args/0/db": "a database",
            "archives/0-a.tgz": tar.getvalue(),
            "archives/1-b.zip": packed_zip.getvalue(),
        },
        modules=["words"],
        archives=[["archives/0-a.tgz", "unpacked"], ["archives/1-b.zip", "zipped"]],
        file_args={"my/db": "args/0/db"},
    )
    contents = {"stop.txt": "stop", "dir/one.txt": "one", "unpacked/in.txt": "tar", "zipped/in.txt": "zip"}
    for _ in range(2):
        assert mapped(loaded, args=("--db", "my/db")) == [("a database", contents), ("x", False)]
    assert list((loaded.path / "work").iterdir()) == []


def test_execute_bits_survive(workspace: Workspace) -> None:
    info = zipfile.ZipInfo("files/tool")
    info.external_attr = 0o100755 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("manifest.json", json.dumps(MANIFEST))
        packed.writestr(info, "#!/bin/sh\n")
    data = out.getvalue()
    loaded = workspace.open(Bundle(sha256=hashlib.sha256(data).hexdigest(), size=0, entry="w:W"), lambda: data)
    with loaded.activate():
        assert os.access("tool", os.X_OK)


def test_it_comes_back_even_where_the_old_working_directory_is_gone(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    before = Path.cwd()
    monkeypatch.chdir(gone)
    gone.rmdir()
    bundle, data = version(1)
    assert mapped(workspace.open(bundle, lambda: data)) == [("x", 1)]
    with pytest.raises(FileNotFoundError):
        Path.cwd()
    os.chdir(before)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import no_such_package", UserCodeError, "No module named 'no_such_package': install it on the workers"),
        ("1 / 0", UserCodeError, "the job does not import on the worker: ZeroDivisionError"),
        ("class Words(: pass", UserCodeError, "SyntaxError"),
        ("x = 1", UserCodeError, "has no attribute 'Words'"),
        ("raise SystemExit", UserCodeError, "SystemExit"),
        ("from mrjob.emr import x", UserCodeError, "mrcelery does not provide mrjob.emr"),
        (JOB + "    def load_args(self, args):\n        1 / 0", UserCodeError, "cannot take its arguments: ZeroDiv"),
        (JOB + "\nWords.run()", JobLoadError, "__main__"),
    ],
)
def test_user_errors_carry_their_traceback(
    workspace: Workspace, source: str, error: type[Exception], message: str
) -> None:
    loaded = opened(workspace, {"lib/words.py": source, "lib/helper.py": ""})
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            loaded.job([])
    if isinstance(caught.value, UserCodeError) and "attribute" not in message:
        assert 'File "words.py", line' in caught.value.traceback
        assert source.splitlines()[-1].strip() in caught.value.traceback
        assert "mrcelery/loader.py" not in caught.value.traceback


def test_bad_arguments_are_usage_errors(workspace: Workspace) -> None:
    bundle, data = version(1)
    with pytest.raises(UsageError, match="unrecognized arguments: --nope"):
        workspace.open(bundle, lambda: data).job(["--nope"])


# What arrives


def test_altered_bytes_are_refused_and_leave_nothing(workspace: Workspace) -> None:
    (bundle, data), (_, other) = version(1), version(2)
    for wrong in (other, data[:-1], b""):
        with pytest.raises(CorruptDataError, match="altered or damaged"):
            workspace.open(bundle, lambda wrong=wrong: wrong)  # type: ignore[misc]
    assert [p.name for p in workspace.root.iterdir()] == [f"{bundle.sha256}.lock"]
    assert mapped(workspace.open(bundle, lambda: data)) == [("x", 1)]


def test_another_version_is_refused(workspace: Workspace) -> None:
    with pytest.raises(VersionError, match="version 2"):
        opened(workspace, {}, version=2)


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "lib/../../outside.py"])
def test_no_member_leaves_the_folder(workspace: Workspace, tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptDataError, match="outside of it"):
        opened(workspace, {name: "x"})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(CorruptDataError, match="outside of it") as caught:
        opened(workspace, {"archives/0-a.zip": packed.getvalue()}, archives=[["archives/0-a.zip", "a"]])
    assert not caught.value.retryable
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize("kind", ["name", "link", "device"])
def test_no_member_of_a_tar_leaves_the_folder(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo("../outside" if kind == "name" else "in")
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    elif kind == "device":
        member.type = tarfile.FIFOTYPE
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as packed:
        packed.addfile(member)
    with pytest.raises(CorruptDataError, match=r"archive 0-a\.tar cannot be unpacked"):
        opened(workspace, {"archives/0-a.tar": out.getvalue()}, archives=[["archives/0-a.tar", "a"]])
    assert not list(tmp_path.rglob("outside*"))


def test_a_broken_archive_is_told(workspace: Workspace) -> None:
    with pytest.raises(CorruptDataError, match=r"0-a\.tgz cannot be unpacked"):
        opened(workspace, {"archives/0-a.tgz": b"\x1f\x8b nonsense"}, archives=[["archives/0-a.tgz", "a"]])


def test_a_scratch_folder_of_another_user_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        opened(workspace, {})


# Bounds and sharing


def test_it_is_fetched_and_unpacked_once_for_all_processes(workspace: Workspace) -> None:
    bundle, data = version(1)
    workspace.open(bundle, lambda: data)

    def never() -> bytes:
        raise AssertionError("fetched again")

    assert workspace.open(bundle, never) is workspace.open(bundle, never)
    other = Workspace(workspace.root)
    assert mapped(other.open(bundle, never)) == [("x", 1)]
    other.close()


def test_old_bundles_go_but_never_one_that_is_open(tmp_path: Path) -> None:
    first, others = Workspace(tmp_path, keep=2), Workspace(tmp_path, keep=2)
    kept, kept_data = version(0)
    loaded = first.open(kept, lambda: kept_data)
    for n in range(1, 8):
        bundle, data = version(n)
        assert mapped(others.open(bundle, lambda data=data: data)) == [("x", n)]  # type: ignore[misc]
    unpacked = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert kept.sha256 in unpacked
    assert len(unpacked) <= 4
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {f"{name}.lock" for name in unpacked}
    assert mapped(loaded) == [("x", 0)]
    first.close()
    others.close()


def test_a_folder_that_was_cleaned_away_is_unpacked_again(workspace: Workspace) -> None:
    bundle, data = version(1)
    shutil.rmtree(workspace.open(bundle, lambda: data).path)
    assert mapped(workspace.open(bundle, lambda: data)) == [("x", 1)]


def _open_in_process(root: Path, bundle: Bundle, data: bytes, barrier: Any, results: Any) -> None:
    barrier.wait()
    workspace = Workspace(root, keep=1)
    loaded = workspace.open(bundle, lambda: data)
    results.put(mapped(loaded))
    workspace.close()


def test_processes_that_race_all_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(6), context.Queue()
    versions = [version(n % 3) for n in range(6)]
    processes = [
        context.Process(target=_open_in_process, args=(tmp_path, *versions[n], barrier, results)) for n in range(6)
    ]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=30)[0][1] for _ in processes)
    for process in processes:
        process.join(30)
    assert found == [0, 0, 1, 1, 2, 2]
    assert not list(tmp_path.glob("*.partial"))


def test_threads_share_one_bundle_and_wait_for_another(workspace: Workspace) -> None:
    one, two = (workspace.open(b, lambda d=d: d) for b, d in (version(1), version(2)))  # type: ignore[misc]
    seen: list[Any] = []
    done = threading.Event()

    def run(loaded: LoadedBundle) -> None:
        seen.append(mapped(loaded)[0][1])
        done.set()

    with one.activate():
        same = threading.Thread(target=run, args=(one,))
        same.start()
        same.join(30)
        assert seen == [1]
        done.clear()
        other = threading.Thread(target=run, args=(two,))
        other.start()
        assert not done.wait(0.05)
        with pytest.raises(RuntimeError, match="cannot run inside"), two.activate():
            pass
    other.join(30)
    assert seen == [1, 2]


def test_a_thread_does_not_see_a_module_that_another_is_importing(workspace: Workspace) -> None:
    slow = JOB.replace("import helper", "import time, helper\ntime.sleep(0.1)")
    loaded = opened(workspace, {"lib/words.py": slow, "lib/helper.py": "VERSION = 1"})
    seen: list[Any] = []
    begin = threading.Barrier(4)

    def run() -> None:
        begin.wait()
        try:
            seen.append(mapped(loaded)[0])
        except BaseException as e:
            seen.append(e)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [("x", 1)] * 4
