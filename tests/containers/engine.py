"""The Docker engine of the container tests, the images that they need, and a cluster of compose.yaml's services.

If no image registry answers, ``prepare.sh`` in this folder makes substitutes for the base images.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from tests.support.services import eventually, free_port

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "docker/compose.yaml"

IMAGE = "mrcelery-test/mrcelery"
STAND_INS = {
    "BASE": "mrcelery-test/base",
    "MRCELERY_REDIS_IMAGE": "mrcelery-test/redis",
    "MRCELERY_S3_IMAGE": "mrcelery-test/s3",
}


def docker(*args: str, env: Mapping[str, str] | None = None, patience: float = 120) -> str:
    """Run ``docker ARGS`` and return what it prints; fail the test, with its output, if it does not succeed."""
    run = subprocess.run(
        [_client(), *args], env=env, capture_output=True, text=True, timeout=patience, stdin=subprocess.DEVNULL
    )
    if run.returncode:
        pytest.fail(f"docker {' '.join(args)} exits with {run.returncode}: {run.stdout}{run.stderr}")
    return run.stdout


def _succeeds(*command: str, patience: float = 30) -> bool:
    try:
        run = subprocess.run(command, capture_output=True, timeout=patience, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


@cache
def _client() -> str:
    """Return the first ``docker`` on PATH that builds with BuildKit, on its own (up to 20.10) or with its plugin."""
    found = [str(one) for folder in os.get_exec_path() if os.access(one := Path(folder, "docker"), os.X_OK)]
    for path in found:
        version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.split()
        if "version" in version and int(version[version.index("version") + 1].split(".")[0]) < 23:
            return path
        if _succeeds(path, "buildx", "version"):
            return path
    return found[0] if found else "docker"


@cache
def why_not() -> str:
    """Say why container tests cannot run here; empty if they can."""
    if shutil.which("docker") is None:
        return "there is no docker"
    if not _succeeds(_client(), "info"):
        return "no Docker engine answers"
    if not _succeeds(_client(), "compose", "version"):
        return "docker has no compose plugin (version 2)"
    for image in set(base_images().values()):
        if not _succeeds(_client(), "image", "inspect", image) and not _succeeds(
            _client(), "pull", "--quiet", image, patience=300
        ):
            return f"{image} is not here and cannot be pulled (tests/containers/prepare.sh makes stand-ins)"
    return ""


@cache
def base_images() -> dict[str, str]:
    """Return the base images of our image and of the cluster, by the variable that names each."""
    if all(_succeeds(_client(), "image", "inspect", image) for image in STAND_INS.values()):
        return STAND_INS
    dockerfile = (REPOSITORY / "docker/Dockerfile").read_text()
    found = {"BASE": dockerfile.partition("ARG BASE=")[2].split()[0]}
    for line in COMPOSE.read_text().splitlines():
        for name in STAND_INS:
            if f"${{{name}:-" in line:
                found[name] = line.partition(":-")[2].rstrip().removesuffix("}")
    return found


def build() -> str:
    """Build the image as a user does, and return its name."""
    # If this machine needs a certificate authority of its own to reach registries, so does the build.
    authority = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or ""
    secret = ["--secret", f"id=ca,src={authority}"] if os.path.isfile(authority) else []
    arguments = ["--build-arg", f"BASE={base_images()['BASE']}", "--build-arg", "REVISION=under-test"]
    context = ["--file", str(REPOSITORY / "docker/Dockerfile"), str(REPOSITORY)]
    env = {**os.environ, "DOCKER_BUILDKIT": "1"}
    docker("build", "--tag", IMAGE, *secret, *arguments, *context, env=env, patience=900)
    return IMAGE


class Cluster:
    """The services of compose.yaml, as a separate project, on free ports."""

    def __init__(self, folder: Path, **worker: str) -> None:
        self.project = f"mrcelery-test-{os.urandom(4).hex()}"
        self.network = f"{self.project}_default"
        ports = {name: free_port() for name in ("REDIS", "S3", "FLOWER")}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MRCELERY_", "COMPOSE_"))}
        self._env = {**kept, **base_images(), "MRCELERY_IMAGE": IMAGE}
        self._env |= {f"MRCELERY_{name}_PORT": str(port) for name, port in ports.items()}
        # Settings that the tests add to the workers.
        self._more = folder / "more.json"
        self._more.write_text(json.dumps({"services": {"worker": {"environment": worker}}}))
        self.broker = f"redis://127.0.0.1:{ports['REDIS']}/0"
        self.flower = f"http://127.0.0.1:{ports['FLOWER']}"
        self.aws = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['S3']}",
            "AWS_ACCESS_KEY_ID": "mrcelery",
            "AWS_SECRET_ACCESS_KEY": "for-trials-only",
            "AWS_REGION": "us-east-1",
        }

    def compose(self, *args: str) -> str:
        """Run ``docker compose ARGS`` for this project."""
        files = ["--file", str(COMPOSE), "--file", str(self._more)]
        return docker("compose", "--project-name", self.project, *files, *args, env=self._env)

    def workers(self) -> list[str]:
        """Return the ids of the workers' containers, running or not."""
        return self.compose("ps", "--all", "--quiet", "worker").split()

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def await_healthy(self, containers: Sequence[str]) -> None:
        """Wait until the health checks of containers pass."""
        form = "{{.State.Health.Status}}"
        eventually(
            lambda: set(docker("inspect", "--format", form, *containers).split()) == {"healthy"}, "all are healthy"
        )


@contextmanager
def cluster(folder: Path, **worker: str) -> Iterator[Cluster]:
    """Start a cluster; nothing of it is left after the block."""
    made = Cluster(folder, **worker)
    try:
        made.compose("up", "--detach", "--no-build", "--pull", "never" if base_images() is STAND_INS else "missing")
        yield made
        print(made.compose("logs", "worker", "--no-log-prefix", "--tail", "400", "--timestamps"))
    finally:
        made.compose("down", "--volumes", "--timeout", "1")
