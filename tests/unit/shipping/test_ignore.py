"""What of a folder is not shipped; git itself says what its patterns mean."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from mrcelery.errors import UsageError
from mrcelery.shipping.bundle import build, load_job, make_job, shipped
from mrcelery.shipping.dependencies import tree_files
from mrcelery.shipping.ignore import looks_secret

PATHS = (
    "a.txt", "b.log", "x/a.txt", "x/b.log", "x/y/a.txt", "x/y/z/b.log", "data/1.csv", "data/keep.csv", "[a].txt", "!b",
)  # fmt: skip

RULES = [
    "*.log",
    "/a.txt",
    "x/a.txt",
    "x/",
    "y",
    "**/b.log",
    "x/**",
    "x/**/b.log",
    "a?txt",
    "[ab].*",
    "[!a].*",
    "[^a].*",
    "*.csv\n!keep.csv",
    "data/\n!data/keep.csv",
    "data/*\n!data/keep.csv",
    "# a.txt\n\n  \nb.log   ",
    "\\!b",
    "\\[a].txt",
    "*\n!*/\n!*.txt",
    "x/*/a.txt",
    "[a-c].log",
    "[",
]


@pytest.mark.parametrize("rules", RULES)
def test_patterns_mean_what_git_means(tmp_path: Path, rules: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is missing")
    for name in PATHS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text(rules)
    (tmp_path / ".mrceleryignore").write_text(rules)
    git = ["git", "-C", str(tmp_path), "-c", "core.excludesFile=/dev/null"]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "--others", "--exclude-standard"], check=True, capture_output=True, text=True
    )
    kept = {name for name in listed.stdout.split("\0") if name and not name.startswith(".")}
    assert {path.relative_to(tmp_path).as_posix() for path in tree_files(tmp_path)} == kept


def test_a_file_of_a_folder_above_and_one_below(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".mrceleryignore").write_text("*.csv\npkg/big/\n")
    (tmp_path / "pkg" / "big").mkdir(parents=True)
    (tmp_path / "pkg" / "sub").mkdir()
    (tmp_path / "pkg" / "sub" / ".mrceleryignore").write_text("!one.csv\n/x\n")
    for name in ("a.csv", "x", "big/b", "sub/one.csv", "sub/two.csv", "sub/x"):
        (tmp_path / "pkg" / name).touch()
    found = {path.relative_to(tmp_path / "pkg").as_posix() for path in tree_files(tmp_path / "pkg")}
    assert found == {"x", "sub/one.csv"}


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("key.pem", "id_rsa", "id_ed25519", "prod.env", "credentials", "credentials.json")),
        *((name, True) for name in ("aws-credentials.csv", "secrets.yml", "store.p12", "client_secret_1.json", ".env")),
        *((name, True) for name in (".env.local", ".netrc", "server.key", "service-account.json", "CREDENTIALS.TXT")),
        *((name, False) for name in ("credentials.py", "id_rsa.pub", "id_map.csv", "keys.txt", "environment", "a.txt")),
    ],
)
def test_what_looks_like_a_secret(tmp_path: Path, name: str, secret: bool) -> None:
    (tmp_path / name).write_text("x")
    assert looks_secret(tmp_path / name) == secret


def test_certificates_and_links(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "both.pem").write_text("-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
    (tmp_path / "id_rsa").write_text("x")
    (tmp_path / "data").symlink_to(tmp_path / "id_rsa")
    assert [looks_secret(tmp_path / name) for name in ("ca.pem", "both.pem", "data")] == [False, True, True]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "table.csv").write_text("1,2\n")
    (tmp_path / "parts" / "key.pem").write_text("secret")
    (tmp_path / "job_of_project.py").write_text("from mrcelery.job.base import MRJob\nclass Words(MRJob):\n    pass\n")
    return tmp_path


def names(*files: str) -> list[str]:
    job_class = load_job("job_of_project.py")
    return [one.name for one in shipped(job_class, make_job(job_class, ()), files=files)]


def test_a_secret_in_a_folder_is_refused(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"key\.pem looks like a secret.*\.mrceleryignore") as refused:
        names("parts")
    assert "\n" not in str(refused.value)
    job_class = load_job("job_of_project.py")
    with pytest.raises(UsageError, match="looks like a secret"):
        build(job_class, make_job(job_class, ()), files=("parts",))
    (project / "parts" / ".mrceleryignore").write_text("key.pem\n")
    assert names("parts") == ["files/parts/table.csv", "lib/job_of_project.py"]
    (project / "parts" / ".mrceleryignore").write_text("!key.pem\n")
    assert "files/parts/key.pem" in names("parts")
    assert caplog.text == ""


def test_a_secret_that_is_asked_for_is_shipped_with_a_warning(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert "files/key.pem" in names("parts/key.pem")
    assert "looks like a secret, and is shipped" in caplog.text
