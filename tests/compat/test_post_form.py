"""Browser forms, made by boto3 as a web application makes them, over HTTP, TLS and three nodes in turn (s3.md 3.5)."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.client
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest

from tests.compat.conftest import Site
from tests.compat.test_multipart import Turns, data_of, read

BOUNDARY = "----sos-form-7MA4YWxkTrZu0gW"


@pytest.fixture
def s3(site: Site) -> Iterator[Any]:
    turns = Turns(site)
    yield turns
    for client in turns.clients:
        client.close()


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.body = answer.read()

    @property
    def code(self) -> str:
        return (ElementTree.fromstring(self.body).findtext("Code") or "") if self.body else ""


def form(
    fields: Mapping[str, str],
    file: bytes | None = b"content",
    *,
    name: str = "a file.txt",
    end: bool = True,
) -> bytes:
    """The body that a browser sends."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    if file is not None:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain\r\n\r\n'
        parts.append(head.encode() + file + b"\r\n")
        if end:
            parts.append(
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="submit"\r\n\r\nUpload\r\n'.encode()
            )
    if end:
        parts.append(f"--{BOUNDARY}--\r\n".encode())
    return b"".join(parts)


def send(site: Site, bucket: str, body: bytes, content_type: str = "") -> Answer:
    parts = urlsplit(site.url())
    assert parts.hostname is not None
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=20, context=site.client_tls
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    kind = content_type or f"multipart/form-data; boundary={BOUNDARY}"
    connection.request("POST", f"/{bucket}", body=body, headers={"Content-Type": kind})
    answer = Answer(connection.getresponse())
    connection.close()
    return answer


def signed(s3: Any, bucket: str, key: str = "up/${filename}", **more: Any) -> dict[str, str]:
    fields: dict[str, str] = s3.generate_presigned_post(bucket, key, **more)["fields"]
    return fields


@pytest.mark.parametrize("size", [0, 5, 16_384, 100_000, 3_000_001])
def test_a_form_stores_its_file(site: Site, s3: Any, bucket: str, size: int) -> None:
    """Whatever its size; the file name of the browser goes into the key; what follows the file is ignored."""
    data = data_of(size) + b"\r\n--" + BOUNDARY.encode()[:10]  # looks like the end, and is not
    answer = send(site, bucket, form(signed(s3, bucket), data, name="C:\\dir\\ä b.txt"))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["ETag"] == f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
    assert read(s3, bucket, "up/ä b.txt") == data


def test_fields_are_stored(site: Site, s3: Any, bucket: str) -> None:
    """Headers, metadata and tags, as with a PUT."""
    extra = {
        "Content-Type": "image/png",
        "x-amz-meta-who": "me",
        "tagging": "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>",
    }
    fields = signed(
        s3, bucket, "k", Fields=extra, Conditions=[{name: value} for name, value in extra.items()]
    )
    assert send(site, bucket, form(fields)).status == 204
    head = s3.head_object(Bucket=bucket, Key="k")
    assert (head["ContentType"], head["Metadata"]) == ("image/png", {"who": "me"})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1"}]


@pytest.mark.parametrize(
    ("asked", "given"), [("200", 200), ("201", 201), ("204", 204), ("404", 204)]
)
def test_the_status_that_was_asked_for(
    site: Site, s3: Any, bucket: str, asked: str, given: int
) -> None:
    """200, 201 with a document, else 204."""
    more = {"success_action_status": asked}
    fields = signed(s3, bucket, "k", Fields=more, Conditions=[more])
    answer = send(site, bucket, form(fields))
    assert answer.status == given
    assert answer.headers["Location"].endswith(f"/{bucket}/k")
    if given == 201:
        root = ElementTree.fromstring(answer.body)
        assert [child.tag.rpartition("}")[2] for child in root] == [
            "Location",
            "Bucket",
            "Key",
            "ETag",
        ]


def test_a_redirect_says_what_was_stored(site: Site, s3: Any, bucket: str) -> None:
    """303 with bucket, key and ETag appended."""
    more = {"success_action_redirect": "http://localhost/done?x=1"}
    answer = send(site, bucket, form(signed(s3, bucket, "k", Fields=more, Conditions=[more])))
    assert answer.status == 303
    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert (query["x"], query["bucket"], query["key"]) == (["1"], [bucket], ["k"])


