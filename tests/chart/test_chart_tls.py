"""Redis over TLS, with a certificate from a private authority: what ``trustedCA`` is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chart.chart_rendering import render
from tests.support.services import environment, tls_redis_server, workers


def variables(folder: Path, cert: Path, *sets: str) -> dict[str, str]:
    """Return the variables of the release's ConfigMap, with paths that exist here."""
    data = render(sets=[f'storage="{folder}/storage"', *sets]).find("ConfigMap", "mr-mrcelery")["data"]
    there = {"/etc/mrcelery/ca/ca.crt": str(cert), "/scratch": str(folder)}
    return {name: there.get(value, value) for name, value in data.items()}


def test_a_job_with_the_authority_that_the_chart_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_redis_server(tmp_path) as (server, cert):
        address = f'broker="rediss://localhost:{server.port}/0"'
        trusted = variables(tmp_path, cert, address, 'trustedCA.secretName="ca"')
        plain = variables(tmp_path, cert, address)
        assert trusted.items() - plain.items() == {("SSL_CERT_FILE", str(cert)), ("AWS_CA_BUNDLE", str(cert))}
        hello = [sys.executable, "-m", "mrcelery", "hello"]
        ran = subprocess.run(hello, env=environment(**plain), capture_output=True, text=True, timeout=100)
        assert ran.returncode == 3, ran.stderr
        assert "certificate" in ran.stderr.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))  # for this process, which checks that the worker is there
        given = ("MRCELERY_BROKER", "MRCELERY_SCRATCH", "TMPDIR")
        own = {name: value for name, value in trusted.items() if name not in given}
        with workers(tmp_path / "w", trusted["MRCELERY_BROKER"], env=own):
            ran = subprocess.run(hello, env=environment(**trusted), capture_output=True, text=True, timeout=100)
        assert ran.returncode == 0, ran.stderr
        assert "hello\t3" in ran.stdout
