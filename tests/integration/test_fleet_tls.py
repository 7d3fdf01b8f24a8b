"""A fleet whose broker speaks TLS, which is how Redis is reached in a cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mrcelery
from tests.support.services import results, tls_redis_server, workers


@pytest.fixture(scope="module")
def tls_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tls_redis_server(tmp_path_factory.mktemp("tls")) as (server, certificate):
        yield f"rediss://localhost:{server.port}/0?ssl_ca_certs={certificate}"


@pytest.mark.parametrize("mode", ["&ssl_cert_reqs=required", "&ssl_cert_reqs=CERT_REQUIRED", ""])
def test_a_job_over_tls(tls_url: str, word_count: str, text: Path, tmp_path: Path, mode: str) -> None:
    """With the address as Celery wants it, as redis-py wants it, and without either's parameter."""
    broker = tls_url + mode
    with workers(tmp_path / "workers", broker, queue="tls"):
        settings = {"runner": "celery", "broker": broker, "storage": str(tmp_path / "storage"), "queue": "tls"}
        with mrcelery.run(word_count, str(text), reducers=2, **settings) as handle:
            assert results(handle) == {"a": 3, "rose": 3, "is": 2}
