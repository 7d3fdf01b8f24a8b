"""What errors, records and commands may not show: passwords and signatures."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mrcelery.errors import InputError, JobLoadError, TaskError, mask

SIGNED = (
    "https://b.s3.amazonaws.com/f.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261128%2Fs3"
    "&X-Amz-Date=20261128T000000Z&X-Amz-Security-Token=FQo/+Gm==&X-Amz-Signature=deadbeef"
)
SIGNED_MASKED = (
    "https://b.s3.amazonaws.com/f.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=****"
    "&X-Amz-Date=20261128T000000Z&X-Amz-Security-Token=****&X-Amz-Signature=****"
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("redis://user:pw@host:6379/0", "redis://user:****@host:6379/0"),
        ("redis://:p@ss:w/rd#1@", "redis://:****@"),
        ("redis://:p@ss:w/rd#1@host:6379/0", "redis://:****@host:6379/0"),
        ("redis://:1/2@host", "redis://:****@host"),
        ("rediss://:p'w\"x@host", "rediss://:****@host"),
        ("redis+socket://:pw@/tmp/redis.sock", "redis+socket://:****@/tmp/redis.sock"),
        ("sentinel://a:26379;sentinel://:pw@b:26379", "sentinel://a:26379;sentinel://:****@b:26379"),
        (
            "sentinel://:pw@a:1;sentinel://b:2/3?master_name=main&sentinel_password=x",
            "sentinel://:****@a:1;sentinel://b:2/3?master_name=main&sentinel_password=****",
        ),
        ("s3://AKIA123:abc/def+gh@bucket/key", "s3://AKIA123:****@bucket/key"),
        ("https://user:pa/s@s@host/a?b=c", "https://user:****@host/a?b=c"),
        ("https://TOKEN@host/a", "https://****@host/a"),
        ("HTTP:/User:Pw@Host/x", "HTTP:/User:****@Host/x"),
        ("https://u:p@[::1]:80/x", "https://u:****@[::1]:80/x"),
        (SIGNED, SIGNED_MASKED),
        (f"{SIGNED}: the server refuses it", f"{SIGNED_MASKED}: the server refuses it"),
        (f"('{SIGNED}', 3)", f"('{SIGNED_MASKED}', 3)"),
        (
            "https://h/f?AWSAccessKeyId=AK&Signature=ab%2Fcd%3D&Expires=17",
            "https://h/f?AWSAccessKeyId=****&Signature=****&Expires=17",
        ),
        ("https://a.blob.core/x?sv=2020&sig=abc%3D&se=2", "https://a.blob.core/x?sv=2020&sig=****&se=2"),
        ("https://h/f?X%2DAmz%2DSignature=abc", "https://h/f?X%2DAmz%2DSignature=****"),
        ("https://h/f?a=1&amp;token=abc&amp;b=2.", "https://h/f?a=1&amp;token=****&amp;b=2."),
        ("https://h/#access_token=abc", "https://h/#access_token=****"),
        (
            "https://h/go?url=https%3A%2F%2Fi%2Ff%3Fsig%3Dabc%26b%3D1",
            "https://h/go?url=https%3A%2F%2Fi%2Ff%3Fsig%3D****%26b%3D1",
        ),
        ("two: redis://:a@h and redis://:b@h", "two: redis://:****@h and redis://:****@h"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert mask(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "redis://host:6379/0",
        "s3://bucket/prefix/a@b.txt",
        "https://host:8080/@user/x",
        "https://host:80?x=a@b",
        "https://[::1]:80/x@y",
        "file:///home/a@b/c",
        "see http://h/x, or mail a@b",
        "https://h/f?page=3&sort=key&name=token",
        "key=abc; token = c",
        "ValueError: 1 != 2",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert mask(text) == text


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=3))
@example("p@ss:w/rd#1")
@example("my pass")
def test_whatever_a_password_holds(password: str) -> None:
    assert mask(f"redis://:{password}@host:6379/0", whole=True).startswith("redis://:****@")
    if not any(map(str.isspace, password)):
        told = mask(f"no Redis answers at 'redis://user:{password}@host' now")
        assert told == "no Redis answers at 'redis://user:****@host' now"


def test_long_text_takes_no_long_time() -> None:
    """Each of these would be quadratic for a careless pattern: a day's work, not a moment's."""
    for piece in ("a", "&", "&a", "%26", "?x=:", "http://a:", "http://@", "a://b@c ", "'", "/:"):
        mask(piece * (300_000 // len(piece)) + "://@=")


def test_errors_mask_what_they_say() -> None:
    error = TaskError(f"{SIGNED}: gone", file=SIGNED, record=repr(SIGNED), traceback=f"at {SIGNED}")
    told = (str(error), error.file, error.record, error.traceback, str(InputError(f"input {SIGNED}")))
    assert all("deadbeef" not in text and "X-Amz-Signature=****" in text for text in told)
    assert "deadbeef" not in JobLoadError("x", SIGNED).traceback
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
