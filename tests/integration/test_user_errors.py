"""A user's mistake is reported first, in the user's terms, with the documented exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import mrcelery
from mrcelery.schema.structs import Failure
from tests.support.services import Fleet, RedisServer, command, environment, eventually, free_port

JobFile = Callable[..., str]
PACKAGE = str(Path(mrcelery.__file__).parent)

HOOKS = """
    from mrcelery import MRJob

    def deep(word):
        raise LookupError(f"no entry for {word}")

    class Broken(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_passthru_arg("--where")

        def fail(self, where, word):
            if self.options.where == where and word in (None, "bad"):
                deep(word)

        def mapper_init(self):
            self.fail("mapper_init", None)

        def mapper(self, _, line):
            self.fail("mapper", line)
            yield line, 1

        def mapper_final(self):
            self.fail("mapper_final", None)
            return ()

        def combiner(self, word, counts):
            self.fail("combiner", word)
            yield word, sum(counts)

        def partition(self, word, n):
            self.fail("partition", word)
            return len(word) % n

        def reducer_init(self):
            self.fail("reducer_init", None)

        def reducer(self, word, counts):
            self.fail("reducer", word)
            yield word, sum(counts)

        def reducer_final(self):
            self.fail("reducer_final", None)
            return ()
"""

WHERE = ("mapper_init", "mapper", "mapper_final", "combiner", "partition", "reducer_init", "reducer", "reducer_final")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("good\nfine\nbad\nlast\n")
    return path


@pytest.fixture(params=["inline", "celery"])
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    """Environment that selects a runner."""
    if request.param == "inline":
        return environment(MRCELERY_RUNNER="inline")
    fleet: Fleet = request.getfixturevalue("fleet")
    return fleet.env


def check_short(stderr: str) -> None:
    """Check for a one-line message without a traceback or a path of ours; a line on the job may follow."""
    first, *rest = stderr.splitlines()
    assert first.startswith("mrcelery: ")
    assert "Traceback" not in stderr
    assert PACKAGE not in stderr
    assert all(line.startswith("  job ") for line in rest[:1]), stderr
    assert len(rest) <= 1


def check_no_frames_of_ours(stderr: str) -> None:
    assert f'File "{PACKAGE}' not in stderr
    assert "celery/app" not in stderr


@pytest.mark.parametrize("where", WHERE)
def test_an_exception_in_a_hook(
    env: dict[str, str], job_file: JobFile, lines: Path, tmp_path: Path, where: str
) -> None:
    job = job_file(HOOKS, "broken.py")
    output = tmp_path / "out"
    done = command("submit", job, lines, "-o", output, "-R", "2", "--", "--where", where, env=env)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    shown = done.stderr.splitlines()
    word = "bad" if where in ("mapper", "combiner", "partition", "reducer") else None
    assert shown[0] == "Traceback (most recent call last):"
    assert f"LookupError: no entry for {word}" in shown
    assert f"mrcelery: LookupError: no entry for {word}" in shown
    source = [line for line in shown if "broken.py" in line]
    assert f"in {where}" in source[0]  # starts in the hook
    assert "in deep" in source[-1]  # ends where it was raised
    assert any('raise LookupError(f"no entry for {word}")' in line for line in shown)
    check_no_frames_of_ours(done.stderr)
    kind = "reduce" if where.startswith("reduce") else "map"
    assert any(f"step 0, {kind} task" in line and "job broken-" in line for line in shown)
    if where == "mapper":
        assert f"  {lines}, byte 10" in shown
        assert "  record 'bad'" in shown
    if where == "reducer":
        assert "  key 'bad'" in shown
    assert not output.exists() or list(output.iterdir()) == []


def test_an_exception_stops_the_other_tasks(fleet: Fleet, job_file: JobFile, tmp_path: Path) -> None:
    """Running tasks stop between blocks, and waiting ones do not start."""
    job = job_file(
        """
        import os, time
        from mrcelery import MRJob

        class Mixed(MRJob):
            def configure_args(self):
                super().configure_args()
                self.add_passthru_arg("--folder")

            def mark(self, name):
                open(os.path.join(self.options.folder, name), "w").close()

            def mapper(self, _, line):
                self.mark("started-" + line)
                if line == "0":
                    while not os.path.exists(os.path.join(self.options.folder, "started-1")):
                        time.sleep(0.02)
                    raise ValueError("stop all")
                if line == "1":
                    try:
                        while True:
                            yield line, 1
                            time.sleep(0.001)
                    finally:
                        self.mark("stopped-1")
        """
    )
    text = tmp_path / "in.txt"
    text.write_text("".join(f"{number}\n" for number in range(10)) + "".join(f"{n}\n" for n in range(10, 40)))
    folder = tmp_path / "marks"
    folder.mkdir()
    with mrcelery.submit(job, str(text), args=["--folder", str(folder)], split_size=2, **fleet.settings) as handle:
        with pytest.raises(mrcelery.JobFailedError, match="ValueError: stop all") as raised:
            handle.wait()
        failure: Failure = raised.value.failure
        assert (failure.step, failure.kind, failure.task, failure.record) == (0, "map", 0, "'0'")
        eventually(lambda: (folder / "stopped-1").exists(), "the endless task stops")
        assert handle.status().state == "failed"
        assert "stop all" in handle.status().message


def test_the_same_by_json(fleet: Fleet, job_file: JobFile, lines: Path) -> None:
    job = job_file(HOOKS, "broken.py")
    done = command("submit", job, lines, "--detach", "--json", "--", "--where", "mapper", env=fleet.env)
    assert done.returncode == 0, done.stderr
    identity = json.loads(done.stdout)["job"]
    waited = command("wait", identity, env=fleet.env)
    assert waited.returncode == 1
    assert waited.stderr.startswith("Traceback (most recent call last):")
    status = json.loads(command("status", identity, "--json", env=fleet.env).stdout)
    assert status["status"]["state"] == "failed"
    assert status["failure"]["error"] == "UserCodeError"
    assert status["failure"]["file"] == str(lines)
    assert status["failure"]["offset"] == 10
    assert status["failure"]["record"] == "'bad'"
    again = command("cat", identity, env=fleet.env)
    assert again.returncode == 1


LOADING = {
    "syntax.py": ("class Job(:\n", "does not import: SyntaxError"),
    "raises.py": ("import mrcelery\nraise RuntimeError('at import')\n", "does not import: RuntimeError: at import"),
    "module.py": ("import not_there_at_all\n", "does not import: ModuleNotFoundError"),
    "none.py": ("import mrcelery\n", "has no job class: define one that extends mrcelery.MRJob"),
    "two.py": (
        "from mrcelery import MRJob\nclass A(MRJob): pass\nclass B(MRJob): pass\n",
        "has several job classes, A, B: name one, such as ",
    ),
}


@pytest.mark.parametrize("name", LOADING)
def test_a_job_file_that_is_none(name: str, job_file: JobFile, lines: Path) -> None:
    source, message = LOADING[name]
    done = command("submit", "-r", "inline", job_file(source, name), lines)
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mrcelery: ")
    assert message in last
    if "does not import" in message:
        assert done.stderr.startswith(("Traceback", "  File"))  # the user's own traceback first
        assert name in done.stderr
        check_no_frames_of_ours(done.stderr)
    else:
        check_short(done.stderr)


def test_a_job_file_that_is_not_there(lines: Path) -> None:
    done = command("submit", "-r", "inline", "nowhere.py", lines)
    assert done.returncode == 2
    check_short(done.stderr)
    assert "nowhere.py: no such file" in done.stderr


@pytest.mark.parametrize("what", ["nothing.txt", "*.nothing", "empty/"])
def test_an_input_that_matches_nothing(env: dict[str, str], word_count: str, tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    done = command("submit", word_count, tmp_path / what, env=env)
    assert done.returncode == 2
    check_short(done.stderr)
    assert str(tmp_path / what).rstrip("/") in done.stderr


def test_an_output_that_exists(env: dict[str, str], word_count: str, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").write_text("mine")
    done = command("submit", word_count, text, "-o", output, env=env)
    assert done.returncode == 2
    check_short(done.stderr)
    assert "--overwrite" in done.stderr
    assert [path.name for path in output.iterdir()] == ["precious"]
    done = command("submit", word_count, text, "-o", output, "-R", "1", "--overwrite", env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in output.iterdir()) == ["_SUCCESS", "part-00000", "precious"]


def test_an_output_on_s3_that_exists(fleet: Fleet, bucket: str, word_count: str, text: Path) -> None:
    import os

    output = f"s3://{bucket}/{os.urandom(4).hex()}"
    assert command("submit", word_count, text, "-o", output, env=fleet.env).returncode == 0
    done = command("submit", word_count, text, "-o", output, env=fleet.env)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"mrcelery: the output {output} exists")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["storage", "input", "output"])
def test_a_bucket_that_is_missing(
    env: dict[str, str], bucket: str, word_count: str, text: Path, tmp_path: Path, what: str
) -> None:
    missing = "s3://mrcelery-no-such-bucket/x"
    arguments: dict[str, list[str | Path]] = {
        "storage": [text, "--storage", missing],
        "input": [f"{missing}/in.txt"],
        "output": [text, "-o", missing],
    }
    done = command("submit", word_count, *arguments[what], env=env)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("mrcelery: ")
    assert "mrcelery-no-such-bucket" in done.stderr
    assert "Traceback" not in done.stderr
    assert PACKAGE not in done.stderr


def test_a_broker_that_is_not_there(word_count: str, text: Path, tmp_path: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    for args in (["submit", word_count, text], ["status", "some-job"], ["list"], ["cancel", "some-job"]):
        done = command(*args, "--broker", url, "--storage", tmp_path / "storage")
        assert done.returncode == 3, (args, done.stderr)
        check_short(done.stderr)
        assert "no Redis answers at redis://" in done.stderr
        assert "secret" not in done.stderr


YIELDS = {
    "value": ("yield line, object()", "object"),
    "key": ("yield {'a': 1}, 1", "dict"),
    "nan": ("yield float('nan'), 1", "NaN"),
    "number": ("yield 7", "mapper yielded 7, which is not a (key, value) pair"),
    "text": ("yield line", "which is not a (key, value) pair"),
    "triple": ("yield 1, 2, 3", "mapper yielded (1, 2, 3), which is not a (key, value) pair"),
}


@pytest.mark.parametrize("what", YIELDS)
def test_what_a_mapper_cannot_yield(env: dict[str, str], job_file: JobFile, lines: Path, what: str) -> None:
    statement, message = YIELDS[what]
    job = job_file(
        f"""
        from mrcelery import MRJob

        class Odd(MRJob):
            def mapper(self, _, line):
                {statement}

            def reducer(self, key, values):
                yield 1, 1
        """
    )
    done = command("submit", job, lines, env=env)
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first.startswith("mrcelery: ")
    assert message in first
    assert "Traceback" not in done.stderr
    assert PACKAGE not in done.stderr
    assert ", step 0, map task 0, attempt " in done.stderr
    if "pair" in message:
        assert str(lines) in done.stderr


def test_what_a_reducer_cannot_yield(env: dict[str, str], job_file: JobFile, lines: Path) -> None:
    for statement, message in (("yield key, {1, 2}", "set"), ("yield key", "reducer yielded")):
        job = job_file(
            f"""
            from mrcelery import MRJob

            class Odd(MRJob):
                def mapper(self, _, line):
                    yield line, 1

                def reducer(self, key, values):
                    {statement}
            """
        )
        done = command("submit", job, lines, env=env)
        assert done.returncode == 1
        first = done.stderr.splitlines()[0]
        assert first.startswith("mrcelery: "), done.stderr
        assert message in first
        assert "Traceback" not in done.stderr
        assert PACKAGE not in done.stderr


def test_a_partition_out_of_range(env: dict[str, str], job_file: JobFile, lines: Path) -> None:
    job = job_file(
        """
        from mrcelery import MRJob

        class Out(MRJob):
            def mapper(self, _, line):
                yield line, 1

            def partition(self, key, n):
                return n

            def reducer(self, key, values):
                yield key, sum(values)
        """
    )
    done = command("submit", job, lines, "-R", "3", env=env)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("mrcelery: ")
    assert "partition" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_a_server_that_refuses_us(word_count: str, text: Path, broker: RedisServer, tmp_path: Path) -> None:
    url = f"redis://:wr0ng@127.0.0.1:{broker.port}/0"
    done = command("submit", word_count, text, "--broker", url, "--storage", tmp_path / "storage")
    assert done.returncode == 3
    check_short(done.stderr)
    assert "wr0ng" not in done.stderr
