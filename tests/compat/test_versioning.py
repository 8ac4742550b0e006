"""Versioning, by boto3 as people use it: over HTTP, over TLS, and with each request on another of three nodes (s3.md 1.3, 6.5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.conftest import Site
from tests.compat.test_multipart import Turns, complete, create, put_part, read, refused


@pytest.fixture
def s3(site: Site) -> Iterator[Any]:
    turns = Turns(site)
    yield turns
    for client in turns.clients:
        client.close()


@pytest.fixture
def versioned(s3: Any, bucket: str) -> str:
    set_versioning(s3, bucket, "Enabled")
    return bucket


def set_versioning(s3: Any, bucket: str, status: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})


def put(s3: Any, bucket: str, body: bytes, key: str = "k") -> str:
    """The version id of the new version."""
    version: str = s3.put_object(Bucket=bucket, Key=key, Body=body)["VersionId"]
    return version


def listed(s3: Any, bucket: str, **more: Any) -> list[tuple[str, str, bool, bool]]:
    """(key, version id, is latest, is marker), in the order of the document."""
    return [
        (one["Key"], one["VersionId"], one["IsLatest"], one["is_marker"])
        for one in versions(s3.list_object_versions(Bucket=bucket, **more))
    ]


def versions(page: Any) -> list[dict[str, Any]]:
    """boto3 parts versions from markers: put together as S3 orders them, by key and then by time."""
    both = [dict(one, is_marker=False) for one in page.get("Versions", [])]
    both += [dict(one, is_marker=True) for one in page.get("DeleteMarkers", [])]
    return both


def test_states(s3: Any, bucket: str) -> None:
    """Never configured, enabled, suspended; there is no way back, and no MFA delete."""
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    for status in ("Enabled", "Suspended", "Enabled"):
        set_versioning(s3, bucket, status)
        assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == status
    answer = refused(
        lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Off"})
    )
    assert answer[:2] == ("MalformedXML", 400)
    answer = refused(
        lambda: s3.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Enabled", "MFADelete": "Enabled"}
        )
    )
    assert answer[:2] == ("NotImplemented", 501)


def test_every_put_is_a_version(s3: Any, versioned: str) -> None:
    """Each has its id, its bytes and its headers; the last one is current on every node."""
    ids = [put(s3, versioned, f"v{number}".encode()) for number in range(4)]

    assert len(set(ids)) == 4
    assert read(s3, versioned) == b"v3"
    for number, version in enumerate(ids):
        answer = s3.get_object(Bucket=versioned, Key="k", VersionId=version)
        assert answer["Body"].read() == f"v{number}".encode()
        assert answer["VersionId"] == version
        assert s3.head_object(Bucket=versioned, Key="k", VersionId=version)["ContentLength"] == 2
    assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == ids[3]
    assert [one[1] for one in listed(s3, versioned)] == ids[::-1]
    assert [one[2] for one in listed(s3, versioned)] == [True, False, False, False]
    assert s3.list_objects_v2(Bucket=versioned)["KeyCount"] == 1


def test_a_delete_hides_and_an_undelete_shows(s3: Any, versioned: str) -> None:
    """A marker on top; without it the version below is current again (UG: DeletingObjectVersions)."""
    version = put(s3, versioned, b"kept")

    deleted = s3.delete_object(Bucket=versioned, Key="k")

    assert deleted["DeleteMarker"] is True
    marker = deleted["VersionId"]
    code, status, _ = refused(lambda: s3.get_object(Bucket=versioned, Key="k"))
    assert (code, status) == ("NoSuchKey", 404)
    with pytest.raises(Exception, match="404") as caught:
        s3.head_object(Bucket=versioned, Key="k")
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]  # type: ignore[attr-defined]
    assert (headers["x-amz-delete-marker"], headers["x-amz-version-id"]) == ("true", marker)
    answer = refused(lambda: s3.get_object(Bucket=versioned, Key="k", VersionId=marker))
    assert answer[:2] == ("MethodNotAllowed", 405)
    assert read(s3, versioned, VersionId=version) == b"kept"
    assert s3.list_objects_v2(Bucket=versioned)["KeyCount"] == 0
    assert set(listed(s3, versioned)) == {
        ("k", marker, True, True),
        ("k", version, False, False),
    }

    undeleted = s3.delete_object(Bucket=versioned, Key="k", VersionId=marker)

    assert (undeleted["DeleteMarker"], undeleted["VersionId"]) == (True, marker)
    assert read(s3, versioned) == b"kept"


def test_a_delete_of_what_is_not_there_makes_a_marker_too(s3: Any, versioned: str) -> None:
    """s3.md 1.3, Deletes: also for absent keys; each delete is one more."""
    first = s3.delete_object(Bucket=versioned, Key="none")
    second = s3.delete_object(Bucket=versioned, Key="none")
    assert first["DeleteMarker"] is second["DeleteMarker"] is True
    assert first["VersionId"] != second["VersionId"]
    assert len(listed(s3, versioned)) == 2
    assert refused(lambda: s3.delete_bucket(Bucket=versioned))[0] == "BucketNotEmpty"
    for marker in (first, second):
        s3.delete_object(Bucket=versioned, Key="none", VersionId=marker["VersionId"])
    s3.delete_bucket(Bucket=versioned)


def test_ids_that_are_not_there(s3: Any, versioned: str) -> None:
    """Not ours: 400. Ours and gone: 404, and a delete of it succeeds again (s3.md 1.3)."""
    version = put(s3, versioned, b"x")
    put(s3, versioned, b"y")
    s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    again = s3.delete_object(Bucket=versioned, Key="k", VersionId=version)
    assert again["VersionId"] == version

    def get(version_id: str) -> tuple[str, int]:
        return refused(lambda: s3.get_object(Bucket=versioned, Key="k", VersionId=version_id))[:2]

    assert get(version) == ("NoSuchVersion", 404)
    assert get("made-up") == ("InvalidArgument", 400)
    assert get(version[:-1] + ("A" if version[-1] != "A" else "B")) == ("InvalidArgument", 400)
    assert get("null") == ("NoSuchVersion", 404)


def test_an_unversioned_bucket_has_null_alone(s3: Any, bucket: str, versioned: str) -> None:
    """s3.md 1.3: only ``null`` names a version there."""
    del versioned  # the same bucket: see below
    other = f"{bucket}-plain"
    s3.create_bucket(Bucket=other)
    answer = s3.put_object(Bucket=other, Key="k", Body=b"x")
    assert "VersionId" not in answer
    assert read(s3, other, VersionId="null") == b"x"
    foreign = put(s3, bucket, b"y")
    got = refused(lambda: s3.get_object(Bucket=other, Key="k", VersionId=foreign))
    assert got[:2] == ("InvalidArgument", 400)
    assert listed(s3, other) == [("k", "null", True, False)]
    assert s3.delete_object(Bucket=other, Key="k").get("DeleteMarker") is None


def test_null_versions_and_the_suspended_state(s3: Any, bucket: str) -> None:
    """What was written before is ``null``; suspended writes and deletes replace it, and nothing else (UG: suspended)."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    set_versioning(s3, bucket, "Enabled")
    first = put(s3, bucket, b"first")
    assert [one[1] for one in listed(s3, bucket)] == [first, "null"]
    assert read(s3, bucket, VersionId="null") == b"before"

    set_versioning(s3, bucket, "Suspended")
    assert put(s3, bucket, b"null again") == "null"
    assert [one[1] for one in listed(s3, bucket)] == ["null", first]
    assert read(s3, bucket) == read(s3, bucket, VersionId="null") == b"null again"
    deleted = s3.delete_object(Bucket=bucket, Key="k")
    assert (deleted["VersionId"], deleted["DeleteMarker"]) == ("null", True)
    assert set(listed(s3, bucket)) == {("k", "null", True, True), ("k", first, False, False)}
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert read(s3, bucket) == b"first"

    set_versioning(s3, bucket, "Enabled")
    put(s3, bucket, b"second")
    assert len(listed(s3, bucket)) == 2


