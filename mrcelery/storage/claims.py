"""Claims: the right to change objects in a storage that several processes write to."""

from __future__ import annotations

from mrcelery.storage.addresses import scheme_of
from mrcelery.storage.base import Claim, Storage
from mrcelery.storage.folder import FolderStorage
from mrcelery.storage.folder_claims import FolderClaim
from mrcelery.storage.folder_claims import revoke as revoke_in_folder
from mrcelery.storage.memory import MemoryClaim, MemoryStorage


def claim(storage: Storage, key: str) -> Claim:
    """Return the claim whose object is ``key``, which is in a separate folder; it is not taken yet."""
    if isinstance(storage, FolderStorage):
        return FolderClaim(storage, key)
    if isinstance(storage, MemoryStorage):
        return MemoryClaim(storage, key)
    assert scheme_of(storage.uri) == "s3", storage
    from mrcelery.storage.s3 import S3Storage  # noqa: PLC0415 - boto3 takes long
    from mrcelery.storage.s3_claims import S3Claim  # noqa: PLC0415 - boto3 takes long

    assert isinstance(storage, S3Storage)
    return S3Claim(storage, key)


def revoke(storage: Storage, key: str) -> None:
    """Revoke the claim whose object is ``key``, if any: its holder can change nothing any more."""
    if isinstance(storage, FolderStorage):
        revoke_in_folder(storage, key)
    elif isinstance(storage, MemoryStorage):
        storage.delete([key])
    else:
        from mrcelery.storage.s3 import S3Storage  # noqa: PLC0415 - boto3 takes long
        from mrcelery.storage.s3_claims import revoke as revoke_on_s3  # noqa: PLC0415 - boto3 takes long

        assert isinstance(storage, S3Storage)
        revoke_on_s3(storage, key)
