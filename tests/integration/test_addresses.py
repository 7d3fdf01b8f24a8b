"""Addresses on the command line: each spelling reads or writes what it names, or is refused before anything runs."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.services import command, environment

CONTENT = "to be or not to be\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with nothing but the job and its input."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "in.txt").write_text(CONTENT)
    monkeypatch.chdir(folder)
    return folder


def mrcelery(*args: str, runner: str = "inline") -> subprocess.CompletedProcess[str]:
    return command(*args, env=environment(MRCELERY_RUNNER=runner))


def submit(*args: str, runner: str = "inline") -> subprocess.CompletedProcess[str]:
    return mrcelery("submit", "mrcelery.examples.word_count:WordCount", "--workers", "1", *args, runner=runner)


def refused(done: subprocess.CompletedProcess[str], why: str, here: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in here.iterdir()] == ["in.txt"]


@pytest.mark.parametrize("runner", ["inline", "local"])
def test_wrong_outputs_make_no_folder(runner: str, here: Path) -> None:
    for output, why in {
        "gs://b/o": "Google Cloud Storage",
        "s3:b/o": "write s3://b/o",
        "": "OUTPUT (-o, --output) is empty",
    }.items():
        refused(submit("in.txt", "-o", output, runner=runner), why, here)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["in.txt", ""], "an INPUT is empty"),
        (["hdfs://n/x"], "HDFS"),
        (["in.txt", "--storage", ""], "--storage is empty"),
        (["in.txt", "--storage", "abfs://c@a/x"], "Azure"),
        (["in.txt", "--broker", ""], "--broker is empty"),
        (["in.txt", "--files", ""], "--files is empty"),
        (["in.txt", "--client-token", ""], "--client-token is empty"),
        (["in.txt", "-o", "https://h/x"], "is read-only"),
        (["gs://b/o", "--dry-run"], "Google Cloud Storage"),
    ],
)
def test_wrong_arguments_of_submit(args: list[str], why: str, here: Path) -> None:
    refused(submit(*args), why, here)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["cat", ""], "is empty"),
        (["cat", "gs://b/o"], "Google Cloud Storage"),
        (["cat", "s3:/b/o"], "write s3://b/o"),
        (["fetch", "job", "s3://b/o"], "not on this machine"),
        (["fetch", "job", ""], "DIR is empty"),
        (["status", ""], "JOB is empty"),
        (["cancel", ""], "JOB is empty"),
        (["clean", "", "--storage", "store"], "JOB is empty"),
        (["clean", "--storage", "hdfs://n/x"], "HDFS"),
        (["list", "--storage", "s3:/b"], "write s3://b"),
        (["report", "job", "-o", "s3://b/page.html"], "a file of this machine"),
    ],
)
def test_wrong_arguments_of_other_commands(args: list[str], why: str, here: Path) -> None:
    refused(mrcelery(*args), why, here)


def test_doctor_finds_a_wrong_storage() -> None:
    done = mrcelery("doctor", "--storage", "gs://b/o")
    assert done.returncode == 3
    assert "FAIL  storage" in done.stdout
    assert "Google Cloud Storage" in done.stdout


@pytest.mark.parametrize("runner", ["inline", "local"])
def test_every_spelling_of_a_file(runner: str, here: Path) -> None:
    places = ["sp ace.txt", "s3:x", "100%.txt"]
    for name in places:
        (here / name).write_text(CONTENT)
    (here / "gs:").mkdir()
    (here / "gs:/x").write_text(CONTENT)
    spelt = ["in.txt", (here / "sp ace.txt").as_uri(), "./s3:x", f"file://localhost{here}/100%25.txt", "./gs://x"]
    done = submit(*spelt, "-o", (here / "out put").as_uri(), runner=runner)
    assert done.returncode == 0, done.stderr
    assert '"be"\t10\n' in mrcelery("cat", (here / "out put").as_uri()).stdout
    assert (here / "out put/_SUCCESS").exists()
    assert not (here / "file:").exists()


def test_a_glob_selects_what_the_shell_does(here: Path) -> None:
    for name in ("a1", "a2", "ax", "a^"):
        (here / name).write_text(f"{name}\n")
    for pattern in ("a[^0-9]", "a[!0-9]", "a[[:digit:]]"):
        listed = subprocess.run(["bash", "-c", f"cat {pattern}"], capture_output=True, text=True).stdout
        done = submit(pattern)
        assert sorted(line.split('"')[1] for line in done.stdout.splitlines()) == sorted(listed.split())


@pytest.mark.parametrize("runner", ["inline", "local"])
def test_an_archive_is_not_read_as_text(runner: str, here: Path) -> None:
    folder = here / "in"
    folder.mkdir()
    (folder / "a.txt").write_text(CONTENT)
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("c.txt", CONTENT)
    for given in ("in", "in/*", "in/b.zip"):
        done = submit(given, runner=runner)
        assert done.returncode == 2, done.stderr
        assert "in/b.zip is an archive by its name: extract it" in done.stderr
        assert done.stdout == ""


def test_aliases_of_s3(bucket: str, here: Path) -> None:
    done = submit("in.txt", "-o", f"S3A://{bucket}/aliased")
    assert done.returncode == 0, done.stderr
    assert '"be"\t2\n' in mrcelery("cat", f"s3n://{bucket}/aliased").stdout
    again = submit(f"s3a://{bucket}/aliased/part-*", "--dry-run")
    assert again.returncode == 0, again.stderr
    assert [path.name for path in here.iterdir()] == ["in.txt"]
