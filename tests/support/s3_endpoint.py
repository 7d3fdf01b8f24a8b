"""An S3 endpoint over real HTTP: the one in ``AWS_ENDPOINT_URL_S3``, else moto's server, started here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import guardian
from tests.support.services import free_port

VARIABLE = "AWS_ENDPOINT_URL_S3"

# The settings that boto3 needs; a developer's own credentials must not reach a test's server.
_FOR_MOTO = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_endpoint() -> Iterator[str]:
    """Yield the URL of an endpoint; during the block, the environment points boto3 at it."""
    if url := os.environ.get(VARIABLE):
        yield url
        return
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = guardian.start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    settings = {**_FOR_MOTO, VARIABLE: url}
    before = {name: os.environ.get(name) for name in (*settings, "AWS_PROFILE")}
    try:
        _wait(server, port)
        os.environ.update(settings)
        os.environ.pop("AWS_PROFILE", None)
        yield url
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        guardian.stop(server)


def _wait(server: subprocess.Popen[bytes], port: int, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"moto's server ended with {server.returncode}: pip install 'moto[server]'")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"moto's server did not answer within {patience} s") from None
            time.sleep(0.05)


@contextmanager
def s3_bucket() -> Iterator[str]:
    """Create a bucket at the endpoint in the environment and yield its name; empty and remove it after the block."""
    import boto3

    bucket = boto3.resource("s3").Bucket(f"mrcelery-test-{os.urandom(6).hex()}")
    bucket.create()
    try:
        yield bucket.name
    finally:
        bucket.objects.all().delete()
        bucket.delete()
