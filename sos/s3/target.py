"""Which operation a request names, by host, path, method and query alone: what can be told before authentication.

Source: s3.md 1.4, 2.1-2.4 (order of checks: step 2 of 1.0). Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from sos.catalog.model import BucketSetting
from sos.limits import KEY_BYTES_MAX
from sos.s3.errors import (
    BadRequest,
    InvalidArgument,
    InvalidBucketName,
    KeyTooLongError,
    MethodNotAllowed,
    PreconditionFailed,
)
from sos.s3.head import RequestHead, percent_decode


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """The settings ``s3.*`` that parsing depends on. ``domains`` are lower case, without a port."""

    region: str = "us-east-1"
    domains: tuple[str, ...] = ()
    scheme: str = "http"  # of the S3 port, for the locations that answers name
    superset: bool = False  # also accept what RFC 9110 and 9112 allow and AWS refuses (s3.md 0)


class Kind(Enum):
    """What a request asks for; ``parsing.parse_operation`` turns it into one dataclass."""

    LIST_BUCKETS = "ListBuckets"
    CREATE_BUCKET = "CreateBucket"
    HEAD_BUCKET = "HeadBucket"
    DELETE_BUCKET = "DeleteBucket"
    GET_BUCKET_LOCATION = "GetBucketLocation"
    LIST_OBJECTS = "ListObjects"
    LIST_OBJECTS_V2 = "ListObjectsV2"
    LIST_OBJECT_VERSIONS = "ListObjectVersions"
    GET_BUCKET_SETTING = "GetBucketSetting"
    PUT_BUCKET_SETTING = "PutBucketSetting"
    DELETE_BUCKET_SETTING = "DeleteBucketSetting"
    GET_OBJECT_TAGGING = "GetObjectTagging"
    PUT_OBJECT_TAGGING = "PutObjectTagging"
    DELETE_OBJECT_TAGGING = "DeleteObjectTagging"
    GET_OBJECT_ATTRIBUTES = "GetObjectAttributes"
    POST_OBJECT = "PostObject"
    PREFLIGHT = "Preflight"  # OPTIONS: without authentication
    GET_BUCKET_VERSIONING = "GetBucketVersioning"
    PUT_BUCKET_VERSIONING = "PutBucketVersioning"
    LIST_MULTIPART_UPLOADS = "ListMultipartUploads"
    DELETE_OBJECTS = "DeleteObjects"
    CREATE_MULTIPART_UPLOAD = "CreateMultipartUpload"
    UPLOAD_PART = "UploadPart"  # or UploadPartCopy: a header decides
    LIST_PARTS = "ListParts"
    COMPLETE_MULTIPART_UPLOAD = "CompleteMultipartUpload"
    ABORT_MULTIPART_UPLOAD = "AbortMultipartUpload"
    PUT_OBJECT = "PutObject"  # or CopyObject: a header decides
    GET_OBJECT = "GetObject"
    HEAD_OBJECT = "HeadObject"
    DELETE_OBJECT = "DeleteObject"
    GET_SUBRESOURCE = "GetSubresource"
    DELETE_SUBRESOURCE = "DeleteSubresource"
    UNSUPPORTED = "Unsupported"  # 501, after authentication


class Resource(Enum):
    """S3's resource types, as MethodNotAllowed names them."""

    SERVICE = "SERVICE"
    BUCKET = "BUCKET"
    OBJECT = "OBJECT"


class Target(NamedTuple):
    """The resource and the operation; a named tuple: one per request, on the hot path. ``bucket`` and ``key`` are decoded; empty where there is none.

    ``selector``: the sub-resource (``?acl``), empty for none.
    """

    kind: Kind
    resource: Resource
    bucket: str = ""
    key: str = ""
    selector: str = ""


