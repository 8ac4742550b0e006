"""From an authenticated request head to one operation. Pure.

Step 4 of s3.md 1.0: unsupported features, header syntax, 411, sizes. Nothing a client says is dropped silently: what
we do not do is refused by name (s3.md 1.4, 1.5).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sos.catalog.model import ALWAYS, SOURCE_ALWAYS, WriteCondition
from sos.limits import KEY_BYTES_MAX, XML_BYTES_MAX, XML_CONFIG_BYTES_MAX
from sos.s3 import multipart
from sos.s3.attributes import parse_attributes, parse_parts_page
from sos.s3.bodies import has_body, plan_document, plan_object
from sos.s3.checksums import parse_algorithm
from sos.s3.conditional import (
    READ_CONDITIONS,
    parse_read_conditions,
    parse_source_condition,
    parse_write_condition,
    source_condition_names,
)
from sos.s3.errors import (
    FeatureNotImplemented,
    IllegalLocationConstraintException,
    InvalidArgument,
    InvalidBucketName,
    InvalidLocationConstraint,
    InvalidRequest,
    InvalidStorageClass,
    InvalidURI,
    KeyTooLongError,
    NoSuchBucket,
)
from sos.s3.head import (
    PLAIN_NAMES,
    RequestHead,
    check_header_value,
    percent_decode,
    with_query_headers,
)
from sos.s3.listing import (
    parse_list_parameters,
    parse_max_buckets,
    parse_upload_marker,
    parse_version_marker,
)
from sos.s3.metadata import parse_stored_headers
from sos.s3.operations import (
    CopyObject,
    CopySource,
    CreateBucket,
    DeleteBucket,
    DeleteBucketSetting,
    DeleteObject,
    DeleteObjects,
    DeleteObjectTagging,
    DeleteSubresource,
    GetBucketLocation,
    GetBucketSetting,
    GetBucketVersioning,
    GetObject,
    GetObjectAttributes,
    GetObjectTagging,
    GetSubresource,
    HeadBucket,
    HeadObject,
    ListBuckets,
    ListMultipartUploads,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    Operation,
    PutBucketSetting,
    PutBucketVersioning,
    PutObject,
    PutObjectTagging,
)
from sos.s3.sigv4 import Payload
from sos.s3.tagging import parse_tags
from sos.s3.target import SETTINGS, Kind, S3Settings, Target, is_bucket_name

# --- what is refused (s3.md 1.5) --------------------------------------------------------------------
_REFUSED: Final = frozenset(
    {
        *("x-amz-website-redirect-location", "x-amz-write-offset-bytes", "x-amz-if-match-size"),
        *("x-amz-if-match-last-modified-time", "x-amz-mfa", "x-amz-bucket-namespace"),
        "x-amz-bypass-governance-retention",
    }
)
_REFUSED_PREFIXES: Final = (
    "x-amz-server-side-encryption",
    "x-amz-copy-source-server-side-encryption",
    "x-amz-grant-",
    "x-amz-object-lock-",
)
NO_CONDITIONS: Final[frozenset[str]] = frozenset()
_CANNED_ACLS_THAT_HOLD: Final = frozenset({"private", "bucket-owner-full-control"})
_CANNED_ACLS: Final = _CANNED_ACLS_THAT_HOLD | {
    *("public-read", "public-read-write", "authenticated-read", "aws-exec-read"),
    *("bucket-owner-read", "log-delivery-write"),
}
_OWNERSHIPS: Final = frozenset({"BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"})
_OVERRIDES: Final = {
    "response-content-type": "Content-Type",
    "response-content-language": "Content-Language",
    "response-content-encoding": "Content-Encoding",
    "response-content-disposition": "Content-Disposition",
    "response-cache-control": "Cache-Control",
    "response-expires": "Expires",
}
_SOURCE_VERSION: Final = "?versionId="


def parse_operation(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings, *, presigned: bool
) -> Operation:
    """The operation that ``target`` names, from an authenticated head.

    Raises: NotImplemented, InvalidArgument, InvalidRequest, MissingContentLength, EntityTooLarge, the errors of the
    parsers it calls; NoSuchBucket or InvalidBucketName last, for a name that cannot exist.
    """
    if presigned:
        head = with_query_headers(head)
    kind = target.kind
    if kind is Kind.UNSUPPORTED:
        raise FeatureNotImplemented(target.selector, f"{head.method} ?{target.selector}")
    if kind is Kind.GET_OBJECT or kind is Kind.HEAD_OBJECT:
        operation: Operation = _parse_read(target, head)
    elif kind is Kind.PUT_OBJECT:
        operation = _parse_put(target, head, payload, settings)
    elif kind is Kind.DELETE_OBJECT:
        operation = _parse_delete(target, head, settings)
    else:
        operation = _parse_other(target, head, payload, settings)
    if payload.is_chunked and kind not in (Kind.PUT_OBJECT, Kind.UPLOAD_PART):
        raise InvalidRequest(
            message="A streaming payload is only for uploads of objects and parts."
        )
    if not is_bucket_name(target.bucket) and target.bucket:
        raise (InvalidBucketName if kind is Kind.CREATE_BUCKET else NoSuchBucket)(target.bucket)
    return operation


def _parse_other(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> Operation:
    if "x-amz-tagging" in head.headers and target.kind is not Kind.CREATE_MULTIPART_UPLOAD:
        raise FeatureNotImplemented("x-amz-tagging")
    if target.kind in _MULTIPART:
        return _parse_multipart(target, head, payload, settings)
    refuse_headers(head.headers, NO_CONDITIONS)
    params, bucket = head.params, target.bucket
    owner = head.headers.get("x-amz-expected-bucket-owner")
    match target.kind:
        case Kind.LIST_BUCKETS:
            return _parse_list_buckets(params)
        case Kind.CREATE_BUCKET:
            return _parse_create_bucket(target, head, payload, settings)
        case Kind.HEAD_BUCKET:
            return HeadBucket(bucket=bucket, expected_owner=owner)
        case Kind.DELETE_BUCKET:
            return DeleteBucket(bucket=bucket, expected_owner=owner)
        case Kind.GET_BUCKET_LOCATION:
            return GetBucketLocation(bucket=bucket, expected_owner=owner)
        case Kind.GET_BUCKET_SETTING:
            return GetBucketSetting(
                bucket=bucket, expected_owner=owner, setting=SETTINGS[target.selector]
            )
        case Kind.DELETE_BUCKET_SETTING:
            return DeleteBucketSetting(
                bucket=bucket, expected_owner=owner, setting=SETTINGS[target.selector]
            )
        case Kind.PUT_BUCKET_SETTING:
            plan = plan_document(head.headers, payload, settings, XML_CONFIG_BYTES_MAX)
            return PutBucketSetting(
                bucket=bucket, expected_owner=owner, setting=SETTINGS[target.selector], body=plan
            )
        case kind if kind in _OF_VERSIONS:
            return _parse_of_version(target, head, payload, settings)
        case Kind.GET_BUCKET_VERSIONING:
            return GetBucketVersioning(bucket=bucket, expected_owner=owner)
        case Kind.PUT_BUCKET_VERSIONING:
            plan = plan_document(head.headers, payload, settings, XML_CONFIG_BYTES_MAX)
            return PutBucketVersioning(bucket=bucket, expected_owner=owner, body=plan)
        case Kind.DELETE_OBJECTS:
            return _parse_delete_objects(target, head, payload, settings)
        case Kind.GET_SUBRESOURCE:
            return GetSubresource(
                bucket=bucket,
                expected_owner=owner,
                key=target.key,
                selector=target.selector,
                configuration_id=params.get("id"),
            )
        case Kind.DELETE_SUBRESOURCE:
            return DeleteSubresource(
                bucket=bucket, expected_owner=owner, key=target.key, selector=target.selector
            )
        case _:
            return _parse_list(target, params, owner)


# --- sub-resources of objects -----------------------------------------------------------------------
_OF_VERSIONS: Final = frozenset(
    {
        Kind.GET_OBJECT_TAGGING,
        Kind.PUT_OBJECT_TAGGING,
        Kind.DELETE_OBJECT_TAGGING,
        Kind.GET_OBJECT_ATTRIBUTES,
    }
)


def _parse_of_version(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> Operation:
    bucket, key = target.bucket, target.key
    owner = head.headers.get("x-amz-expected-bucket-owner")
    version_id = _parse_version_id(head.params)
    match target.kind:
        case Kind.GET_OBJECT_TAGGING:
            return GetObjectTagging(
                bucket=bucket, expected_owner=owner, key=key, version_id=version_id
            )
        case Kind.DELETE_OBJECT_TAGGING:
            return DeleteObjectTagging(
                bucket=bucket, expected_owner=owner, key=key, version_id=version_id
            )
        case Kind.PUT_OBJECT_TAGGING:
            return PutObjectTagging(
                bucket=bucket,
                expected_owner=owner,
                key=key,
                version_id=version_id,
                body=plan_document(head.headers, payload, settings, XML_CONFIG_BYTES_MAX),
            )
        case _:
            after, max_parts = parse_parts_page(head.headers)
            return GetObjectAttributes(
                bucket=bucket,
                expected_owner=owner,
                key=key,
                version_id=version_id,
                wanted=parse_attributes(head.headers),
                after=after,
                max_parts=max_parts,
            )


# --- multipart uploads ------------------------------------------------------------------------------
_MULTIPART: Final = frozenset(
    {
        Kind.CREATE_MULTIPART_UPLOAD,
        Kind.UPLOAD_PART,
        Kind.LIST_PARTS,
        Kind.COMPLETE_MULTIPART_UPLOAD,
        Kind.ABORT_MULTIPART_UPLOAD,
    }
)


def _parse_multipart(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> Operation:
    headers = head.headers
    is_complete = target.kind is Kind.COMPLETE_MULTIPART_UPLOAD
    refuse_headers(headers, READ_CONDITIONS if is_complete else NO_CONDITIONS)
    match target.kind:
        case Kind.UPLOAD_PART:
            if "x-amz-copy-source" not in headers:
                return multipart.parse_upload_part(target, head, payload, settings)
            source = _parse_copy_source(headers["x-amz-copy-source"])
            if not is_bucket_name(source.bucket):
                raise NoSuchBucket(source.bucket)
            return multipart.parse_upload_part_copy(target, head, payload, source)
        case Kind.LIST_PARTS:
            return multipart.parse_list_parts(target, head)
        case Kind.COMPLETE_MULTIPART_UPLOAD:
            return multipart.parse_complete_upload(target, head, payload, settings)
        case Kind.ABORT_MULTIPART_UPLOAD:
            return multipart.parse_abort(target, head)
        case _:
            check_stored(headers)
            return multipart.parse_create(target, head)


# --- buckets ----------------------------------------------------------------------------------------
def _parse_list_buckets(params: Mapping[str, str]) -> ListBuckets:
    region = params.get("bucket-region")
    if region is not None and not re.fullmatch(r"[a-z0-9-]{1,64}", region):
        raise InvalidArgument("bucket-region", region, message="Invalid bucket region")
    named = ("prefix", "continuation-token", "bucket-region", "max-buckets")
    return ListBuckets(
        prefix=params.get("prefix", ""),
        continuation_token=params.get("continuation-token", ""),
        bucket_region=region,
        max_buckets=parse_max_buckets(params),
        shows_region=any(name in params for name in named),
    )


def _parse_create_bucket(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> CreateBucket:
    headers = head.headers
    _check_acl(headers)
    if headers.get("x-amz-bucket-object-lock-enabled", "false").lower() != "false":
        raise FeatureNotImplemented("x-amz-bucket-object-lock-enabled")
    ownership = headers.get("x-amz-object-ownership")
    if ownership is not None and ownership != "BucketOwnerEnforced":
        if ownership not in _OWNERSHIPS:
            raise InvalidArgument("x-amz-object-ownership", ownership)
        raise FeatureNotImplemented("x-amz-object-ownership")
    body = None
    if has_body(headers):
        body = plan_document(headers, payload, settings, XML_CONFIG_BYTES_MAX)
    return CreateBucket(bucket=target.bucket, body=body)


def check_location(constraint: str | None, region: str) -> None:
    """Judge a CreateBucket's LocationConstraint (s3.md 1.1.2); ``None`` or empty: there was none.

    Raises: InvalidLocationConstraint, IllegalLocationConstraintException.
    """
    if region == "us-east-1":
        if constraint:
            raise InvalidLocationConstraint(constraint)
        return
    if constraint == "EU":
        constraint = "eu-west-1"
    if constraint != region:
        raise IllegalLocationConstraintException(
            message=f"The {constraint or 'unspecified'} location constraint is incompatible for the region specific"
            " endpoint this request was sent to."
        )


def _parse_list(target: Target, params: Mapping[str, str], owner: str | None) -> Operation:
    if target.kind is Kind.LIST_MULTIPART_UPLOADS:
        key_marker, upload_marker = parse_upload_marker(params)
        return ListMultipartUploads(
            bucket=target.bucket,
            expected_owner=owner,
            list=parse_list_parameters(params, size_name="max-uploads"),
            key_marker=key_marker,
            upload_marker=upload_marker,
        )
    parameters = parse_list_parameters(params)
    if target.kind is Kind.LIST_OBJECTS_V2:
        return ListObjectsV2(
            bucket=target.bucket,
            expected_owner=owner,
            list=parameters,
            continuation_token=params.get("continuation-token"),
            start_after=params.get("start-after"),
            fetch_owner=params.get("fetch-owner", "").lower() == "true",
        )
    if target.kind is Kind.LIST_OBJECTS:
        return ListObjects(
            bucket=target.bucket,
            expected_owner=owner,
            list=parameters,
            marker=params.get("marker", ""),
        )
    assert target.kind is Kind.LIST_OBJECT_VERSIONS, target.kind
    key_marker, version_id_marker = parse_version_marker(params)
    return ListObjectVersions(
        bucket=target.bucket,
        expected_owner=owner,
        list=parameters,
        key_marker=key_marker,
        version_id_marker=version_id_marker,
    )


def _parse_delete_objects(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> DeleteObjects:
    if payload.is_chunked:
        raise InvalidRequest(
            message="A streaming payload is only for uploads of objects and parts."
        )
    body = plan_document(head.headers, payload, settings, XML_BYTES_MAX)
    if not body.digests.is_promised:
        raise InvalidRequest(
            message="Missing required header for this request: Content-MD5 OR x-amz-checksum-*"
        )
    return DeleteObjects(
        bucket=target.bucket,
        expected_owner=head.headers.get("x-amz-expected-bucket-owner"),
        body=body,
    )


# --- objects ----------------------------------------------------------------------------------------
def _parse_read(target: Target, head: RequestHead) -> GetObject | HeadObject:
    headers, params = head.headers, head.params
    refuse_headers(headers, READ_CONDITIONS)
    overrides: tuple[tuple[str, str], ...] = ()
    version_id: str | None = None
    if params:
        overrides = _parse_overrides(params)
        version_id = _parse_version_id(params)
    make = GetObject if target.kind is Kind.GET_OBJECT else HeadObject
    return make(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        conditions=parse_read_conditions(headers, params),
        overrides=overrides,
        shows_checksum=headers.get("x-amz-checksum-mode", "").upper() == "ENABLED",
        version_id=version_id,
    )


def _parse_overrides(params: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    found = [(header, params[name]) for name, header in _OVERRIDES.items() if name in params]
    for header, value in found:
        check_header_value(f"response-{header.lower()}", value)
    return tuple(found)


def _parse_version_id(params: Mapping[str, str]) -> str | None:
    """``versionId`` as it was sent; the handler knows which ids are ours. Raises: InvalidArgument, for an empty one."""
    version_id = params.get("versionId")
    if version_id == "":
        raise InvalidArgument("versionId", "", message="Version id cannot be the empty string")
    return version_id


def _parse_delete(target: Target, head: RequestHead, settings: S3Settings) -> DeleteObject:
    headers = head.headers
    refuse_headers(headers, READ_CONDITIONS)
    return DeleteObject(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        condition=parse_write_condition(headers, is_delete=True, superset=settings.superset),
        version_id=_parse_version_id(head.params),
    )


def _parse_put(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> PutObject | CopyObject:
    headers, params = head.headers, head.params
    is_conditional = refuse_headers(headers, READ_CONDITIONS)
    if params:
        _refuse_put_parameters(params)
    check_stored(headers)
    condition = ALWAYS
    if is_conditional:
        condition = parse_write_condition(headers, is_delete=False, superset=settings.superset)
    if "x-amz-copy-source" in headers:
        return _parse_copy(target, headers, payload, condition)
    stored = parse_stored_headers(headers)
    return PutObject(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        headers=stored,
        condition=condition,
        body=plan_object(headers, payload, settings),
        tags=parse_tags(headers),
    )


def check_stored(headers: Mapping[str, str]) -> None:
    """Raises: NotImplemented, InvalidArgument, InvalidStorageClass, for what an object cannot be stored with."""
    _check_acl(headers)
    storage_class = headers.get("x-amz-storage-class", "STANDARD")
    if storage_class != "STANDARD":
        raise InvalidStorageClass(storage_class)


def _refuse_put_parameters(params: Mapping[str, str]) -> None:
    if "partNumber" in params:  # with an uploadId, it would not have come here
        raise InvalidArgument(
            "uploadId", "", message="This operation does not accept partNumber without uploadId"
        )
    if "versionId" in params:
        raise InvalidArgument(
            "versionId", params["versionId"], message="This operation does not accept a version-id."
        )


def _parse_copy(
    target: Target, headers: Mapping[str, str], payload: Payload, condition: WriteCondition
) -> CopyObject:
    if payload.is_chunked or has_body(headers):
        raise InvalidRequest(message="A copy takes no body.")
    if "x-amz-copy-source-range" in headers:
        raise FeatureNotImplemented("x-amz-copy-source-range")
    source = _parse_copy_source(headers["x-amz-copy-source"])
    replaces = _parse_directive(headers, "x-amz-metadata-directive")
    replaces_tags = _parse_directive(headers, "x-amz-tagging-directive")
    algorithm = headers.get("x-amz-checksum-algorithm")
    names = source_condition_names(headers)
    if not is_bucket_name(source.bucket):
        raise NoSuchBucket(source.bucket)
    return CopyObject(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        source=source,
        source_condition=parse_source_condition(headers) if names else SOURCE_ALWAYS,
        source_condition_names=names,
        expected_source_owner=headers.get("x-amz-source-expected-bucket-owner"),
        condition=condition,
        headers=parse_stored_headers(headers) if replaces else None,
        algorithm=parse_algorithm(algorithm) if algorithm is not None else None,
        tags=parse_tags(headers) if replaces_tags else None,
        changes_something=(
            replaces
            or replaces_tags
            or algorithm is not None
            or source.version_id is not None
            or condition.if_match is not None
            or "x-amz-storage-class" in headers
        ),
    )


def _parse_directive(headers: Mapping[str, str], name: str) -> bool:
    """Whether a directive says REPLACE. Raises: InvalidArgument."""
    text = headers.get(name, "COPY")
    if text not in ("COPY", "REPLACE"):
        raise InvalidArgument(name, text, message="Unknown metadata directive.")
    return text == "REPLACE"


def _parse_copy_source(text: str) -> CopySource:
    """Bucket, key and version of ``x-amz-copy-source`` (s3.md 1.1.6): percent-decoded once, ``+`` stays."""
    source, found, version_id = text.removeprefix("/").rpartition(_SOURCE_VERSION)
    if not found:
        source = version_id
    try:
        bucket, _, key = percent_decode(source).partition("/")
    except InvalidURI as error:
        raise _bad_copy_source(text) from error
    if not bucket or not key or (found and not version_id):
        raise _bad_copy_source(text)
    size_bytes = len(key.encode())
    if size_bytes > KEY_BYTES_MAX:
        raise KeyTooLongError(str(size_bytes), str(KEY_BYTES_MAX))
    return CopySource(bucket, key, version_id if found else None)


def _bad_copy_source(text: str) -> InvalidArgument:
    return InvalidArgument(
        "x-amz-copy-source", text, message="Invalid copy source object key, bucket or version"
    )


# --- headers --------------------------------------------------------------------------------------
def refuse_headers(headers: Mapping[str, str], conditions: frozenset[str]) -> bool:
    """501 for every header that asks for what we do not do. ``conditions``: the ``If-*`` that are parsed later.

    Returns: whether there is any of these.
    """
    is_conditional = False
    if PLAIN_NAMES.issuperset(headers):
        return False
    for name in headers:
        if name in PLAIN_NAMES:
            continue
        if name.startswith("x-amz-"):
            if name in _REFUSED or name.startswith(_REFUSED_PREFIXES):
                raise FeatureNotImplemented(name)
        elif name.startswith("if-"):
            if name not in conditions:
                raise FeatureNotImplemented(name)
            is_conditional = True
    return is_conditional


def _check_acl(headers: Mapping[str, str]) -> None:
    """Canned ACLs that change nothing pass (s3.md 1.5)."""
    acl = headers.get("x-amz-acl")
    if acl is None or acl in _CANNED_ACLS_THAT_HOLD:
        return
    if acl in _CANNED_ACLS:
        raise FeatureNotImplemented("x-amz-acl")
    raise InvalidArgument("x-amz-acl", acl)
