"""Sealing and unsealing: what is unsigned, altered or of another kind is refused."""

from __future__ import annotations

import hashlib
import hmac
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrcelery.errors import ConfigError, CorruptDataError, UnsignedError, VersionError
from mrcelery.schema.encoding import encode
from mrcelery.schema.signing import seal, sign, unseal
from mrcelery.schema.structs import Failure, Record, ShuffleInput

RECORD = Failure(error="UserCodeError", message="é went wrong")


class _Lookalike(Record, frozen=True, kw_only=True):
    error: str
    message: str


def test_the_signature_is_hmac_sha256() -> None:
    assert sign(b"data", "key") == hmac.new(b"key", b"data", hashlib.sha256).hexdigest()
    assert sign(b"data", b"key") == sign(b"data", "key") != sign(b"data", "other")


@given(st.text(), st.text(min_size=1))
def test_what_is_sealed_comes_back(message: str, key: str) -> None:
    record = Failure(error="E", message=message)
    assert unseal(seal(record, key), Failure, key, "x") == record
    assert unseal(seal(record, None), Failure, None, "x") == record
    assert unseal(seal(record, key), Failure, None, "x") == record


def test_an_unsigned_record_is_refused_where_a_key_is_set() -> None:
    with pytest.raises(UnsignedError, match=r"jobs/j/spec.json is not signed.*MRCELERY_SIGNING_KEY"):
        unseal(seal(RECORD, None), Failure, "key", "jobs/j/spec.json")


def test_another_key_is_refused() -> None:
    with pytest.raises(UnsignedError, match="does not match"):
        unseal(seal(RECORD, "theirs"), Failure, "ours", "spec")


@given(st.data())
def test_any_altered_body_is_refused(data: st.DataObject) -> None:
    envelope = json.loads(seal(RECORD, "key"))
    field = data.draw(st.sampled_from([f for f in Failure.__struct_fields__ if f != "v"]))
    envelope["body"][field] = "altered" if isinstance(envelope["body"][field], str) else 7
    body = json.dumps(envelope).encode()
    with pytest.raises(UnsignedError, match="does not match"):
        unseal(body, Failure, "key", "spec")


def test_a_signature_holds_for_one_kind_of_record() -> None:
    sealed = seal(_Lookalike(error="E", message="m"), "key")
    assert unseal(sealed, _Lookalike, "key", "x").message == "m"
    with pytest.raises(UnsignedError):
        unseal(sealed, Failure, "key", "x")


def test_a_signature_that_is_no_hex_is_refused() -> None:
    envelope = json.dumps({"body": json.loads(encode(RECORD)), "signature": "é"}).encode()
    with pytest.raises(UnsignedError):
        unseal(envelope, Failure, "key", "spec")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"signature": "x"}', b"\xff"])
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(CorruptDataError, match="at spec is damaged"):
        unseal(data, Failure, None, "spec")


def test_the_body_is_checked_as_any_record() -> None:
    with pytest.raises(CorruptDataError):
        unseal(seal(RECORD, "k"), ShuffleInput, None, "spec")
    newer = msgspec.json.encode({"body": {"v": 99}, "signature": ""})
    with pytest.raises(VersionError):
        unseal(newer, Failure, None, "spec")


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ConfigError, match="empty"):
        seal(RECORD, "")
