"""The clients of the S3 storage, as far as they need no endpoint."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mrcelery.storage import s3_clients as s3


@pytest.fixture
def no_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_clients", {})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


def test_one_client_serves_as_long_as_the_settings_stay(no_clients: None) -> None:
    assert s3.client() is s3.client()


def test_a_process_that_outlives_many_session_tokens_keeps_few_clients(
    no_clients: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for number in range(2 * s3._KEPT_CLIENTS):
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"token-{number}")
        made.append(weakref.ref(s3.client()))
    gc.collect()
    kept = [number for number, client in enumerate(made) if client() is not None]
    assert kept == list(range(s3._KEPT_CLIENTS, 2 * s3._KEPT_CLIENTS))
    assert s3.client() is made[-1]()


def test_threads_that_start_together_share_a_client(no_clients: None, monkeypatch: pytest.MonkeyPatch) -> None:
    connect, made = s3._connect, []
    together = threading.Barrier(8)

    def counted() -> Any:
        made.append(1)
        return connect()

    def client() -> Any:
        together.wait()
        return s3.client()

    monkeypatch.setattr(s3, "_connect", counted)
    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(client) for _ in range(8)]]
    assert {id(one) for one in found} == {id(s3.client())}
    assert len(made) == 1


FORK = """
import os
from mrcelery.storage import s3_clients as s3

with s3._connecting:
    child = os.fork()
    if not child:
        s3.client()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_process_forked_while_a_thread_connects_has_a_client_of_its_own(no_clients: None) -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)
