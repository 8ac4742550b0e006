"""Access keys with limits, made online by the command line and used through every node (s3.md 1.3; issue 6, 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.integration.cluster import ROOT_ACCESS_KEY, ROOT_SECRET_KEY, Cluster
from tests.integration.test_cli import _sos as sos

ROOT = {"SOS_ROOT_SECRET_KEY": ROOT_SECRET_KEY}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        running.start()
        root = client(running, 0, ROOT_ACCESS_KEY, ROOT_SECRET_KEY)
        for bucket in ("one", "two"):
            root.create_bucket(Bucket=bucket)
            for key in ("in/a", "in/b", "out/a"):
                root.put_object(Bucket=bucket, Key=key, Body=key.encode())
        yield running


def client(cluster: Cluster, node: int, access: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=cluster.nodes[node].endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 0},
        ),
    )


def key_command(cluster: Cluster, node: int, *arguments: str) -> Any:
    admin = f"127.0.0.1:{cluster.nodes[node].admin_port}"
    done = sos(["key", *arguments, "--admin", admin, "--json"], **ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def made(cluster: Cluster, *arguments: str) -> tuple[str, str]:
    document = key_command(cluster, 0, "create", *arguments)
    return document["access_key"], document["secret_key"]


def denied(call: Any, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return f"{caught.value.response['Error']['Code']}"


def test_a_key_of_one_bucket_and_prefix(cluster: Cluster) -> None:
    """Works at once on the other nodes, there and nowhere else."""
    keys = made(cluster, "--bucket", "one", "--prefix", "in/")
    s3 = client(cluster, 1, *keys)

    assert s3.get_object(Bucket="one", Key="in/a")["Body"].read() == b"in/a"
    s3.put_object(Bucket="one", Key="in/new", Body=b"x")
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["one"]
    listed = s3.list_objects_v2(Bucket="one", Prefix="in/")["Contents"]
    assert [one["Key"] for one in listed] == ["in/a", "in/b", "in/new"]
    for call, arguments in (
        (s3.get_object, {"Bucket": "one", "Key": "out/a"}),
        (s3.get_object, {"Bucket": "two", "Key": "in/a"}),
        (s3.get_object, {"Bucket": "one", "Key": "out/absent"}),
        (s3.list_objects_v2, {"Bucket": "one"}),
        (s3.put_object, {"Bucket": "one", "Key": "out/x", "Body": b""}),
        (s3.copy_object, {"Bucket": "one", "Key": "in/c", "CopySource": "two/in/a"}),
        (s3.copy_object, {"Bucket": "one", "Key": "in/c", "CopySource": "one/out/a"}),
        (s3.create_multipart_upload, {"Bucket": "two", "Key": "in/a"}),
        (s3.delete_bucket, {"Bucket": "one"}),
        (s3.create_bucket, {"Bucket": "three"}),
    ):
        assert denied(call, **arguments) == "AccessDenied"
    answer = s3.delete_objects(
        Bucket="one", Delete={"Objects": [{"Key": "in/new"}, {"Key": "out/a"}]}
    )
    assert [one["Key"] for one in answer["Deleted"]] == ["in/new"]
    assert [(one["Key"], one["Code"]) for one in answer["Errors"]] == [("out/a", "AccessDenied")]
    root = client(cluster, 2, ROOT_ACCESS_KEY, ROOT_SECRET_KEY)
    assert root.get_object(Bucket="one", Key="out/a")["Body"].read() == b"out/a"
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "one", "Key": "out/a"})
    assert "X-Amz-Credential" in url


def test_a_read_only_key(cluster: Cluster) -> None:
    """Reads and lists everything, changes nothing."""
    s3 = client(cluster, 2, *made(cluster, "--read-only", "--name", "reports"))

    assert s3.get_object(Bucket="two", Key="out/a")["Body"].read() == b"out/a"
    assert s3.list_objects_v2(Bucket="two")["KeyCount"] == 3
    for call, arguments in (
        (s3.put_object, {"Bucket": "two", "Key": "k", "Body": b""}),
        (s3.delete_object, {"Bucket": "two", "Key": "in/a"}),
        (s3.delete_objects, {"Bucket": "two", "Delete": {"Objects": [{"Key": "in/a"}]}}),
        (s3.put_object_tagging, {"Bucket": "two", "Key": "in/a", "Tagging": {"TagSet": []}}),
        (s3.create_multipart_upload, {"Bucket": "two", "Key": "k"}),
        (
            s3.put_bucket_versioning,
            {"Bucket": "two", "VersioningConfiguration": {"Status": "Enabled"}},
        ),
    ):
        assert denied(call, **arguments) == "AccessDenied"
    (row,) = [row for row in key_command(cluster, 1, "list") if row["name"] == "reports"]
    assert (row["read_only"], row["buckets"], row["prefixes"]) == (True, [], [])


def test_rotation_keeps_the_limits(cluster: Cluster) -> None:
    """A new key beside the old one, or in its place at once, on every node."""
    old = made(cluster, "--read-only", "--bucket", "one")
    first = key_command(cluster, 1, "rotate", old[0])
    second = key_command(cluster, 2, "rotate", "--revoke", old[0])

    for document in (first, second):
        s3 = client(cluster, 0, document["access_key"], document["secret_key"])
        assert s3.get_object(Bucket="one", Key="in/a")["Body"].read() == b"in/a"
        assert denied(s3.put_object, Bucket="one", Key="k", Body=b"") == "AccessDenied"
        assert denied(s3.list_objects_v2, Bucket="two") == "AccessDenied"
    for node in range(3):
        revoked = client(cluster, node, *old)
        assert denied(revoked.get_object, Bucket="one", Key="in/a") == "InvalidAccessKeyId"
        assert denied(revoked.put_object, Bucket="one", Key="in/a", Body=b"") in (
            "InvalidAccessKeyId",
            "AccessDenied",
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rotate", "NOSUCHKEY"], "no such access key"),
        (["rotate", ROOT_ACCESS_KEY], "no such access key that can be rotated"),
        (["create", "--name", "x" * 65], "a name has at most 64"),
    ],
)
def test_refusals_are_one_line(cluster: Cluster, arguments: list[str], told: str) -> None:
    """Every error is one line that says what is wrong."""
    admin = f"127.0.0.1:{cluster.nodes[0].admin_port}"
    done = sos(["key", *arguments, "--admin", admin], **ROOT)
    assert done.returncode != 0
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
