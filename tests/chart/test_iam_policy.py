"""Whole jobs run with the rights of the policies in ``helm/aws`` and no others.

The endpoint is moto's server, which checks each request's signature and its caller's policy. It differs from AWS in
two points: it does not know conditions on ``s3:prefix``, so these are checked here on the requests that were made, and
to delete several objects at once it requires the right to the bucket, while AWS requires the right to each object.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import parse_qs

import boto3
import pytest

from mrcelery.storage.s3 import S3Storage
from mrcelery.storage.s3_uploads import PART
from tests.chart.chart_rendering import ROOT
from tests.support.s3_endpoint import VARIABLE, s3_bucket, s3_endpoint
from tests.support.s3_proxy import proxy
from tests.support.services import WORD_COUNT, command, environment, redis_server, workers

AWS = ROOT / "helm" / "aws"
RIGHTS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"]

Keys = dict[str, str]


def policy(name: str, bucket: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((AWS / f"{name}.json").read_text().replace("BUCKET", bucket))
    return found


def for_moto(policy: dict[str, Any], bucket: str, without: str = "") -> str:
    statements = []
    for one in policy["Statement"]:
        actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
        kept = [action for action in actions if action != without]
        if kept:
            statements.append({"Effect": "Allow", "Action": kept, "Resource": one["Resource"]})
        if "s3:DeleteObject" in kept:
            statements.append({"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}"})
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def listable(policy: dict[str, Any]) -> list[str]:
    (statement,) = [one for one in policy["Statement"] if one["Action"] == "s3:ListBucket"]
    patterns: list[str] = statement["Condition"]["StringLike"]["s3:prefix"]
    return patterns


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.delenv(VARIABLE, raising=False)
    with s3_endpoint(), s3_bucket() as name:
        boto3.client("s3").put_object(Bucket=name, Key="input/text", Body=b"a b a\n" * 1000)
        yield name
    patch.undo()


class Guard:
    """Users with policies, and an endpoint that admits nobody else while :meth:`watch` lasts."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._endpoint = os.environ[VARIABLE]

    def user(self, name: str, without: str = "") -> Keys:
        """Create a user with one of the policies, less the right ``without``, and return the keys as variables."""
        iam = boto3.client("iam", endpoint_url=self._endpoint)
        person = f"{name}-{os.urandom(4).hex()}"
        iam.create_user(UserName=person)
        document = for_moto(policy(name, self.bucket), self.bucket, without)
        iam.put_user_policy(UserName=person, PolicyName=name, PolicyDocument=document)
        key = iam.create_access_key(UserName=person)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    @contextmanager
    def watch(self) -> Iterator[None]:
        self._unguarded("0")
        try:
            yield
        finally:
            self._unguarded("inf")

    def _unguarded(self, requests: str) -> None:
        url, head = f"{self._endpoint}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), head), timeout=10).close()


@pytest.fixture
def guard(bucket: str) -> Guard:
    return Guard(bucket)


def mrcelery(folder: Path, keys: Keys, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    (folder / "wc.py").write_text(dedent(WORD_COUNT))
    (folder / "text").write_text("a b a\n" * 1000)
    return command(*words, env=environment(**keys, **more), cwd=folder)


def test_a_fleet_and_its_clients_need_no_more_than_the_policies(guard: Guard, tmp_path: Path) -> None:
    fleet, client, bucket = guard.user("worker-policy"), guard.user("client-policy"), guard.bucket
    with proxy() as log, redis_server() as server, guard.watch(), workers(tmp_path / "w", server.tcp_url, env=fleet):
        settings = {"MRCELERY_BROKER": server.tcp_url, "MRCELERY_STORAGE": f"s3://{bucket}/mrcelery"}
        for words in (
            ["submit", "wc.py", f"s3://{bucket}/input/", "-o", f"s3://{bucket}/output/counts"],
            ["submit", "wc.py", f"s3://{bucket}/input/", "-o", f"s3://{bucket}/output/counts", "--overwrite"],
            ["cat", f"s3://{bucket}/output/counts"],
            ["submit", "wc.py", "text"],
            ["hello"],
            ["doctor"],
            ["list"],
            ["clean", "--older-than", "0s"],
        ):
            ran = mrcelery(tmp_path, client, *words, **settings)
            assert ran.returncode == 0, f"{words}: {ran.stderr}"
            if words[0] in ("submit", "cat") and "-o" not in words:
                assert sorted(ran.stdout.splitlines()) == ['"a"\t2000', '"b"\t1000']
    asked = [parse_qs(one.query).get("prefix", [""])[0] for one in log.requests if one.billed == "LIST"]
    patterns = listable(policy("worker-policy", bucket))
    assert asked
    assert [one for one in asked if not any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("right", RIGHTS)
def test_the_workers_need_each_right(guard: Guard, right: str, tmp_path: Path) -> None:
    bucket, keys = guard.bucket, guard.user("worker-policy", without=right)
    with guard.watch():
        ran = mrcelery(
            tmp_path, keys, "submit", "wc.py", f"s3://{bucket}/input/", "-o", f"s3://{bucket}/output/{right[3:]}",
            "--storage", f"s3://{bucket}/mrcelery/{right[3:]}", "--runner", "inline",
        )  # fmt: skip
    assert ran.returncode != 0
    assert right in ran.stderr, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("name", "output", "storage"),
    [
        ("worker-policy", "elsewhere/counts", "mrcelery"),
        ("worker-policy", "input/counts", "mrcelery"),
        ("worker-policy", "output/counts", "elsewhere"),
        ("client-policy", "output/counts", "mrcelery"),
    ],
)
def test_nothing_is_written_elsewhere(guard: Guard, name: str, output: str, storage: str, tmp_path: Path) -> None:
    bucket, keys = guard.bucket, guard.user(name)
    with guard.watch():
        ran = mrcelery(
            tmp_path, keys, "submit", "wc.py", "text", "-o", f"s3://{bucket}/{output}-refused",
            "--storage", f"s3://{bucket}/{storage}", "--runner", "inline",
        )  # fmt: skip
    assert ran.returncode != 0
    assert "access denied to" in ran.stderr, ran.stderr
    for prefix in (f"{output}-refused", "elsewhere/"):
        assert boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"] == 0


def test_what_breaks_off_is_aborted(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in guard.user("worker-policy").items():
        monkeypatch.setenv(name, value)
    storage = S3Storage(f"s3://{guard.bucket}/mrcelery")
    with guard.watch(), pytest.raises(RuntimeError), storage.writer("broken") as out:
        out.write(bytes(PART + 1))
        raise RuntimeError
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=guard.bucket)
