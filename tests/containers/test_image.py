"""What the image is, and that it runs with a root that nobody can write to."""

from __future__ import annotations

import json

from tests.containers.engine import docker

MOST_BYTES = 400e6


def run(image: str, *command: str, entrypoint: str = "") -> str:
    """What a command prints in the image, as the strictest of platforms would start it."""
    strict = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--rm"]
    return docker("run", *strict, *(["--entrypoint", entrypoint] if entrypoint else []), image, *command)


def test_it_is_small_labelled_and_not_root(image: str) -> None:
    (found,) = json.loads(docker("image", "inspect", image))
    assert found["Size"] < MOST_BYTES
    assert found["Config"]["User"] == "10001:10001"
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in found["Config"]["Labels"].items()}
    assert labels["title"] == "mrcelery"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["revision"] == "under-test"
    assert labels["version"] in run(image, "--version")


def test_there_are_no_tools_to_build_with(image: str) -> None:
    names = "gcc g++ cc c++ clang ld as make cmake cargo uv git curl wget"
    assert run(image, "-c", f"for name in {names}; do command -v $name; done; true", entrypoint="sh") == ""


def test_nothing_of_the_checkout_but_the_package_is_in_it(image: str) -> None:
    listed = run(
        image, "-c", "ls -A /scratch /home/mrcelery; ls -d /src /uv /run/secrets 2>/dev/null; true", entrypoint="sh"
    )
    assert listed.split() == ["/home/mrcelery:", "/scratch:"]


def test_a_job_runs_with_a_root_that_is_read_only(image: str) -> None:
    printed = run(image, "submit", "--runner", "inline", "mrcelery.examples.word_count", "/etc/group")
    assert '"mrcelery:x:10001:"\t1' in printed.splitlines()


def test_any_user_may_run_it(image: str) -> None:
    command = ["submit", "--runner", "inline", "mrcelery.examples.word_count", "/etc/group"]
    printed = docker("run", "--rm", "--read-only", "--user", "424242:0", image, *command)
    assert '"mrcelery:x:10001:"\t1' in printed.splitlines()


def test_modules_are_compiled_in_it(image: str) -> None:
    """No container compiles what it imports, again at each start."""
    program = "import mrcelery.coordinator.stages, celery.app, os; print(os.path.exists(celery.app.__cached__))"
    assert run(image, "-c", program, entrypoint="python").split() == ["True"]