def test_delete_many_versions_at_once(s3: Any, versioned: str) -> None:
    """Ids, markers and plain keys in one request; a made-up id fails alone (s3.md 1.1.7)."""
    one, two = put(s3, versioned, b"1"), put(s3, versioned, b"2")
    put(s3, versioned, b"x", "plain")

    answer = s3.delete_objects(
        Bucket=versioned,
        Delete={
            "Objects": [
                {"Key": "k", "VersionId": two},
                {"Key": "k", "VersionId": one},
                {"Key": "plain"},
                {"Key": "absent"},
                {"Key": "k", "VersionId": "made-up"},
            ]
        },
    )

    deleted = {(entry["Key"], entry.get("VersionId")): entry for entry in answer["Deleted"]}
    assert "DeleteMarker" not in deleted["k", one]
    assert deleted["plain", None]["DeleteMarker"] is True
    assert deleted["absent", None]["DeleteMarkerVersionId"]
    (error,) = answer["Errors"]
    assert (error["Code"], error["VersionId"]) == ("NoSuchVersion", "made-up")
    assert {entry[0] for entry in listed(s3, versioned)} == {"plain", "absent"}
    marker = deleted["plain", None]["DeleteMarkerVersionId"]
    answer = s3.delete_objects(
        Bucket=versioned, Delete={"Objects": [{"Key": "plain", "VersionId": marker}]}
    )
    (entry,) = answer["Deleted"]
    assert (entry["DeleteMarker"], entry["DeleteMarkerVersionId"]) == (True, marker)
    assert read(s3, versioned, "plain") == b"x"


