"""A fleet whose broker speaks TLS, which is how Redis is reached in a cloud."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

import mrcelery

sys.path.insert(0, str(Path(__file__).parent.parent))
from services import free_port, missing, redis_server, results, workers


@pytest.fixture(scope="module")
def tls_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = next((path for name in ("redis-server", "valkey-server") if (path := which(name))), None)
    if program is None or which("openssl") is None:
        missing("a redis-server with TLS, or openssl")
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=DNS:localhost"], cwd=folder, check=True, capture_output=True
    )
    port = free_port()
    settings = {"tls_port": str(port), "tls_cert_file": f"{folder}/cert.pem", "tls_key_file": f"{folder}/key.pem"}
    try:
        with redis_server(0, [str(program)], tls_auth_clients="no", **settings):
            yield f"rediss://localhost:{port}/0?ssl_ca_certs={folder}/cert.pem"
    except RuntimeError as e:
        pytest.skip(f"this server has no TLS: {e}")


@pytest.mark.parametrize("mode", ["&ssl_cert_reqs=required", "&ssl_cert_reqs=CERT_REQUIRED", ""])
def test_a_job_over_tls(tls_url: str, word_count: str, text: Path, tmp_path: Path, mode: str) -> None:
    """With the address as Celery wants it, as redis-py wants it, and without either's parameter."""
    broker = tls_url + mode
    with workers(tmp_path / "workers", broker, queue="tls"):
        settings = {"runner": "celery", "broker": broker, "storage": str(tmp_path / "storage"), "queue": "tls"}
        with mrcelery.run(word_count, str(text), reducers=2, **settings) as handle:
            assert results(handle) == {"a": 3, "rose": 3, "is": 2}
