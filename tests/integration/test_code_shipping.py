"""Code travels with the job: to workers that have never seen it, and without two versions meeting."""

from __future__ import annotations

import base64
import json
import os
import pickle
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import mrcelery
from mrcelery.jobstore.redis import RedisJobStore
from tests.support.services import Fleet, RedisServer, command, eventually, results, workers

JobFile = Callable[..., str]


@pytest.fixture(scope="module")
def single(broker: RedisServer, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of a fleet of one process, so that every task meets what the one before left."""
    folder = tmp_path_factory.mktemp("single")
    with workers(folder, broker.tcp_url, queue="single", concurrency=1) as started:
        yield {"runner": "celery", "broker": broker.tcp_url, "storage": str(folder / "storage"), "queue": "single"}
        assert started[0].process.poll() is None


def test_modules_beside_the_job(fleet: Fleet, job_file: JobFile, text: Path) -> None:
    """Also of a package, and one that is imported late, inside a hook."""
    job_file("def clean(word):\n    from pack.deep import late\n    return late.FACTOR * len(word)\n", "helper_mod.py")
    job_file("", "pack/__init__.py")
    job_file("", "pack/deep/__init__.py")
    job_file("FACTOR = 3\n", "pack/deep/late.py")
    job = job_file(
        """
        from mrcelery import MRJob
        import helper_mod
        import pack.deep.late

        class Lengths(MRJob):
            def mapper(self, _, line):
                yield "length", helper_mod.clean(line)

            def reducer(self, key, values):
                yield key, sum(values)
        """
    )
    with mrcelery.run(job, str(text), **fleet.settings) as handle:
        assert results(handle) == {"length": 3 * sum(map(len, text.read_text().splitlines()))}


def test_py_files(fleet: Fleet, job_file: JobFile, text: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    single = tmp_path / "elsewhere" / "shipped_single.py"
    single.write_text("NAME = 'single'\n")
    packed = tmp_path / "elsewhere" / "libs.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("shipped_zip/__init__.py", "NAME = 'zip'\n")
    job = job_file(
        """
        from mrcelery import MRJob

        class Names(MRJob):
            def mapper(self, _, line):
                pass

            def mapper_final(self):
                import shipped_single, shipped_zip
                yield shipped_single.NAME, shipped_zip.NAME
        """
    )
    with mrcelery.run(job, str(text), py_files=[str(single), str(packed)], **fleet.settings) as handle:
        assert results(handle) == {"single": "zip"}
    with (
        pytest.raises(mrcelery.JobFailedError, match="ModuleNotFoundError: No module named 'shipped_single'"),
        mrcelery.run(job, str(text), **fleet.settings),
    ):
        pass


FILES = """
    import os
    from mrcelery import MRJob

    class Files(MRJob):
        def configure_args(self):
            super().configure_args()
            self.add_file_arg("--table")

        def mapper_init(self):
            with open(self.options.table) as f:
                self.table = f.read()

        def mapper(self, _, line):
            open("scratch.txt", "x").write("mine")  # the working folder is the task's own
            yield self.table, [open("names.txt").read(), open("tree/inner/leaf.txt").read()]
"""


def test_files_archives_and_file_arguments(fleet: Fleet, job_file: JobFile, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "long name.txt").write_text("a file")
    (data / "table.txt").write_text("a table")
    (data / "leaf.txt").write_text("a leaf")
    with tarfile.open(data / "tree.tar.gz", "w:gz") as archive:
        archive.add(data / "leaf.txt", "inner/leaf.txt")
    text = tmp_path / "in.txt"
    text.write_text("x\n")
    with mrcelery.run(
        job_file(FILES),
        str(text),
        files=[f"{data}/long name.txt#names.txt"],
        archives=[f"{data}/tree.tar.gz#tree"],
        args=["--table", str(data / "table.txt")],
        **fleet.settings,
    ) as handle:
        assert results(handle) == {"a table": ["a file", "a leaf"]}


VERSION = """
    import time
    from mrcelery import MRJob
    import helper_of_version

    STATE = []

    class Versioned(MRJob):
        def mapper(self, _, line):
            STATE.append(line)
            time.sleep(0.002)
            yield ("{version}", helper_of_version.VERSION, helper_of_version.__file__ == STATE), 1

        def reducer(self, key, values):
            import helper_of_version as again
            yield [*key, "{version}", again.VERSION], sum(values)
"""


def test_two_versions_of_a_module_in_one_process(single: dict[str, Any], tmp_path: Path) -> None:
    """Their tasks alternate in one process, several times; each job sees its own module and its own helper."""
    text = tmp_path / "in.txt"
    text.write_text("x\n" * 6)
    for version in ("one", "two"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "versioned.py").write_text(dedent(VERSION.format(version=version)))
        (folder / "helper_of_version.py").write_text(f"VERSION = {version!r}\n")
    for _ in range(2):
        submitted = []
        for version in ("one", "two", "one", "two"):
            # each by a client of its own: two versions of one module do not fit into one
            done = command(
                "submit", tmp_path / version / "versioned.py", text, "--split-size", "2", "-R", "2", "--detach",
                "--broker", single["broker"], "--storage", single["storage"], "--queue", single["queue"],
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            submitted.append((version, done.stdout.strip()))
        for version, job in submitted:
            with mrcelery.attach(job, broker=single["broker"], storage=single["storage"]) as handle:
                handle.wait(60)
                assert list(handle) == [([version, version, False, version, version], 6)]


PICKLED = """
    from mrcelery import MRJob
    from mrcelery.protocols import PickleProtocol

    class Pickled(MRJob):
        INTERNAL_PROTOCOL = PickleProtocol

        def mapper(self, _, line):
            yield line, {1, 2}

        def reducer(self, key, values):
            yield key, sorted(next(values))
"""


def test_pickle_only_where_it_is_allowed(fleet: Fleet, job_file: JobFile, text: Path) -> None:
    job = job_file(PICKLED)
    refused = command("submit", job, text, env=fleet.env)
    assert refused.returncode != 0
    assert "--allow-pickle" in refused.stderr
    assert "Traceback" not in refused.stderr
    with mrcelery.run(job, str(text), allow_pickle=True, **fleet.settings) as handle:
        assert results(handle) == {"a rose is a rose": [1, 2], "is a rose": [1, 2]}


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def message(queue: str, content_type: str, body: bytes) -> bytes:
    headers = {"task": "mrcelery.start", "id": str(uuid.uuid4()), "lang": "py", "argsrepr": "", "kwargsrepr": ""}
    properties = {
        "delivery_info": {"exchange": "", "routing_key": queue},
        "delivery_tag": str(uuid.uuid4()),
        "delivery_mode": 2,
        "priority": 0,
        "body_encoding": "base64",
    }
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }
    ).encode()


def test_a_message_that_is_not_json_is_refused(
    single: dict[str, Any], word_count: str, text: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    store = RedisJobStore(single["broker"])
    body = pickle.dumps(([Trap(str(trap))], {}, {}))
    for content_type in ("application/x-python-serialize", "application/x-yaml", "no/type"):
        store.push(single["queue"], message(single["queue"], content_type, body))
    eventually(lambda: store.call(("LLEN", single["queue"])) == [0], "the worker takes the messages")
    with mrcelery.run(word_count, str(text), **single) as handle:
        assert results(handle) == {"a": 3, "rose": 3, "is": 2}
    assert not trap.exists()
    store.close()
