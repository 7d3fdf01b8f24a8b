"""Readable messages for botocore's errors: what is wrong with the bucket, the permissions or the endpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from mrcelery.errors import StorageOutageError, StorageRefusedError, StorageUnreachableError

_DENIED = frozenset({"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem"})
_UNKNOWN_KEY = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_MOVED = frozenset({"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_AWAY = frozenset(
    {
        "InternalError", "ServiceUnavailable", "SlowDown", "BadGateway", "GatewayTimeout", "OperationAborted",
        "RequestTimeout", "RequestTimeoutException", "RequestLimitExceeded", "TooManyRequests", "Throttling",
        "BandwidthLimitExceeded", "ThrottlingException", "ThrottledException", "RequestThrottled",
        "PriorRequestNotComplete", "ConditionalRequestConflict", "409", "429",
    }
)  # fmt: skip


def code_of(error: ClientError) -> str:
    """Return S3's error code; the HTTP status as text if the answer has no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def retries_of(response: Mapping[str, Any]) -> int:
    """Return how often boto3 repeated a request before it received this answer."""
    return int(response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def is_away(error: ClientError) -> bool:
    """Check whether an endpoint answers that it cannot serve now, but may later."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return code_of(error) in _AWAY or status in (408, 425, 429) or (status >= 500 and status != 501)


def translate(
    error: BotoCoreError | ClientError, right: str, bucket: str, key: str, *, met: bool = True, seconds: float = 0.0
) -> Exception:
    """Return the error to raise instead of botocore's.

    That is ``FileNotFoundError`` for a missing object, else :class:`StorageUnreachableError` with a remedy. ``right``
    names the IAM permission that the call needs; ``met`` and ``seconds`` are passed to :class:`StorageOutageError`.
    """
    if isinstance(error, ClientError):
        return _refused(error, right, bucket, key, seconds)
    if isinstance(error, HTTPClientError | ConnectionError) and not isinstance(error, SSLError):
        return StorageOutageError(
            f"the S3 endpoint of {bucket} cannot be reached: check AWS_ENDPOINT_URL_S3 and the network ({error})",
            met=met,
            seconds=seconds,
        )
    return _unusable(error, bucket)


def _refused(error: ClientError, right: str, bucket: str, key: str, seconds: float) -> Exception:
    code = code_of(error)
    if code == "NoSuchBucket":
        return StorageRefusedError(f"bucket {bucket} does not exist: create it or correct the s3:// address")
    if code in ("NoSuchKey", "404", "NotFound"):
        return FileNotFoundError(f"s3://{bucket}/{key}")
    if code in _DENIED:
        return StorageRefusedError(
            f"access denied to s3://{bucket}/{key}: the credentials in use ({_identity()}) need {right} "
            "on this bucket (see `aws sts get-caller-identity`)"
        )
    if code in _UNKNOWN_KEY:
        return StorageRefusedError(
            f"the S3 endpoint refuses the credentials in use ({_identity()}; {code}): correct or renew them"
        )
    if code in _EXPIRED:
        return StorageRefusedError(
            f"the AWS credentials in use ({_identity()}) have expired: log in again or renew them"
        )
    if code in _MOVED:
        return StorageRefusedError(
            f"bucket {bucket} lies in another region ({code}): set AWS_REGION to the bucket's region"
        )
    if code == "InvalidBucketName":
        return StorageRefusedError(f"{bucket!r} is not a bucket name: correct the s3:// address")
    detail = error.response.get("Error", {}).get("Message", "")
    message = f"s3://{bucket}/{key}: the endpoint answers {code} ({detail or error}): try `mrcelery doctor`"
    return StorageOutageError(message, seconds=seconds) if is_away(error) else StorageUnreachableError(message)


def _unusable(error: BotoCoreError, bucket: str) -> StorageUnreachableError:
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError):
        # Not a refusal: a role's credentials come from a service, which may itself be away.
        return StorageUnreachableError(
            f"no AWS credentials for s3://{bucket}: set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or give the pod or instance a role ({error})"
        )
    if isinstance(error, TokenRetrievalError | UnauthorizedSSOTokenError):
        return StorageRefusedError(
            f"the AWS credentials in use ({_identity()}) have expired: log in again or renew them ({error})"
        )
    if isinstance(error, ProfileNotFound):
        return StorageRefusedError(f"{error}: correct AWS_PROFILE or add the profile to ~/.aws/config")
    if isinstance(error, ParamValidationError):
        return StorageRefusedError(f"s3://{bucket} is not an address that S3 accepts: correct it ({error})")
    if isinstance(error, SSLError):
        return StorageRefusedError(
            f"the S3 endpoint of {bucket} has a certificate that is not trusted here: set AWS_CA_BUNDLE ({error})"
        )
    return StorageUnreachableError(
        f"s3://{bucket} cannot be used: {error}: check the AWS settings with `mrcelery doctor`"
    )


def _identity() -> str:
    profile = os.environ.get("AWS_PROFILE")
    if profile:
        return f"profile {profile}"
    access = os.environ.get("AWS_ACCESS_KEY_ID")
    return f"access key {access[:4]}...{access[-4:]}" if access else "the default profile or role"
