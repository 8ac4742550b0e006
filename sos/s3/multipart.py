"""Requests about multipart uploads, from head to operation. Pure.

Source: s3.md 1.2, 7, 8, 11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sos.catalog.model import SOURCE_ALWAYS, Checksum, ChecksumAlgorithm, UploadId
from sos.limits import LIST_KEYS_MAX, PARTS_MAX, XML_BYTES_MAX
from sos.s3.bodies import has_body, plan_document, plan_object
from sos.s3.checksums import (
    COMPOSITE,
    FULL_OBJECT,
    HEADER_PREFIX,
    TYPE_HEADER,
    parse_algorithm,
    parse_object_checksum,
)
from sos.s3.conditional import (
    parse_source_condition,
    parse_write_condition,
    source_condition_names,
)
from sos.s3.errors import InvalidArgument, InvalidRequest, NoSuchUpload
from sos.s3.head import RequestHead
from sos.s3.listing import INT32_MAX
from sos.s3.metadata import parse_stored_headers
from sos.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CopySource,
    CreateMultipartUpload,
    ListParts,
    UploadPart,
    UploadPartCopy,
)
from sos.s3.sigv4 import Payload
from sos.s3.tagging import parse_tags
from sos.s3.target import S3Settings, Target

_COMPOSITE_ALGORITHMS: Final = frozenset(
    {
        ChecksumAlgorithm.CRC32,
        ChecksumAlgorithm.CRC32C,
        ChecksumAlgorithm.SHA1,
        ChecksumAlgorithm.SHA256,
    }
)
_FULL_ALGORITHMS: Final = frozenset(
    {ChecksumAlgorithm.CRC32, ChecksumAlgorithm.CRC32C, ChecksumAlgorithm.CRC64NVME}
)
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}")
_SOURCE_RANGE: Final = re.compile(r"bytes=(\d{1,18})-(\d{1,18})", re.ASCII)
_DIGITS: Final = re.compile(r"\d{1,10}", re.ASCII)


def parse_create(target: Target, head: RequestHead) -> CreateMultipartUpload:
    """Raises: InvalidRequest (checksum pair), MetadataTooLarge."""
    headers = head.headers
    name, kind = headers.get("x-amz-checksum-algorithm"), headers.get(TYPE_HEADER)
    algorithm = None if name is None else parse_algorithm(name)
    return CreateMultipartUpload(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        headers=parse_stored_headers(headers),
        algorithm=algorithm,
        composite=_is_composite(algorithm, kind),
        tags=parse_tags(headers),
    )


def _is_composite(algorithm: ChecksumAlgorithm | None, kind: str | None) -> bool:
    """Which type the checksum has; the pairs are those of s3.md 8. Raises: InvalidRequest."""
    if kind is not None and kind.upper() not in (COMPOSITE, FULL_OBJECT):
        raise InvalidRequest(message=f"Value for {TYPE_HEADER} header is invalid.")
    if algorithm is None:
        if kind is not None:
            raise InvalidRequest(
                message="The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header."
            )
        return False
    composite = kind.upper() == COMPOSITE if kind else algorithm in _COMPOSITE_ALGORITHMS
    if algorithm not in (_COMPOSITE_ALGORITHMS if composite else _FULL_ALGORITHMS):
        raise InvalidRequest(
            message=f"The {COMPOSITE if composite else FULL_OBJECT} checksum type cannot be used with the"
            f" {algorithm.name.lower()} checksum algorithm."
        )
    return composite


def parse_upload_part(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> UploadPart:
    """Raises: InvalidArgument, NoSuchUpload, and what ``bodies.plan_object`` raises."""
    body = plan_object(head.headers, payload, settings)
    return UploadPart(
        bucket=target.bucket,
        expected_owner=head.headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        upload=parse_upload_id(head.params),
        number=parse_part_number(head.params),
        body=body,
    )


def parse_upload_part_copy(
    target: Target, head: RequestHead, payload: Payload, source: CopySource
) -> UploadPartCopy:
    """Raises: InvalidArgument, InvalidRequest, NoSuchUpload."""
    headers = head.headers
    if payload.is_chunked or has_body(headers):
        raise InvalidRequest(message="A copy takes no body.")
    names = source_condition_names(headers)
    return UploadPartCopy(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        upload=parse_upload_id(head.params),
        number=parse_part_number(head.params),
        source=source,
        span=_parse_source_range(headers),
        source_condition=parse_source_condition(headers) if names else SOURCE_ALWAYS,
        source_condition_names=names,
        expected_source_owner=headers.get("x-amz-source-expected-bucket-owner"),
    )


def _parse_source_range(headers: Mapping[str, str]) -> tuple[int, int] | None:
    """``[start, stop)`` of ``x-amz-copy-source-range``, of which there is one form only (s3.md 7)."""
    text = headers.get("x-amz-copy-source-range")
    if text is None:
        return None
    found = _SOURCE_RANGE.fullmatch(text)
    if found is None or int(found[1]) > int(found[2]):
        raise InvalidArgument(
            "x-amz-copy-source-range",
            text,
            message="The x-amz-copy-source-range value must be of the form bytes=first-last where first and last"
            " are the zero-based offsets of the first and last bytes to copy",
        )
    return int(found[1]), int(found[2]) + 1


def parse_list_parts(target: Target, head: RequestHead) -> ListParts:
    """Raises: InvalidArgument, NoSuchUpload."""
    params = head.params
    return ListParts(
        bucket=target.bucket,
        expected_owner=head.headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        upload=parse_upload_id(params),
        after=_parse_number(params, "part-number-marker", 0),
        max_parts=min(_parse_number(params, "max-parts", LIST_KEYS_MAX), LIST_KEYS_MAX),
    )


def _parse_number(params: Mapping[str, str], name: str, default: int) -> int:
    text = params.get(name)
    if text is None:
        return default
    number = int(text) if _DIGITS.fullmatch(text) else INT32_MAX + 1
    if number > INT32_MAX:
        raise InvalidArgument(
            name, text, message=f"Argument {name} must be an integer between 0 and 2147483647"
        )
    return number


def parse_complete_upload(
    target: Target, head: RequestHead, payload: Payload, settings: S3Settings
) -> CompleteMultipartUpload:
    """Raises: InvalidRequest, NoSuchUpload, and what ``bodies.plan_document`` raises."""
    headers = head.headers
    # A checksum here is of the object that will be, not of this document.
    of_body = {
        name: value
        for name, value in headers.items()
        if not name.startswith(HEADER_PREFIX) and name != "x-amz-sdk-checksum-algorithm"
    }
    kind = headers.get(TYPE_HEADER)
    if kind is not None and kind.upper() not in (COMPOSITE, FULL_OBJECT):
        raise InvalidRequest(message=f"Value for {TYPE_HEADER} header is invalid.")
    return CompleteMultipartUpload(
        bucket=target.bucket,
        expected_owner=headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        upload=parse_upload_id(head.params),
        body=plan_document(of_body, payload, settings, XML_BYTES_MAX),
        condition=parse_write_condition(headers, is_delete=False, superset=settings.superset),
        checksum=_parse_checksum(headers),
        composite=None if kind is None else kind.upper() == COMPOSITE,
        size_bytes=_parse_size(headers),
        host=headers.get("host", ""),
    )


def _parse_checksum(headers: Mapping[str, str]) -> Checksum | None:
    found = [
        parse_object_checksum(name, value)
        for name, value in headers.items()
        if name.startswith(HEADER_PREFIX)
    ]
    known = [checksum for checksum in found if checksum is not None]
    if len(known) > 1:
        raise InvalidRequest(
            message="Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
        )
    return known[0] if known else None


def _parse_size(headers: Mapping[str, str]) -> int | None:
    text = headers.get("x-amz-mp-object-size")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidRequest(message="Value for x-amz-mp-object-size header is invalid.")
    return int(text)


def parse_abort(target: Target, head: RequestHead) -> AbortMultipartUpload:
    """Raises: NoSuchUpload."""
    return AbortMultipartUpload(
        bucket=target.bucket,
        expected_owner=head.headers.get("x-amz-expected-bucket-owner"),
        key=target.key,
        upload=parse_upload_id(head.params),
    )


def parse_upload_id(params: Mapping[str, str]) -> UploadId:
    """Raises: NoSuchUpload, for what was never an upload id of ours."""
    text = params.get("uploadId", "")
    if not _UPLOAD_ID.fullmatch(text):
        raise NoSuchUpload(text)
    return UploadId(bytes.fromhex(text))


def parse_part_number(params: Mapping[str, str]) -> int:
    """Raises: InvalidArgument."""
    text = params.get("partNumber", "")
    number = int(text) if _DIGITS.fullmatch(text) else 0
    if not 1 <= number <= PARTS_MAX:
        raise InvalidArgument(
            "partNumber",
            text,
            message="Part number must be an integer between 1 and 10000, inclusive",
        )
    return number
