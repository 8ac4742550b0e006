"""Documents in and out (s3.md 2.5, 6.2, 9): answers are read back by botocore's own parser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import RestXMLParser

from sos.catalog.model import (
    NULL_VERSION,
    BucketRecord,
    Checksum,
    ChecksumAlgorithm,
    DeleteEntry,
    KeyPage,
    ListedObject,
    Rejection,
    UploadPage,
    VersionPage,
    VersionPosition,
)
from sos.s3.errors import InvalidArgument, NoSuchKey, S3Error
from sos.s3.listing import BucketPage
from sos.s3.listing_xml import (
    encode_url,
    render_list_objects,
    render_list_objects_v2,
    render_list_versions,
)
from sos.s3.multipart_xml import render_list_uploads
from sos.s3.operations import (
    GetSubresource,
    ListBuckets,
    ListMultipartUploads,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
)
from sos.s3.subresources import render_subresource
from sos.s3.target import TRUTHFUL_ON_BUCKETS
from sos.s3.xml import (
    DeleteRequest,
    escape,
    parse_create_bucket,
    parse_delete,
    render_copy_result,
    render_delete_result,
    render_error,
    render_list_buckets,
    render_location,
)
from tests.unit.s3_support import find_operation, refusal

OWNER = "a" * 64
MODEL = ServiceModel(Loader().load_service_model("s3", "service-2"))
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'


def read(operation: str, body: bytes, status: int = 200) -> dict[str, Any]:
    """What an SDK understands."""
    assert body.startswith(DECLARATION)
    shape = MODEL.operation_model(operation).output_shape
    found: dict[str, Any] = RestXMLParser().parse(
        {"body": body, "headers": {}, "status_code": status}, shape
    )
    found.pop("ResponseMetadata", None)
    return found


def order(body: bytes) -> list[str]:
    """Names of the root's children, in order."""
    from lxml import etree

    return [etree.QName(child).localname for child in etree.fromstring(body)]


# --- requests ---------------------------------------------------------------------------------------
def test_delete_document() -> None:
    """1.1.7, 2.5: keys are XML text, in any order of elements, with or without namespace; unknown elements are ignored."""
    body = (
        f'<?xml version="1.0"?><Delete xmlns="{NAMESPACE}"><Object><ETag>"e"</ETag><Key>a%2Fb</Key></Object>'
        "<!-- c --><Quiet>true</Quiet><Object><Key> c&#13;&amp;\n</Key><VersionId>v</VersionId><X/></Object></Delete>"
    )
    assert parse_delete(body.encode()) == DeleteRequest(
        quiet=True,
        entries=(
            DeleteEntry(key="a%2Fb", etag="e"),
            DeleteEntry(key=" c\r&\n", version_id="v"),
        ),
    )
    plain = parse_delete("<Delete><Object><Key>é</Key></Object></Delete>".encode())
    assert plain == DeleteRequest(quiet=False, entries=(DeleteEntry(key="é"),))


OBJECT = "<Object><Key>k</Key></Object>"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<Delete>",
        "<Delete></Delete>",
        "<Delete><Quiet>true</Quiet></Delete>",
        f"<Remove>{OBJECT}</Remove>",
        "<Delete><Object><Key></Key></Object></Delete>",
        "<Delete><Object><VersionId>v</VersionId></Object></Delete>",
        "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
        f"<Delete>{OBJECT * 1001}</Delete>",
        f"<!DOCTYPE Delete><Delete>{OBJECT}</Delete>",
        f'<!DOCTYPE D [<!ENTITY e "x">]><Delete>{OBJECT}</Delete>',
        f'<!DOCTYPE D SYSTEM "file:///etc/passwd"><Delete>{OBJECT}</Delete>',
        "<Delete><Object><Key>&e;</Key></Object></Delete>",
        f"<Delete>{OBJECT}</Delete><Delete/>",
        "{}",
        "<Delete><Object><Key>\x01</Key></Object></Delete>",
    ],
)
def test_bad_delete_documents(body: str) -> None:
    """Section 11: 0 or over 1,000 objects, an empty Key, a DOCTYPE, unclosed, another root -> 400 MalformedXML."""
    for data in (body.encode(), body.encode("utf-16")):
        error = refusal(parse_delete, data)
        assert (error.status, error.code) == (400, "MalformedXML")


