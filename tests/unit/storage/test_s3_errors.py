"""Which of botocore's errors are outages, to be waited for, and which only a person can correct."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions
from botocore.exceptions import BotoCoreError, ClientError

from mrcelery.errors import StorageOutageError, StorageRefusedError, StorageUnreachableError
from mrcelery.storage.s3_errors import translate


def answered(code: str, status: int) -> ClientError:
    found: Any = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(found, "PutObject")


OUTAGES: list[BotoCoreError | ClientError] = [
    answered("InternalError", 500),
    answered("502", 502),
    answered("SlowDown", 503),
    answered("ServiceUnavailable", 503),
    answered("GatewayTimeout", 504),
    answered("XTheProxysOwn", 503),
    answered("TooManyRequests", 429),
    answered("RequestTimeout", 400),
    answered("ConditionalRequestConflict", 409),
    exceptions.EndpointConnectionError(endpoint_url="http://s3", error="Name or service not known"),
    exceptions.EndpointConnectionError(endpoint_url="http://s3", error="[Errno 111] Connection refused"),
    exceptions.ConnectTimeoutError(endpoint_url="http://s3"),
    exceptions.ReadTimeoutError(endpoint_url="http://s3"),
    exceptions.ConnectionClosedError(endpoint_url="http://s3"),
    exceptions.ProxyConnectionError(proxy_url="http://proxy"),
    exceptions.HTTPClientError(error="broken"),
]
REFUSALS: list[BotoCoreError | ClientError] = [
    answered("AccessDenied", 403),
    answered("403", 403),
    answered("ExpiredToken", 400),
    answered("InvalidAccessKeyId", 403),
    answered("SignatureDoesNotMatch", 403),
    answered("NoSuchBucket", 404),
    answered("PermanentRedirect", 301),
    answered("InvalidBucketName", 400),
    exceptions.ProfileNotFound(profile="nobody"),
    exceptions.SSLError(endpoint_url="https://s3", error="certificate verify failed"),
    exceptions.UnauthorizedSSOTokenError(),
]
OTHERS: list[BotoCoreError | ClientError] = [
    answered("MalformedXML", 400),
    answered("NotImplemented", 501),
    exceptions.NoCredentialsError(),
]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(error, StorageOutageError) for error in OUTAGES]
    + [(error, StorageRefusedError) for error in REFUSALS]
    + [(error, StorageUnreachableError) for error in OTHERS],
)
def test_what_an_error_is(error: BotoCoreError | ClientError, kind: type[Exception]) -> None:
    told = translate(error, "s3:PutObject", "bucket", "key", met=False, seconds=2.0)
    assert type(told) is kind
    assert ": " in str(told), "what is wrong, and what to do"
    if isinstance(told, StorageOutageError):
        assert told.seconds == 2.0
        assert told.met is isinstance(error, ClientError), "who answers was met"