def test_copies_of_versions(s3: Any, versioned: str) -> None:
    """An old version can be made current again; a marker cannot be copied (s3.md 1.1.6, 11)."""
    old = put(s3, versioned, b"old")
    put(s3, versioned, b"new")
    source = {"Bucket": versioned, "Key": "k", "VersionId": old}

    copied = s3.copy_object(Bucket=versioned, Key="k", CopySource=source)

    assert copied["CopySourceVersionId"] == old
    assert copied["VersionId"] == s3.head_object(Bucket=versioned, Key="k")["VersionId"]
    assert read(s3, versioned) == b"old"
    marker = s3.delete_object(Bucket=versioned, Key="k")["VersionId"]
    by_id = {"Bucket": versioned, "Key": "k", "VersionId": marker}
    current = {"Bucket": versioned, "Key": "k"}
    for named, expected in ((by_id, ("InvalidRequest", 400)), (current, ("NoSuchKey", 404))):
        answer = refused(
            lambda named=named: s3.copy_object(Bucket=versioned, Key="c", CopySource=named)  # type: ignore[misc]
        )
        assert answer[:2] == expected
    made_up = f"{versioned}/k?versionId=abc"
    answer = refused(lambda: s3.copy_object(Bucket=versioned, Key="c", CopySource=made_up))
    assert answer[:2] == ("InvalidArgument", 400)


def test_conditions_look_at_the_current_version(s3: Any, versioned: str) -> None:
    """A marker counts as absent (s3.md 4.3)."""
    put(s3, versioned, b"one")
    taken = refused(lambda: s3.put_object(Bucket=versioned, Key="k", Body=b"2", IfNoneMatch="*"))
    assert taken[:2] == ("PreconditionFailed", 412)
    s3.delete_object(Bucket=versioned, Key="k")
    s3.put_object(Bucket=versioned, Key="k", Body=b"2", IfNoneMatch="*")
    etag = f'"{hashlib.md5(b"2", usedforsecurity=False).hexdigest()}"'
    s3.put_object(Bucket=versioned, Key="k", Body=b"3", IfMatch=etag)
    assert len(listed(s3, versioned)) == 4


def test_multipart_makes_versions(s3: Any, versioned: str) -> None:
    """Complete answers with the version id; parts stay with their version."""
    ids = []
    for body in (b"first", b"second"):
        upload = create(s3, versioned)
        part = put_part(s3, versioned, upload, 1, body)
        ids.append(complete(s3, versioned, upload, [part])["VersionId"])
    assert read(s3, versioned, VersionId=ids[0]) == b"first"
    s3.delete_object(Bucket=versioned, Key="k", VersionId=ids[1])
    assert read(s3, versioned) == b"first"


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_versions_come_in_pages(s3: Any, bucket: str, size: int) -> None:
    """By key, the newest first; each exactly once, whatever the page (s3.md 6.5)."""
    s3.put_object(Bucket=bucket, Key="a", Body=b"null")
    set_versioning(s3, bucket, "Enabled")
    expected: list[tuple[str, str]] = []
    for key, count in (("a", 3), ("b", 1), ("d/" + "k" * 700, 2), ("d/x", 2), ("e", 1)):
        ids = [put(s3, bucket, b"x", key) for _ in range(count)]
        expected += [(key, version) for version in reversed(ids)]
        if key == "a":
            expected.append(("a", "null"))
    found: list[tuple[str, str]] = []
    marker: dict[str, str] = {}
    for _ in range(30):
        page = s3.list_object_versions(Bucket=bucket, MaxKeys=size, **marker)
        found += [(one["Key"], one["VersionId"]) for one in versions(page)]
        if not page["IsTruncated"]:
            break
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "VersionIdMarker": page["NextVersionIdMarker"],
        }
    assert found == expected
    assert listed(s3, bucket, KeyMarker="a")[0][0] == "b"
    rolled = s3.list_object_versions(Bucket=bucket, Delimiter="/")
    assert [one["Prefix"] for one in rolled["CommonPrefixes"]] == ["d/"]
    assert [one["Key"] for one in rolled["Versions"]] == ["a"] * 4 + ["b", "e"]


def test_emptying_a_bucket_page_by_page(s3: Any, bucket: str) -> None:
    """What every such tool does: list a page, delete it, go on from its markers; nothing is left out."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    set_versioning(s3, bucket, "Enabled")
    for number in range(5):
        put(s3, bucket, bytes([number]))
    set_versioning(s3, bucket, "Suspended")
    put(s3, bucket, b"null on top")
    s3.delete_object(Bucket=bucket, Key="other")
    marker: dict[str, str] = {}
    for _ in range(20):
        page = s3.list_object_versions(Bucket=bucket, MaxKeys=2, **marker)
        objects = [{"Key": one["Key"], "VersionId": one["VersionId"]} for one in versions(page)]
        if objects:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": objects})
        if not page["IsTruncated"]:
            break
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "VersionIdMarker": page.get("NextVersionIdMarker", ""),
        }
    assert listed(s3, bucket) == []
    s3.delete_bucket(Bucket=bucket)


def test_markers_hide_common_prefixes(s3: Any, versioned: str) -> None:
    """A prefix shows only while a visible key is below it."""
    put(s3, versioned, b"x", "gone/a")
    put(s3, versioned, b"x", "gone/b")
    put(s3, versioned, b"x", "here/a")
    put(s3, versioned, b"x", "here/b")
    for key in ("gone/a", "gone/b", "here/a"):
        s3.delete_object(Bucket=versioned, Key=key)
    page = s3.list_objects_v2(Bucket=versioned, Delimiter="/")
    assert [one["Prefix"] for one in page["CommonPrefixes"]] == ["here/"]