def test_a_thousand_keys_pass() -> None:
    """1.1.7: up to 1,000."""
    assert len(parse_delete(f"<Delete>{OBJECT * 1000}</Delete>".encode()).entries) == 1000


def test_delete_conditions_that_are_not_done() -> None:
    """4.3: deletes by size or time -> 501; a key over 1,024 bytes is too long here too."""
    for name in ("Size", "LastModifiedTime"):
        body = f"<Delete><Object><Key>k</Key><{name}>1</{name}></Object></Delete>"
        assert refusal(parse_delete, body.encode()).status == 501
    body = f"<Delete><Object><Key>{'k' * 1025}</Key></Object></Delete>"
    assert refusal(parse_delete, body.encode()).code == "KeyTooLongError"


def test_create_bucket_document() -> None:
    """1.1.2: an empty body, an empty constraint, a constraint; what makes another kind of bucket is refused."""
    root = "CreateBucketConfiguration"
    assert parse_create_bucket(b"") is None
    assert parse_create_bucket(f"<{root}/>".encode()) is None
    body = f'<{root} xmlns="{NAMESPACE}"><LocationConstraint>EU</LocationConstraint></{root}>'
    assert parse_create_bucket(body.encode()) == "EU"
    assert parse_create_bucket(f"<{root}><LocationConstraint/></{root}>".encode()) == ""
    assert refusal(parse_create_bucket, b"<Other/>").code == "MalformedXML"
    assert refusal(parse_create_bucket, b"junk").code == "MalformedXML"
    for name in ("Location", "Bucket", "Tags"):
        assert refusal(parse_create_bucket, f"<{root}><{name}/></{root}>".encode()).status == 501


# --- text -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain/é😀", "plain/é😀"),
        ('&<>"', "&amp;&lt;&gt;&quot;"),
        ("a\rb\nc\td", "a&#13;b\nc\td"),
        ("\x00\x01\x1f", "&#x0;&#x1;&#x1f;"),
        ("\ufffe\uffff", "&#xfffe;&#xffff;"),
        ("'", "'"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    """2.5: ``& < > "``, CR, and what XML 1.0 forbids, as AWS writes it."""
    assert escape(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b-c_d.e*f", "a/b-c_d.e*f"),
        ("a b+c", "a+b%2Bc"),
        ("é\x01&<", "%C3%A9%01%26%3C"),
        ("100%", "100%25"),
    ],
)
def test_encode_url(text: str, expected: str) -> None:
    """6.1: UTF-8 percent, space as ``+``, ``+`` as ``%2B``; ``/ - _ . *`` kept."""
    assert encode_url(text) == expected


# --- errors -----------------------------------------------------------------------------------------
def render(error: S3Error, resource: str = "/b/k") -> str:
    body = render_error(error, resource=resource, request_id="R", host_id="H")
    assert body.startswith(DECLARATION)
    return body.decode().partition("?>\n")[2]


def test_error_documents() -> None:
    """9: Code, Message, fields in order, Resource unless BucketName or Key say it, RequestId, HostId; no namespace."""
    assert render(InvalidArgument("n", "<v>", message="m")) == (
        "<Error><Code>InvalidArgument</Code><Message>m</Message><ArgumentName>n</ArgumentName>"
        "<ArgumentValue>&lt;v&gt;</ArgumentValue><Resource>/b/k</Resource><RequestId>R</RequestId><HostId>H</HostId></Error>"
    )
    assert render(NoSuchKey("k\x01")) == (
        "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>k&#x1;</Key>"
        "<RequestId>R</RequestId><HostId>H</HostId></Error>"
    )


def test_error_documents_hold_any_input() -> None:
    """Bytes that are not UTF-8 in a target must not make the error itself fail."""
    assert "\ufffd" in render(InvalidArgument("n", "\udcff"), "/b/\udcff")


# --- answers ----------------------------------------------------------------------------------------
def listed(*keys: str) -> list[ListedObject]:
    algorithms = list(ChecksumAlgorithm)
    return [
        ListedObject(key, number, f"{number:032x}", 1_760_000_000_999, algorithms[number % 5])
        for number, key in enumerate(keys)
    ]


PAGE = KeyPage(
    objects=listed("a", "b&\x0b", "z"), common_prefixes=["p q/"], last="z", truncated=True
)
LAST = KeyPage(objects=listed("a"), common_prefixes=[], last="a", truncated=False)


