"""Objects are encrypted as the configuration asks, whichever way they are written."""

from __future__ import annotations

import os

import boto3
import pytest

from mrcelery.errors import ConfigError
from mrcelery.storage.s3 import S3Storage
from mrcelery.storage.s3_uploads import PART

pytestmark = pytest.mark.slow  # an endpoint is started

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def write_all_ways(bucket: str) -> list[str]:
    """Keys of objects that were put, created, copied, and written in parts."""
    storage = S3Storage(f"s3://{bucket}/{os.urandom(6).hex()}")
    storage.write("put", b"x")
    assert storage.create("created", b"x")
    storage.copy("put", storage, "copied")
    with storage.writer("parts") as out:
        out.write(bytes(PART + 1))
    return [f"{storage._prefix}{name}" for name in ("put", "created", "copied", "parts")]


def test_every_object_is_encrypted_with_the_key(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCELERY_S3_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("MRCELERY_S3_KMS_KEY", KEY)
    for key in write_all_ways(bucket):
        found = boto3.client("s3").head_object(Bucket=bucket, Key=key)
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", KEY), key


def test_nothing_is_asked_for_by_default(bucket: str) -> None:
    for key in write_all_ways(bucket):
        found = boto3.client("s3").head_object(Bucket=bucket, Key=key)
        assert "SSEKMSKeyId" not in found, key


def test_a_key_without_its_encryption_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRCELERY_S3_KMS_KEY", KEY)
    with pytest.raises(ConfigError, match="set that to aws:kms"):
        S3Storage("s3://bucket/prefix")
    monkeypatch.setenv("MRCELERY_S3_ENCRYPTION", "aws:rot13")
    with pytest.raises(ConfigError, match="AES256, aws:kms, aws:kms:dsse"):
        S3Storage("s3://bucket/prefix")
