"""With a signing key, a worker runs nothing that is unsigned or altered, and the job says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mrcelery
from mrcelery.schema import object_keys
from tests.support.services import Fleet, Quiet, RedisServer, command, environment, results, workers

KEY = "correct horse battery staple"
COUNTS = {"a": 3, "rose": 3, "is": 2}


@pytest.fixture(scope="module")
def signed(broker: RedisServer, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of a fleet that wants signatures."""
    folder = tmp_path_factory.mktemp("signed")
    with workers(folder, broker.tcp_url, queue="signed", concurrency=1, MRCELERY_SIGNING_KEY=KEY):
        yield {"runner": "celery", "broker": broker.tcp_url, "storage": str(folder / "storage"), "queue": "signed"}


def refusal(job: str, text: Path, **settings: Any) -> str:
    with mrcelery.submit(job, str(text), **settings) as handle:
        with pytest.raises(mrcelery.JobFailedError) as raised:
            handle.wait(60)
        assert raised.value.failure.error == "UnsignedError"
        with pytest.raises(mrcelery.MRCeleryError):
            list(handle)
        return str(raised.value)


def test_what_is_signed_runs(signed: dict[str, Any], word_count: str, text: Path) -> None:
    with mrcelery.run(word_count, str(text), reducers=2, signing_key=KEY, **signed) as handle:
        assert results(handle) == COUNTS


def test_what_is_not_signed_is_refused(signed: dict[str, Any], word_count: str, text: Path) -> None:
    message = refusal(word_count, text, **signed)
    assert "is not signed" in message
    assert "MRCELERY_SIGNING_KEY" in message
    assert KEY not in message


def test_another_key_is_refused(signed: dict[str, Any], word_count: str, text: Path) -> None:
    message = refusal(word_count, text, signing_key="wrong", **signed)
    assert "does not match" in message


def test_the_command_line_says_so(signed: dict[str, Any], word_count: str, text: Path) -> None:
    env = environment(**{f"MRCELERY_{name.upper()}": value for name, value in signed.items()})
    done = command("submit", word_count, text, env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("mrcelery: ")
    assert "is not signed" in done.stderr
    assert "Traceback" not in done.stderr
    assert command("submit", word_count, text, env={**env, "MRCELERY_SIGNING_KEY": KEY}).returncode == 0


def test_a_fleet_without_a_key_ignores_signatures(fleet: Fleet, word_count: str, text: Path) -> None:
    with mrcelery.run(word_count, str(text), signing_key=KEY, **fleet.settings) as handle:
        assert results(handle) == COUNTS


Alter = Callable[[bytes], bytes]

ALTERED: dict[str, tuple[Callable[[str], str], Alter]] = {
    "spec": (object_keys.spec, lambda data: data.replace(b'"name":"WordCount"', b'"name":"WordCounx"')),
    "spec-unsigned": (object_keys.spec, lambda data: data[: data.rindex(b'"signature"')] + b'"signature":""}'),
    "spec-garbage": (object_keys.spec, lambda data: b"{}"),
    "code": (object_keys.code, lambda data: data[:-30] + bytes(30)),
    "plan": (lambda job: object_keys.plan_page(job, 0, 0), lambda data: data.replace(b"text.txt", b"tekt.txt")),
}


@pytest.mark.parametrize("what", ALTERED)
def test_what_is_altered_in_storage_is_refused(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch, word_count: str, text: Path, what: str
) -> None:
    key_of, alter = ALTERED[what]
    monkeypatch.setenv("MRCELERY_SIGNING_KEY", KEY)
    quiet.forget()
    try:
        with mrcelery.submit(word_count, str(text), max_attempts=1, **quiet.settings) as handle:
            quiet.take()
            quiet.run("mrcelery.start", job=handle.id)
            path = Path(quiet.settings["storage"]) / key_of(handle.id)
            before = path.read_bytes()
            path.write_bytes(alter(before))
            assert path.read_bytes() != before
            with quiet.workers(MRCELERY_SIGNING_KEY=KEY), pytest.raises(mrcelery.JobFailedError) as raised:
                handle.wait(60)
            message = str(raised.value)
            assert "\n" not in message
            if what == "spec":
                assert f"the signature of {object_keys.spec(handle.id)} does not match: it was altered" in message
            elif what == "spec-unsigned":
                assert f"{object_keys.spec(handle.id)} is not signed" in message
            else:
                assert raised.value.failure.error in ("CorruptDataError", "UnsignedError")
    finally:
        quiet.forget()


def test_code_that_was_swapped_in_redis(quiet: Quiet, word_count: str, text: Path) -> None:
    """The bundle's checksum is in the signed request."""
    with mrcelery.submit(word_count, str(text), max_attempts=1, signing_key=KEY, **quiet.settings) as handle:
        (found,) = quiet.store.call(("KEYS", f"mrcelery:job:{handle.id}:blob:*"))
        assert isinstance(found, list)
        (code,) = found
        quiet.store.call(("SET", code, b"PK other"))
        with quiet.workers(MRCELERY_SIGNING_KEY=KEY), pytest.raises(mrcelery.JobFailedError) as raised:
            handle.wait(60)
        assert raised.value.failure.error in ("CorruptDataError", "UnsignedError")
