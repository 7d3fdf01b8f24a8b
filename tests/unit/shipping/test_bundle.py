"""Finding a job class, and packing it with its files."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import JobLoadError, UsageError
from mrcelery.job.base import MRJob
from mrcelery.shipping import bundle

JOB = """
from mrcelery.job.base import MRJob

class Words(MRJob):
    def mapper(self, _, line):
        yield line, 1
"""


@pytest.fixture(autouse=True)
def _imports_undone() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("mrcelery", "msgspec")):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, **files: str) -> None:
    """Write Python files, by name: ``a__b`` is ``a/b.py``, ``a____init__`` is ``a/__init__.py``."""
    for name, text in files.items():
        path = folder / (name.replace("____init__", "/@").replace("__", "/").replace("@", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def built(spec: str, args: tuple[str, ...] = (), **options: Any) -> tuple[bundle.BuiltBundle, zipfile.ZipFile]:
    job_class = bundle.load_job(spec)
    made = bundle.build(job_class, bundle.make_job(job_class, args), **options)
    return made, zipfile.ZipFile(io.BytesIO(made.data))


def manifest(packed: zipfile.ZipFile) -> dict[str, Any]:
    return dict(json.loads(packed.read("manifest.json")))


# Finding the class


def test_a_class_is_found_by_file_and_by_module(folder: Path) -> None:
    write(folder, job_a=JOB, pkg__sub__job_b=JOB)
    (folder / "no-suffix").write_text(JOB)
    for spec in ("job_a.py", "job_a.py:Words", f"{folder}/job_a.py", "./job_a.py", "no-suffix:Words"):
        assert bundle.load_job(spec).__name__ == "Words"
    for spec in ("pkg.sub.job_b", "pkg.sub.job_b:Words"):
        assert bundle.load_job(spec).__module__ == "pkg.sub.job_b"


def test_helpers_beside_the_file_are_importable(folder: Path) -> None:
    write(folder, jobs__words="import word_helper\n" + JOB, jobs__word_helper="X = 1")
    assert bundle.load_job("jobs/words.py").__name__ == "Words"


def test_an_edited_file_is_read_anew_and_two_of_one_name_are_two(folder: Path) -> None:
    write(folder, a__words=JOB, b__words=JOB.replace("line, 1", "line, 2"))
    first, second = bundle.load_job("a/words.py"), bundle.load_job("b/words.py")
    assert next(first([]).mapper(None, "x")) == ("x", 1)
    assert next(second([]).mapper(None, "x")) == ("x", 2)
    (folder / "a" / "words.py").write_text(JOB.replace("line, 1", "line, 333"))
    assert next(bundle.load_job("a/words.py")([]).mapper(None, "x")) == ("x", 333)


def test_imported_classes_and_bases_do_not_count(folder: Path) -> None:
    write(
        folder,
        base_job=JOB,
        child_job=JOB + "from base_job import Words as Other\nclass Child(Words):\n    pass\n",
        job_none="from base_job import Words\n",
    )
    assert bundle.load_job("child_job.py").__name__ == "Child"
    assert bundle.load_job("child_job.py:Other").__module__ == "base_job"
    with pytest.raises(JobLoadError, match=r"job_none\.py has no job class: define one that extends"):
        bundle.load_job("job_none.py")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("missing.py", "missing.py: no such file"),
        ("missing.py:Words", "missing.py: no such file"),
        ("no_such_pkg.job", "there is no module no_such_pkg.job"),
        ("two.py", "two.py has several job classes, More, Words: name one, such as two.py:More"),
        ("two.py:Nope", "two.py has no job class Nope: it has More, Words"),
        ("two.py:MRJob.nope", "two.py has no job class MRJob.nope"),
        ("broken.py", "broken.py does not import: NameError: name 'undefined' is not defined"),
        ("syntax.py", r"syntax.py does not import: SyntaxError: .*line 1"),
        ("lacking.py", "lacking.py does not import: ModuleNotFoundError: No module named 'no_such_package'"),
        ("exits.py", "exits.py does not import: SystemExit: 3"),
        ("unguarded.py", r"Words.run\(\) is called while its file is imported: put it under"),
        ("", "give the path of a .py file"),
        (".relative", "give the path of a .py file"),
        ("x" * 300, "give the path of a .py file"),  # longer than a file's name may be
    ],
)
def test_what_cannot_be_loaded_is_said_in_a_line(folder: Path, spec: str, message: str) -> None:
    write(
        folder,
        two=JOB + "class More(MRJob):\n    pass\n",
        broken="undefined\n",
        syntax="def :\n",
        lacking="import no_such_package\n",
        exits="raise SystemExit(3)\n",
        unguarded=JOB + "Words.run()\n",
    )
    with pytest.raises(JobLoadError, match=message) as caught:
        bundle.load_job(spec)
    assert "\n" not in str(caught.value)


def test_the_traceback_of_a_broken_file_is_the_users_alone(folder: Path) -> None:
    write(folder, broken="import broken_helper\n", broken_helper="def f():\n    return 1 / 0\nf()\n")
    with pytest.raises(JobLoadError) as caught:
        bundle.load_job("broken.py")
    lines = caught.value.traceback.splitlines()
    assert [line.strip() for line in lines if line.startswith("    ") and "^" not in line] == [
        "import broken_helper",
        "f()",
        "return 1 / 0",
    ]
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_job_that_cannot_take_its_arguments_shows_where(folder: Path) -> None:
    write(folder, bad_args=JOB + "    def load_args(self, args):\n        self.x = 1 / 0\n")
    job_class = bundle.load_job("bad_args.py")
    with pytest.raises(JobLoadError, match="Words cannot take its arguments: ZeroDivisionError") as caught:
        bundle.make_job(job_class, [])
    assert "self.x = 1 / 0" in caught.value.traceback
    write(folder, fine=JOB)
    with pytest.raises(UsageError, match="unrecognized"):
        bundle.make_job(bundle.load_job("fine.py"), ["--nope"])


# Packing


def test_a_file_brings_what_it_imports_from_its_folder_and_no_more(folder: Path) -> None:
    write(
        folder,
        words="import json, helper_a\nfrom spaced import late\n" + JOB + "    def f(self): import helper_late\n",
        helper_a="import importlib\nfrom helper_b import x\nimportlib.import_module('helper_c')\n",
        helper_b="import words\nx = 1\n",
        helper_c="",
        helper_late="",
        unrelated="",
        json="raise Exception('hides the standard library')",
        spaced__late="from . import deeper\n",
        spaced__deeper="",
        spaced__unrelated="",
    )
    _, packed = built("words.py")
    assert sorted(packed.namelist()) == sorted(
        ["manifest.json"]
        + [f"lib/{n}.py" for n in ("words", "helper_a", "helper_b", "helper_c", "helper_late")]
        + ["lib/spaced/late.py", "lib/spaced/deeper.py"]
    )
    found = manifest(packed)
    assert (found["entry"], found["entry_file"], found["path"]) == ("words:Words", "words.py", ["lib"])
    assert found["modules"] == ["helper_a", "helper_b", "helper_c", "helper_late", "spaced", "words"]


def test_a_package_is_packed_whole_with_its_data(folder: Path) -> None:
    write(folder, jobs____init__="", jobs__words=JOB, jobs__late="import top_helper", top_helper="", other="")
    (folder / "jobs" / "data.txt").write_text("data")
    for skipped in ("__pycache__/x.pyc", ".git/config"):
        (folder / "jobs" / skipped).parent.mkdir()
        (folder / "jobs" / skipped).write_text("")
    made, packed = built("jobs.words")
    assert made.bundle.entry == "jobs.words:Words"
    assert set(packed.namelist()) == {
        "manifest.json",
        *(f"lib/jobs/{n}" for n in ("__init__.py", "words.py", "late.py", "data.txt")),
        "lib/top_helper.py",
    }


def test_jobs_that_come_with_mrcelery_are_not_packed() -> None:
    job_class = type("Example", (MRJob,), {"__module__": "mrcelery.job.base"})
    made = bundle.build(job_class, job_class([]))
    assert zipfile.ZipFile(io.BytesIO(made.data)).namelist() == ["manifest.json"]
    assert made.bundle.entry == "mrcelery.job.base:Example"


def test_equal_content_gives_equal_bytes(folder: Path) -> None:
    write(folder, a__words=JOB + "import helper", a__helper="", b__words=JOB + "import helper", b__helper="")
    (folder / "b" / "words.py").touch()
    first, _ = built("a/words.py")
    for name in ("words", "helper"):
        sys.modules.pop(name, None)
    second, _ = built("b/words.py")
    assert first == second
    assert first.bundle.sha256 == hashlib.sha256(first.data).hexdigest()
    assert first.bundle.size == len(first.data)


def test_a_script_run_by_python_is_shipped_under_its_own_name(folder: Path) -> None:
    report = "\nfrom mrcelery.shipping import bundle\nmade = bundle.build(Words, Words([]))\nprint(made.bundle.entry)\n"
    write(folder, words=JOB + report, random=JOB + report, pkg____init__="", pkg__words=JOB + report)
    root = str(Path(bundle.__file__).parents[2])

    def entry(*command: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [sys.executable, *command], input=stdin, capture_output=True, text=True, env={"PYTHONPATH": root}
        )
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    assert entry("words.py") == "words:Words"
    assert entry("-m", "pkg.words") == "pkg.words:Words"
    assert "put it into a .py file" in entry("-", stdin=JOB + report)


def test_a_name_that_would_hide_a_module_is_changed(folder: Path) -> None:
    write(folder, random=JOB)
    (folder / "word-count.py").write_text(JOB)
    assert built("random.py")[0].bundle.entry == "job_random:Words"
    made, packed = built("word-count.py")
    assert made.bundle.entry == "job_word_count:Words"
    assert manifest(packed)["entry_file"] == "word-count.py"


def test_a_class_inside_a_function_is_refused() -> None:
    class Local(MRJob):
        pass

    with pytest.raises(JobLoadError, match="inside a function"):
        bundle.build(Local, Local([]))


def test_everything_asked_for_is_packed(folder: Path) -> None:
    write(
        folder,
        words=JOB
        + "    FILES = ['beside.txt']\n    ARCHIVES = ['a.tar.gz#unpacked']\n"
        + "    def configure_args(self):\n        self.add_file_arg('--db')\n",
        lib_a="",
        package____init__="",
        plain__inside="",
    )
    for name in ("beside.txt", "a.tar.gz", "stop words.txt", "db.sqlite", "dir/one.txt", "with#hash"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "tool").write_text("#!/bin/sh")
    (folder / "tool").chmod(0o755)
    with zipfile.ZipFile(folder / "deps.whl", "w") as wheel:
        wheel.writestr("dep_x/__init__.py", "")
        wheel.writestr("dep_y.py", "")
        wheel.writestr("statistics.py", "")
    _, packed = built(
        "words.py",
        ("--db", "db.sqlite#short.db"),
        py_files=["lib_a.py", "package", "plain", "deps.whl"],
        files=["stop words.txt#stop.txt", "dir", "tool", "with#hash"],
    )
    members = {name: packed.getinfo(name) for name in packed.namelist()}
    assert sorted(members) == sorted([
        "manifest.json", "lib/words.py", "py/0/lib_a.py", "py/1/package/__init__.py", "py/2/inside.py", "py/3/deps.whl",
        "files/beside.txt", "files/stop.txt", "files/dir/one.txt", "files/tool", "files/with#hash",
        "archives/0-a.tar.gz", "args/0/short.db",
    ])  # fmt: skip
    found = manifest(packed)
    assert found["path"] == ["lib", "py/0", "py/1", "py/2", "py/3/deps.whl"]
    assert found["modules"] == ["dep_x", "dep_y", "inside", "lib_a", "package", "words"]
    assert found["archives"] == [["archives/0-a.tar.gz", "unpacked"]]
    assert found["file_args"] == {"db.sqlite#short.db": "args/0/short.db"}
    assert packed.read("args/0/short.db") == b"db.sqlite"
    assert members["files/tool"].external_attr >> 16 == 0o100755


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"files": ["nope.txt"]}, "--files nope.txt: no such file"),
        ({"archives": ["nope.zip"]}, "--archives nope.zip: no such file"),
        ({"archives": ["one/a.txt"]}, "is not an archive"),
        ({"py_files": ["one/a.txt"]}, "is not Python"),
        ({"py_files": ["bad.zip"]}, "is not a zip file"),
        ({"files": ["one/a.txt", "two/a.txt"]}, "would both be called files/a.txt: name one PATH#NAME"),
        ({"files": ["one/a.txt#../x"]}, "is not a plain name"),
        ({"files": ["one/a.txt#x"], "archives": ["bad.zip#x"]}, "would be called x"),
        ({"archives": ["bad.zip#x", "bad.zip#x"]}, "would be called x"),
    ],
)
def test_what_cannot_be_shipped_is_said(folder: Path, options: dict[str, Any], message: str) -> None:
    write(folder, words=JOB)
    for name in ("one/a.txt", "two/a.txt", "bad.zip"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    with pytest.raises(UsageError, match=message):
        built("words.py", **options)


def test_too_much_is_refused_before_it_is_read(folder: Path) -> None:
    write(folder, words=JOB)
    with (folder / "huge.bin").open("wb") as f:
        f.truncate(bundle.MAX_BYTES + 1)  # sparse: no disk is used
    with pytest.raises(UsageError, match=r"more than 256 MiB, the largest is huge.bin"):
        built("words.py", files=["huge.bin"])


def test_py_files_are_importable_on_the_client_too(folder: Path) -> None:
    write(folder, words="import dep_zipped, dep_plain\n" + JOB, vendor__dep_plain="")
    with zipfile.ZipFile(folder / "deps.zip", "w") as packed:
        packed.writestr("dep_zipped.py", "")
    assert bundle.load_job("words.py", ["deps.zip", "vendor/dep_plain.py"]).__name__ == "Words"