# Selectors whose GET has a truthful answer (s3.md 1.4), on the resource named here.
TRUTHFUL_ON_BUCKETS: Final = frozenset(
    {
        *("accelerate", "acl", "analytics", "encryption", "intelligent-tiering"),
        *("inventory", "lifecycle", "logging", "metrics", "notification", "object-lock"),
        *("ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication"),
        *("requestPayment", "website"),
    }
)
TRUTHFUL_ON_OBJECTS: Final = frozenset({"acl", "retention", "legal-hold"})
# Refused with any method: features of later waves, and the rest of the AWS model.
REFUSED_ON_BUCKETS: Final = frozenset(
    {
        *("session", "abac", "metadataTable", "metadataConfiguration"),
        *("metadataInventoryTable", "metadataJournalTable", "metadataAnnotationTable"),
    }
)
REFUSED_ON_OBJECTS: Final = frozenset(
    {
        *("annotation", "encryption", "renameObject", "restore"),
        *("select", "torrent"),
    }
)
_OWN_ON_BUCKETS: Final = frozenset(
    {"cors", "delete", "location", "tagging", "uploads", "versioning", "versions"}
)
_OBJECT_SELECTORS: Final = (
    TRUTHFUL_ON_OBJECTS | REFUSED_ON_OBJECTS | {"uploadId", "tagging", "attributes"}
)
# Configuration documents that can be set; the S3 layer has their forms (``handlers/settings``).
SETTINGS: Final = {"tagging": BucketSetting.TAGGING, "cors": BucketSetting.CORS}
_OF_SETTING: Final = {
    "GET": Kind.GET_BUCKET_SETTING,
    "PUT": Kind.PUT_BUCKET_SETTING,
    "DELETE": Kind.DELETE_BUCKET_SETTING,
}
_OF_OBJECT: Final = {
    ("GET", "tagging"): Kind.GET_OBJECT_TAGGING,
    ("PUT", "tagging"): Kind.PUT_OBJECT_TAGGING,
    ("DELETE", "tagging"): Kind.DELETE_OBJECT_TAGGING,
    ("GET", "attributes"): Kind.GET_OBJECT_ATTRIBUTES,
}
_CONFIGURED: Final = {
    ("GET", "versioning"): Kind.GET_BUCKET_VERSIONING,
    ("PUT", "versioning"): Kind.PUT_BUCKET_VERSIONING,
}
_OF_UPLOAD: Final = {
    "PUT": Kind.UPLOAD_PART,
    "GET": Kind.LIST_PARTS,
    "POST": Kind.COMPLETE_MULTIPART_UPLOAD,
    "DELETE": Kind.ABORT_MULTIPART_UPLOAD,
}
SELECTORS: Final = TRUTHFUL_ON_BUCKETS | REFUSED_ON_BUCKETS | _OWN_ON_BUCKETS | _OBJECT_SELECTORS

_ALLOW: Final = {
    Resource.SERVICE: "GET",
    Resource.BUCKET: "GET, HEAD, PUT, POST, DELETE",
    Resource.OBJECT: "GET, HEAD, PUT, DELETE",
}
_PLAIN_BUCKET: Final = {
    "PUT": Kind.CREATE_BUCKET,
    "HEAD": Kind.HEAD_BUCKET,
    "DELETE": Kind.DELETE_BUCKET,
}
_PLAIN_OBJECT: Final = {
    "PUT": Kind.PUT_OBJECT,
    "GET": Kind.GET_OBJECT,
    "HEAD": Kind.HEAD_OBJECT,
    "DELETE": Kind.DELETE_OBJECT,
}

_BUCKET_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET_NAME_CHARS_MAX: Final = 63
_BAD_DOTS: Final = re.compile(r"\.\.|\.-|-\.")
_IPV4_FORM: Final = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)
_RESERVED_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_SUFFIXES: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


def is_bucket_name(name: str) -> bool:
    """Whether a bucket of this name can exist (UG: bucketnamingrules; s3.md 1.1.2)."""
    return len(name) <= _BUCKET_NAME_CHARS_MAX and _is_bucket_name(name)


@lru_cache(maxsize=4096)
def _is_bucket_name(name: str) -> bool:
    return (
        _BUCKET_NAME.fullmatch(name) is not None
        and _BAD_DOTS.search(name) is None
        and _IPV4_FORM.fullmatch(name) is None
        and not name.startswith(_RESERVED_PREFIXES)
        and not name.endswith(_RESERVED_SUFFIXES)
    )


def parse_target(head: RequestHead, settings: S3Settings) -> Target:
    """Name the operation (s3.md 1.0, step 2).

    Raises: InvalidURI, KeyTooLongError, InvalidBucketName, InvalidArgument (two selectors), MethodNotAllowed,
    PreconditionFailed (POST on a bucket), BadRequest (OPTIONS without an origin).
    """
    bucket, key = _split_path(head, settings)
    if key and len(key) * 4 > KEY_BYTES_MAX:
        size_bytes = len(key.encode())
        if size_bytes > KEY_BYTES_MAX:
            raise KeyTooLongError(str(size_bytes), str(KEY_BYTES_MAX))
    resource = Resource.OBJECT if key else Resource.BUCKET if bucket else Resource.SERVICE
    if head.method == "OPTIONS":
        if "origin" not in head.headers:
            raise BadRequest(message="Insufficient information. Origin request header needed.")
        return Target(kind=Kind.PREFLIGHT, resource=resource, bucket=bucket, key=key)
    selector = _selector(head) if head.params else ""
    if resource is Resource.SERVICE:
        if head.method != "GET":
            raise not_allowed(head.method, resource)
        return Target(kind=Kind.LIST_BUCKETS, resource=resource)
    if selector:
        return _select(head.method, bucket, key, selector)
    if resource is Resource.OBJECT:
        kind = _PLAIN_OBJECT.get(head.method)
        if kind is None:
            raise not_allowed(head.method, resource)
        return Target(kind=kind, resource=resource, bucket=bucket, key=key)
    return Target(kind=_bucket_kind(head), resource=resource, bucket=bucket)