def own_policy(s3: Any, bucket: str, document: object) -> dict[str, str]:
    """A right signature over a policy of our own: boto3 makes only right ones."""
    fields = signed(s3, bucket, "k")
    text = document if isinstance(document, str) else json.dumps(document)
    client = s3.clients[0]
    fields["policy"] = base64.b64encode(text.encode()).decode()
    keys = client._request_signer._credentials
    date = fields["x-amz-date"][:8]

    key = b"AWS4" + keys.secret_key.encode()
    for part in (date, "us-east-1", "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    fields["x-amz-signature"] = hmac.digest(key, fields["policy"].encode(), "sha256").hex()
    return fields


def test_what_a_policy_does_not_allow(site: Site, s3: Any, bucket: str) -> None:
    """Section 11: 403 with nothing stored; sizes 400."""
    good = signed(s3, bucket, "up/${filename}", Conditions=[["content-length-range", 5, 10]])
    for change, status, code in (
        ({"key": "down/x"}, 403, "AccessDenied"),
        ({"x-amz-meta-more": "1"}, 403, "AccessDenied"),
        ({"x-amz-signature": "0" * 64}, 403, "SignatureDoesNotMatch"),
        (
            {"x-amz-credential": good["x-amz-credential"].replace("/", "X/", 1)},
            403,
            "InvalidAccessKeyId",
        ),
        ({"x-amz-algorithm": "AWS4-ECDSA"}, 400, "InvalidRequest"),
        ({"AWSAccessKeyId": "x"}, 400, "InvalidRequest"),
    ):
        answer = send(site, bucket, form({**good, **change}))
        assert (answer.status, answer.code) == (status, code), change
    assert send(site, bucket, form(good, b"1234")).code == "EntityTooSmall"
    assert send(site, bucket, form(good, b"x" * 11)).code == "EntityTooLarge"
    expired = {"expiration": "2020-01-01T00:00:00Z", "conditions": [{"bucket": bucket}]}
    assert send(site, bucket, form(own_policy(s3, bucket, expired))).code == "AccessDenied"
    assert send(site, bucket, form({"key": "k"})).code == "AccessDenied"  # nothing signed
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_policies_that_are_none(site: Site, s3: Any, bucket: str) -> None:
    """Section 11: not base64 or JSON, no expiration, no conditions."""
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).isoformat()
    documents: tuple[object, ...] = (
        "not json",
        "[]",
        {"conditions": []},
        {"expiration": soon},
        {"expiration": "soon", "conditions": []},
        {"expiration": soon, "conditions": [["like", "$key", "a"]]},
        {"expiration": soon, "conditions": [{"key": 5}]},
        {"expiration": soon, "conditions": [["content-length-range", "a", "b"]]},
        {"expiration": soon, "conditions": [["content-length-range", 0, float("inf")]]},
        {"expiration": soon, "conditions": [["eq", "$key", "\ud800"]]},  # half a character
    )
    for document in documents:
        answer = send(site, bucket, form(own_policy(s3, bucket, document)))
        assert (answer.status, answer.code) == (400, "InvalidPolicyDocument"), document


def test_forms_that_cannot_be_read(site: Site, s3: Any, bucket: str) -> None:
    """Section 11: no key, a field of the signature missing, no file, too large, unreadable, cut off."""
    fields = signed(s3, bucket, "k")
    without = {name: value for name, value in fields.items() if name != "x-amz-date"}
    big = {**fields, "x-ignore-me": "x" * 21_000}
    for body, status, code in (
        (form({"x": "y"}), 400, "InvalidArgument"),
        (form(without), 400, "InvalidArgument"),
        (form(fields, None), 400, "InvalidArgument"),
        (form(big), 400, "MaxPostPreDataLengthExceededError"),
        (b"nonsense" * 20, 400, "MalformedPOSTRequest"),
        (form(fields, b"x" * 100, end=False), 400, "MalformedPOSTRequest"),
        (b"--" + BOUNDARY.encode(), 400, "MalformedPOSTRequest"),
    ):
        answer = send(site, bucket, body)
        assert (answer.status, answer.code) == (status, code)
    assert send(site, bucket, form(fields), "multipart/form-data").code == "MalformedPOSTRequest"
    assert (
        send(site, "no-such-bucket-anywhere", form(signed(s3, "no-such-bucket-anywhere", "k"))).code
        == "NoSuchBucket"
    )
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_fields_that_no_header_could_hold(site: Site, s3: Any, bucket: str) -> None:
    """Section 11: CR, LF or NUL in metadata; such an object could not be read again. 501 as for a PUT."""
    refused = (
        ("Content-Type", "a/b\r\nX-Evil: 1", 400, "InvalidArgument"),
        ("x-amz-meta-a", "b\nc", 400, "InvalidArgument"),
        ("x-amz-meta-a", "b\0c", 400, "InvalidArgument"),
        ("x-amz-meta-a b", "c", 400, "InvalidArgument"),
        ("x-amz-meta-\n", "c", 400, "InvalidArgument"),
        ("x-amz-server-side-encryption", "AES256", 501, "NotImplemented"),
        ("x-amz-website-redirect-location", "/x", 501, "NotImplemented"),
        ("x-amz-object-lock-mode", "COMPLIANCE", 501, "NotImplemented"),
    )
    for name, value, status, code in refused:
        more = {name: value}
        answer = send(site, bucket, form(signed(s3, bucket, "k", Fields=more, Conditions=[more])))
        assert (answer.status, answer.code) == (status, code), name
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_redirect_to_nowhere_is_ignored(site: Site, s3: Any, bucket: str) -> None:
    """What was stored is answered as stored."""
    for redirect in ("http://[", "javascript:alert(1)", "http://x/\r\nX-Evil: 1"):
        more = {"success_action_redirect": redirect}
        answer = send(site, bucket, form(signed(s3, bucket, "k", Fields=more, Conditions=[more])))
        assert answer.status == 204, redirect
        assert "X-Evil" not in answer.headers


def test_two_files(site: Site, s3: Any, bucket: str) -> None:
    """Section 11: refused, and the first one is not stored either."""
    first = form(signed(s3, bucket, "k"))
    body = first.removesuffix(f"--{BOUNDARY}--\r\n".encode()) + form({}, b"second")
    answer = send(site, bucket, body)
    assert (answer.status, answer.code) == (400, "InvalidArgument")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
