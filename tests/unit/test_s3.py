"""The clients of the S3 storage, as far as they need no endpoint."""

from __future__ import annotations

import gc
import weakref

import pytest

from mrcelery.storage import s3


@pytest.fixture
def no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_clients", {})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def test_one_client_serves_as_long_as_the_settings_stay(no_clients: None) -> None:
    assert s3._client() is s3._client()


def test_a_process_that_outlives_many_session_tokens_keeps_few_clients(
    no_clients: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for number in range(2 * s3._KEPT_CLIENTS):
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"token-{number}")
        made.append(weakref.ref(s3._client()))
    gc.collect()
    kept = [number for number, client in enumerate(made) if client() is not None]
    assert kept == list(range(s3._KEPT_CLIENTS, 2 * s3._KEPT_CLIENTS))
    assert s3._client() is made[-1]()