def not_allowed(method: str, resource: Resource, allow: str = "") -> MethodNotAllowed:
    """405 with the ``Allow`` header that RFC 9110, 15.5.6 demands."""
    headers = (("Allow", allow or _ALLOW[resource]),)
    return MethodNotAllowed(method, resource.value, headers=headers)


def host_bucket(host: str, domains: tuple[str, ...]) -> str:
    """The bucket that a virtual-host style ``Host`` names, else an empty string (s3.md 2.1)."""
    name = host.lower()
    if not name.endswith("]"):  # an IPv6 literal without a port
        name = name.rpartition(":")[0] or name
    for domain in domains:
        if name.endswith(domain) and name[: -len(domain)].endswith("."):
            return name[: -len(domain) - 1]
    return ""


def _split_path(head: RequestHead, settings: S3Settings) -> tuple[str, str]:
    """Bucket and key, decoded once. ``/b`` and ``/b/`` are the bucket; ``/b//x`` is the key ``/x``."""
    path = head.path[1:]
    if settings.domains:
        bucket = host_bucket(head.headers.get("host", ""), settings.domains)
        if bucket:
            return bucket, percent_decode(path)
    raw_bucket, slash, raw_key = path.partition("/")
    if not raw_bucket and slash:
        raise InvalidBucketName("")
    return percent_decode(raw_bucket), percent_decode(raw_key)


def _selector(head: RequestHead) -> str:
    """The one selector in the query, or an empty string. Raises: InvalidArgument for two."""
    found = [name for name in head.params if name in SELECTORS]
    if len(found) > 1:
        raise InvalidArgument(
            "ResourceType",
            found[0],
            message=f"Conflicting query string parameters: {', '.join(found)}",
        )
    return found[0] if found else ""


def _bucket_kind(head: RequestHead) -> Kind:
    """The operation on a bucket without a selector."""
    if head.method == "GET":
        v2 = head.params.get("list-type") == "2"
        return Kind.LIST_OBJECTS_V2 if v2 else Kind.LIST_OBJECTS
    if head.method == "POST":
        if head.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return Kind.POST_OBJECT  # its fields say who sent it
        raise PreconditionFailed("Bucket POST must be of the enclosure-type multipart/form-data")
    kind = _PLAIN_BUCKET.get(head.method)
    if kind is None:
        raise not_allowed(head.method, Resource.BUCKET)
    return kind


def _select(method: str, bucket: str, key: str, selector: str) -> Target:
    """The operation on a sub-resource. A bucket's selector on a key path is answered for the bucket (seen)."""
    if (
        key
        and selector not in _OBJECT_SELECTORS
        and not (method == "POST" and selector == "uploads")
    ):
        key = ""
    resource = Resource.OBJECT if key else Resource.BUCKET
    kind = _select_kind(method, resource, selector)
    return Target(kind=kind, resource=resource, bucket=bucket, key=key, selector=selector)


def _select_kind(method: str, resource: Resource, selector: str) -> Kind:
    if method not in ("GET", "PUT", "POST", "DELETE"):  # HEAD with any selector, too (s3.md 1.4)
        raise not_allowed(method, resource, "GET, PUT, POST, DELETE")
    if resource is Resource.BUCKET:
        if selector == "delete":
            return _only("POST", method, resource, Kind.DELETE_OBJECTS)
        if selector == "location":
            return _only("GET", method, resource, Kind.GET_BUCKET_LOCATION)
        if selector == "versions" and method in ("GET", "DELETE"):
            return _only("GET", method, resource, Kind.LIST_OBJECT_VERSIONS)
        if selector == "uploads" and method == "GET":
            return Kind.LIST_MULTIPART_UPLOADS
        if (method, selector) in _CONFIGURED:
            return _CONFIGURED[method, selector]
        if selector in SETTINGS and method in _OF_SETTING:
            return _OF_SETTING[method]
        truthful = selector in TRUTHFUL_ON_BUCKETS
    else:
        if selector == "uploadId":
            return _OF_UPLOAD[method]
        if selector == "uploads":  # POST: with another method it was answered for the bucket
            return Kind.CREATE_MULTIPART_UPLOAD
        if (method, selector) in _OF_OBJECT:
            return _OF_OBJECT[method, selector]
        truthful = selector in TRUTHFUL_ON_OBJECTS
    if truthful and method == "GET":
        return Kind.GET_SUBRESOURCE
    if truthful and method == "DELETE":
        return Kind.DELETE_SUBRESOURCE
    return Kind.UNSUPPORTED


def _only(allowed: str, method: str, resource: Resource, kind: Kind) -> Kind:
    if method != allowed:
        raise not_allowed(method, resource, allowed)
    return kind