def v2(query: str) -> ListObjectsV2:
    operation = find_operation("GET", f"/buk?list-type=2&{query}")
    assert isinstance(operation, ListObjectsV2)
    return operation


def test_list_objects_v2() -> None:
    """6.2: order and content of a V2 page."""
    operation = v2(
        "prefix=&delimiter=%20&start-after=s&continuation-token=t&encoding-type=url&fetch-owner=true"
    )
    body = render_list_objects_v2(operation, PAGE, owner_id=OWNER, next_token="n")
    assert order(body) == [
        *("Name", "Prefix", "StartAfter", "ContinuationToken", "NextContinuationToken", "KeyCount"),
        *("MaxKeys", "Delimiter", "EncodingType", "IsTruncated"),
        *("Contents", "Contents", "Contents", "CommonPrefixes"),
    ]
    found = read("ListObjectsV2", body)
    assert found["KeyCount"] == 4
    assert (found["IsTruncated"], found["NextContinuationToken"]) == (True, "n")
    assert found["Contents"][1]["Key"] == "b%26%0B"
    assert found["CommonPrefixes"] == [{"Prefix": "p+q/"}]
    first = found["Contents"][0]
    assert first["ETag"] == '"00000000000000000000000000000000"'
    assert first["LastModified"].isoformat() == "2025-10-09T08:53:20+00:00"
    assert first["Owner"] == {"ID": OWNER}
    assert (first["Size"], first["StorageClass"]) == (0, "STANDARD")
    names = [one["ChecksumAlgorithm"] for one in found["Contents"]]
    assert names == [["CRC32"], ["CRC32C"], ["CRC64NVME"]]
    assert body.count(b"\xc3") == 0
    assert b"2025-10-09T08:53:20.000Z" in body


def test_list_objects_v2_leaves_out_what_was_not_asked() -> None:
    """6.1: Delimiter, StartAfter, tokens, EncodingType and Owner only if given; Prefix always."""
    body = render_list_objects_v2(v2(""), LAST, owner_id=OWNER, next_token=None)
    assert order(body) == ["Name", "Prefix", "KeyCount", "MaxKeys", "IsTruncated", "Contents"]
    assert b"Owner" not in body
    assert body.startswith(
        DECLARATION + f'\n<ListBucketResult xmlns="{NAMESPACE}"><Name>buk</Name>'.encode()
    )


def test_page_of_nothing() -> None:
    """6.1: ``max-keys=0`` -> 200, no entries, IsTruncated false."""
    nothing = KeyPage(objects=[], common_prefixes=[], last=None, truncated=False)
    body = render_list_objects_v2(v2("max-keys=0"), nothing, owner_id=OWNER, next_token=None)
    found = read("ListObjectsV2", body)
    assert (found["KeyCount"], found["MaxKeys"], found["IsTruncated"]) == (0, 0, False)


def test_odd_keys_in_a_plain_list() -> None:
    """2.5: without ``encoding-type`` characters that XML forbids are written as AWS does."""
    body = render_list_objects_v2(v2(""), PAGE, owner_id=OWNER, next_token="n")
    assert b"<Key>b&amp;&#xb;</Key>" in body


@pytest.mark.parametrize(
    ("query", "page", "shown"),
    [("", PAGE, False), ("delimiter=/", PAGE, True), ("delimiter=/", LAST, False)],
)
def test_list_objects_v1(query: str, page: KeyPage, shown: bool) -> None:
    """6.1, 6.2: Marker always; NextMarker only when truncated and a delimiter was given; Owner always."""
    operation = find_operation("GET", f"/buk?encoding-type=url&{query}")
    assert isinstance(operation, ListObjects)
    body = render_list_objects(operation, page, owner_id=OWNER)
    found = read("ListObjects", body)
    assert found["Marker"] == ""
    assert found.get("NextMarker") == ("z" if shown else None)
    assert found["Contents"][0]["Owner"] == {"ID": OWNER}
    expected = ["Name", "Prefix", "Marker", *(["NextMarker"] if shown else []), "MaxKeys"]
    assert order(body)[: len(expected)] == expected


