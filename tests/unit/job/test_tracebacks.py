"""Tracebacks as the user would see them without us."""

from __future__ import annotations

from pathlib import Path

import mrcelery
from mrcelery.job.tracebacks import user_traceback


def run(source: str, file: str, **names: object) -> None:
    exec(compile(source, file, "exec"), dict(names))


def failure(source: str, file: str, **names: object) -> BaseException:
    try:
        run(source, file, **names)
    except BaseException as e:
        return e
    raise AssertionError("did not raise")


def test_our_frames_go_and_the_users_stay() -> None:
    ours = str(Path(mrcelery.__file__).parent)
    inner: dict[str, object] = {}
    exec(compile("def call(f): f()", f"{ours}/mapper.py", "exec"), inner)
    example: dict[str, object] = {}
    exec(compile("def fail(): 1 / 0", f"{ours}/examples/x.py", "exec"), example)
    text = user_traceback(failure("call(fail)", "/home/u/job.py", call=inner["call"], fail=example["fail"]))
    assert 'File "/home/u/job.py", line 1, in <module>' in text
    assert "examples/x.py" in text
    assert "mapper.py" not in text
    assert text.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_shipped_files_have_their_own_names_and_lines(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 64) / "lib" / "pkg" / "job.py"
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\nx / 0\n")
    text = user_traceback(failure(file.read_text(), str(file)))
    assert 'File "pkg/job.py", line 2, in <module>\n    x / 0\n' in text
    file.write_text("x = = 1\n")
    assert 'File "pkg/job.py", line 1\n    x = = 1\n' in user_traceback(failure(file.read_text(), str(file)))


def test_causes_and_groups_are_trimmed_too() -> None:
    ours = str(Path(mrcelery.__file__).parent / "task.py")
    cause = failure("1 / 0", ours)
    group = BaseExceptionGroup("several", [failure("[][0]", ours)])
    for exc in (failure("raise KeyError(1) from cause", "job.py", cause=cause), group):
        text = user_traceback(exc)
        assert "task.py" not in text
        assert "ZeroDivisionError" in text or "IndexError" in text


def test_endless_ones_are_cut() -> None:
    text = user_traceback(ValueError("x" * 1_000_000))
    assert len(text) < 17_000
    assert "characters left out" in text
