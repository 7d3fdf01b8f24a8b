"""A real Flower for tests, with mrcelery's pages in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.support.services import Worker, environment, eventually, free_port

LOGIN = "me:secret"


class Flower:
    """A running Flower; requests use its login unless given another one."""

    def __init__(self, base: str, login: str) -> None:
        self.base = base
        self.login = login
        self._pool = urllib3.PoolManager()

    def ask(
        self, path: str, method: str = "GET", *, login: str | None = None, headers: Mapping[str, str] = {}
    ) -> urllib3.BaseHTTPResponse:
        login = self.login if login is None else login
        ours = urllib3.make_headers(basic_auth=login) if login else {}
        return self._pool.request(method, self.base + path, headers={**ours, **headers}, retries=False, timeout=30)

    def json(self, path: str) -> Any:
        answer = self.ask(path)
        assert answer.status == 200, answer.data
        return answer.json()

    def order(self, job: str, what: str, **more: Any) -> urllib3.BaseHTTPResponse:
        """Order a cancel or a retry."""
        return self.ask(f"/api/jobs/{job}/{what}", "POST", **more)

    def close(self) -> None:
        self._pool.clear()


@contextmanager
def flower(
    folder: Path, broker: str, *args: str, login: str = LOGIN, app: str = "", **variables: str
) -> Iterator[Flower]:
    """Run ``mrcelery flower`` or, given ``app``, ``celery -A app flower``; ``args`` are Flower's own."""
    pytest.importorskip("flower")
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", app, "flower"]
    if not app:
        command = [sys.executable, "-m", "mrcelery", "flower", "--"]
    command += [f"--port={port}", "--address=127.0.0.1", *([f"--basic_auth={login}"] if login else []), *args]
    env = environment(MRCELERY_BROKER=broker, **variables)
    process = Worker(command, folder / f"flower-{port}.log", env=env, cwd=folder)
    prefix = next((arg.partition("=")[2] for arg in args if arg.startswith("--url_prefix=")), "")
    found = Flower(f"http://127.0.0.1:{port}" + (f"/{prefix}" if prefix else ""), login)

    def answers() -> bool:
        if process.process.poll() is not None:
            pytest.fail(f"flower ended: {process.log.read_text()}")
        try:
            return found.ask("/healthcheck").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    try:
        eventually(answers, "flower answers")
        yield found
    finally:
        found.close()
        process.stop()