def test_list_versions() -> None:
    """1.4, 6.5: each key is its one version ``null``, the latest."""
    operation = find_operation(
        "GET", "/buk?versions&key-marker=a&version-id-marker=null&encoding-type=url"
    )
    assert isinstance(operation, ListObjectVersions)
    page = VersionPage(
        versions=PAGE.objects,
        is_latest=[True] * len(PAGE.objects),
        common_prefixes=PAGE.common_prefixes,
        last=VersionPosition(key="z", version=NULL_VERSION),
        truncated=True,
    )
    body = render_list_versions(operation, page, owner_id=OWNER, id_of=str, next_id="null")
    found = read("ListObjectVersions", body)
    assert [one["VersionId"] for one in found["Versions"]] == ["null"] * 3
    assert all(one["IsLatest"] for one in found["Versions"])
    assert (found["KeyMarker"], found["VersionIdMarker"]) == ("a", "null")
    assert (found["NextKeyMarker"], found["NextVersionIdMarker"]) == ("z", "null")
    assert found["CommonPrefixes"] == [{"Prefix": "p+q/"}]
    at_prefix = replace(page, last=VersionPosition(key="p/"))
    body = render_list_versions(operation, at_prefix, owner_id=OWNER, id_of=str, next_id=None)
    found = read("ListObjectVersions", body)
    assert (found["NextKeyMarker"], found.get("NextVersionIdMarker")) == ("p/", None)


def test_list_multipart_uploads() -> None:
    """Markers are always present (6.6)."""
    operation = find_operation("GET", "/buk?uploads&prefix=p&delimiter=/&max-uploads=3")
    assert isinstance(operation, ListMultipartUploads)
    page = UploadPage(
        uploads=[], common_prefixes=[], last_key="", last_upload=None, truncated=False
    )
    body = render_list_uploads(operation, page, owner_id=OWNER)
    found = read("ListMultipartUploads", body)
    assert found == {
        "Bucket": "buk",
        "KeyMarker": "",
        "UploadIdMarker": "",
        "Prefix": "p",
        "Delimiter": "/",
        "MaxUploads": 3,
        "IsTruncated": False,
    }


@pytest.mark.parametrize("shows_region", [True, False])
def test_list_buckets(shows_region: bool) -> None:
    """1.1.3: Name, CreationDate, BucketArn; region and Prefix when any parameter was given."""
    record = BucketRecord(
        name="buk", created_ms=1_760_000_000_000, object_count=0, size_bytes=0, bucket_id=1
    )
    operation = ListBuckets(
        prefix="b",
        continuation_token="",
        bucket_region=None,
        max_buckets=1,
        shows_region=shows_region,
    )
    page = BucketPage(buckets=(record,), next_token="n" if shows_region else None)
    body = render_list_buckets(operation, page, owner_id=OWNER, region="eu-x-1")
    found = read("ListBuckets", body)
    assert found["Owner"] == {"ID": OWNER}
    assert found["Buckets"][0]["Name"] == "buk"
    assert found["Buckets"][0]["BucketArn"] == "arn:aws:s3:::buk"
    assert found["Buckets"][0].get("BucketRegion") == ("eu-x-1" if shows_region else None)
    assert found.get("Prefix") == ("b" if shows_region else None)
    assert found.get("ContinuationToken") == ("n" if shows_region else None)


def test_location() -> None:
    """1.1: an empty element for us-east-1."""
    assert read("GetBucketLocation", render_location("us-east-1")) == {}
    assert b">eu-x-1</LocationConstraint>" in render_location("eu-x-1")


def test_copy_result() -> None:
    """1.1: LastModified, ETag, checksum."""
    checksum = Checksum(algorithm=ChecksumAlgorithm.CRC32, digest=bytes(4))
    body = render_copy_result(etag="e", modified_ms=1_760_000_000_000, checksum=checksum)
    found = read("CopyObject", body)["CopyObjectResult"]
    assert (found["ETag"], found["ChecksumCRC32"]) == ('"e"', "AAAAAA==")
    assert found["ChecksumType"] == "FULL_OBJECT"
    assert b"<ETag>&quot;e&quot;</ETag>" in body


