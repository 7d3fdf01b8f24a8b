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
from mrcelery.schema.signing import JobSeal, carries_signature, is_signed, seal, sign, unseal
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


PLACE = "jobs/j/step-0/shuffle/00000.json"
PART = ShuffleInput(partition=0, parts=())


@given(st.text(), st.text(min_size=1))
def test_what_a_job_seals_comes_back_and_is_read_without_a_secret(message: str, secret: str) -> None:
    record, mine = Failure(error="E", message=message), JobSeal("j", secret)
    data = mine.encode(record, PLACE)
    assert mine.decode(data, Failure, PLACE) == record
    assert JobSeal("j").decode(data, Failure, PLACE) == record
    assert carries_signature(data)
    assert len(data) == len(encode(record)) + 31


def test_without_a_secret_a_job_seals_nothing() -> None:
    mine = JobSeal("j")
    assert not mine.signs
    assert mine.encode(PART, PLACE) == encode(PART)
    assert mine.decode(encode(PART), ShuffleInput, PLACE) == PART
    assert not carries_signature(encode(PART))


@pytest.mark.parametrize(
    ("job", "secret", "kind", "place", "marks"),
    [
        ("other", "key", ShuffleInput, PLACE, ("",)),
        ("j", "another", ShuffleInput, PLACE, ("",)),
        ("j", "key", Failure, PLACE, ("",)),
        ("j", "key", ShuffleInput, PLACE.replace("00000.", "00001."), ("",)),
        ("j", "key", ShuffleInput, PLACE.replace("step-0", "step-1"), ("",)),
        ("j", "key", ShuffleInput, PLACE, ("last",)),
    ],
    ids=["job", "secret", "kind", "task", "step", "mark"],
)
def test_a_seal_holds_for_one_job_kind_and_place(
    job: str, secret: str, kind: type[Record], place: str, marks: tuple[str, ...]
) -> None:
    data = JobSeal("j", "key").encode(PART, PLACE)
    with pytest.raises(UnsignedError, match=rf"signature of {place} does not match: .*submit the job again"):
        JobSeal(job, secret).decode(data, kind, place, marks)


@given(st.data())
def test_a_sealed_record_with_any_byte_changed_is_refused(data: st.DataObject) -> None:
    mine = JobSeal("j", "key")
    sealed = bytearray(mine.encode(PART, PLACE))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnsignedError):
        mine.decode(bytes(sealed), ShuffleInput, PLACE)


@pytest.mark.parametrize("data", [b"", b"}", encode(PART), encode(PART)[:-1] + b',"sig":""}', b'{"sig":"AAAA"}'])
def test_what_bears_no_signature_of_a_job_is_refused(data: bytes) -> None:
    with pytest.raises(UnsignedError, match=rf"{PLACE} is not signed.*MRCELERY_SIGNING_KEY.*submit the job again"):
        JobSeal("j", "key").decode(data, ShuffleInput, PLACE)


def test_where_one_part_of_a_place_ends_and_the_next_begins_is_signed_too() -> None:
    mine = JobSeal("j", "key")
    data = mine.sealed(encode(PART), ShuffleInput, "place", "mark")
    with pytest.raises(UnsignedError):
        mine.decode(data, ShuffleInput, "placemark")


def test_the_key_of_a_job_is_not_what_signs_a_request() -> None:
    """Who has a request's signature has no key of any job."""
    assert is_signed(seal(RECORD, "key"))
    assert not is_signed(seal(RECORD, None))
    assert not is_signed(b"{")
    with pytest.raises(ConfigError, match="empty"):
        JobSeal("j", "")