@pytest.mark.parametrize("quiet", [True, False])
def test_delete_result(quiet: bool) -> None:
    """1.1.7: in request order; ``Quiet`` leaves only errors."""
    request = DeleteRequest(
        quiet=quiet,
        entries=(
            DeleteEntry(key="a\r"),
            DeleteEntry(key="b", etag="x"),
            DeleteEntry(key="c", version_id="v"),
            DeleteEntry(key="d", version_id="null"),
        ),
    )
    outcomes = [None, Rejection.PRECONDITION_FAILED_IF_MATCH, Rejection.NO_SUCH_VERSION, None]
    body = render_delete_result(request, outcomes, str)
    found = read("DeleteObjects", body)
    errors = [(one["Key"], one.get("VersionId"), one["Code"]) for one in found["Errors"]]
    assert errors == [("b", None, "PreconditionFailed"), ("c", "v", "NoSuchVersion")]
    deleted = [{"Key": "a\r"}, {"Key": "d", "VersionId": "null"}]
    assert found.get("Deleted") == (None if quiet else deleted)


# --- configurations that are not there --------------------------------------------------------------
TRUTH: dict[str, tuple[int, str]] = {  # s3.md 1.4
    "accelerate": (200, "AccelerateConfiguration"),
    "acl": (200, "AccessControlPolicy"),
    "analytics": (200, "ListBucketAnalyticsConfigurationResult"),
    "encryption": (404, "ServerSideEncryptionConfigurationNotFoundError"),
    "intelligent-tiering": (200, "ListBucketIntelligentTieringConfigurationsOutput"),
    "inventory": (200, "ListInventoryConfigurationsResult"),
    "lifecycle": (404, "NoSuchLifecycleConfiguration"),
    "logging": (200, "BucketLoggingStatus"),
    "metrics": (200, "ListMetricsConfigurationsResult"),
    "notification": (200, "NotificationConfiguration"),
    "object-lock": (404, "ObjectLockConfigurationNotFoundError"),
    "ownershipControls": (404, "OwnershipControlsNotFoundError"),
    "policy": (404, "NoSuchBucketPolicy"),
    "policyStatus": (404, "NoSuchBucketPolicy"),
    "publicAccessBlock": (404, "NoSuchPublicAccessBlockConfiguration"),
    "replication": (404, "ReplicationConfigurationNotFoundError"),
    "requestPayment": (200, "RequestPaymentConfiguration"),
    "website": (404, "NoSuchWebsiteConfiguration"),
}


def subresource(target: str) -> GetSubresource:
    operation = find_operation("GET", target)
    assert isinstance(operation, GetSubresource)
    return operation


@pytest.mark.parametrize("selector", sorted(TRUTHFUL_ON_BUCKETS - {"uploads"}))
def test_truth_about_buckets(selector: str) -> None:
    """1.4: what is not configured is told as AWS tells it."""
    status, name = TRUTH[selector]
    operation = subresource(f"/buk?{selector}")
    if status == 200:
        body = render_subresource(operation, owner_id=OWNER)
        assert f'<{name} xmlns="{NAMESPACE}">'.encode() in body
    else:
        error = refusal(render_subresource, operation, owner_id=OWNER)
        assert (error.status, error.code, error.fields) == (404, name, (("BucketName", "buk"),))


def test_contents_of_the_truth() -> None:
    """1.4: fixed answers, read back by an SDK."""

    def fetch(operation: str, target: str) -> dict[str, Any]:
        return read(operation, render_subresource(subresource(target), owner_id=OWNER))

    acl = fetch("GetObjectAcl", "/buk/k?acl")
    assert acl["Owner"] == {"ID": OWNER}
    assert acl["Grants"] == [
        {"Grantee": {"ID": OWNER, "Type": "CanonicalUser"}, "Permission": "FULL_CONTROL"}
    ]
    assert fetch("GetBucketRequestPayment", "/buk?requestPayment") == {"Payer": "BucketOwner"}
    assert fetch("ListBucketInventoryConfigurations", "/buk?inventory") == {"IsTruncated": False}


def test_truth_about_one_configuration_and_locks() -> None:
    """A named configuration does not exist; an object's lock needs a bucket with locks (1.3)."""
    operation = subresource("/buk?inventory&id=x")
    error = refusal(render_subresource, operation, owner_id=OWNER)
    assert (error.status, error.code) == (404, "NoSuchConfiguration")
    for selector in ("retention", "legal-hold"):
        operation = subresource(f"/buk/k?{selector}")
        error = refusal(render_subresource, operation, owner_id=OWNER)
        assert (error.status, error.code) == (400, "InvalidRequest")
