"""Documents of multipart uploads. Pure.

Source: s3.md 6.6, 6.7, 7 (S3 API: CompleteMultipartUpload, ListParts, ListMultipartUploads and their kin).
"""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final

from sos.catalog.model import Checksum, ListedPart
from sos.limits import LIST_KEYS_MAX, PARTS_MAX
from sos.s3.checksums import (
    COMPOSITE,
    FULL_OBJECT,
    checksum_text,
    parse_checksum_element,
)
from sos.s3.dates import format_iso
from sos.s3.errors import InvalidRequest, MalformedXML
from sos.s3.listing_xml import encoded, encoder, page_head
from sos.s3.xml import XmlNode, document, element, local_name, parse_document, render_owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sos.catalog.model import PartRecord, Stored, UploadId, UploadPage, UploadRecord
    from sos.s3.operations import ListMultipartUploads, ListParts

_ELEMENT_PREFIX: Final = "Checksum"
_STANDARD: Final = "<StorageClass>STANDARD</StorageClass>"


# --- requests ---------------------------------------------------------------------------------------
def parse_complete(data: bytes) -> tuple[ListedPart, ...]:
    """The parts of a CompleteMultipartUpload. Raises: MalformedXML, InvalidRequest."""
    if not data:
        raise MalformedXML()
    parts = [
        _parse_part(child)
        for child in parse_document(data, "CompleteMultipartUpload")
        if local_name(child) == "Part"
    ]
    if not parts:
        raise InvalidRequest(message="You must specify at least one part")
    if len(parts) > PARTS_MAX:
        raise MalformedXML()
    return tuple(parts)


def _parse_part(node: XmlNode) -> ListedPart:
    number, etag = None, None
    checksum: Checksum | None = None
    for child in node:
        name, text = local_name(child), (child.text or "").strip()
        if name == "PartNumber":
            if not text.isascii() or not text.isdigit() or len(text) > 9:
                raise MalformedXML()
            number = int(text)
        elif name == "ETag":
            etag = text.strip('"')
        elif name.startswith(_ELEMENT_PREFIX) and name != "ChecksumType":
            if checksum is not None:
                raise InvalidRequest(
                    message="Expecting a single checksum for each part in the list of parts."
                )
            checksum = parse_checksum_element(name, text)
    if number is None or etag is None:
        raise MalformedXML()
    return ListedPart(number=number, etag=etag, checksum=checksum)


# --- answers ----------------------------------------------------------------------------------------
def render_initiate(bucket: str, key: str, upload: UploadId) -> bytes:
    """InitiateMultipartUploadResult."""
    return document(
        "InitiateMultipartUploadResult",
        element("Bucket", bucket),
        element("Key", key),
        element("UploadId", upload.hex()),
    )


def render_copy_part(stored: Stored) -> bytes:
    """CopyPartResult."""
    return document(
        "CopyPartResult",
        element("LastModified", format_iso(stored.modified_ms // 1000)),
        element("ETag", f'"{stored.etag}"'),
        _checksum_element(stored.checksum),
    )


def render_complete(bucket: str, key: str, location: str, stored: Stored) -> bytes:
    """CompleteMultipartUploadResult."""
    parts = int(stored.etag.rpartition("-")[2]) if stored.composite else 0
    return document(
        "CompleteMultipartUploadResult",
        element("Location", location),
        element("Bucket", bucket),
        element("Key", key),
        element("ETag", f'"{stored.etag}"'),
        element(
            f"{_ELEMENT_PREFIX}{stored.checksum.algorithm.name}",
            checksum_text(stored.checksum, parts),
        ),
        element("ChecksumType", COMPOSITE if stored.composite else FULL_OBJECT),
    )


def render_list_parts(
    operation: ListParts, upload: UploadRecord, parts: Sequence[PartRecord], *, owner_id: str
) -> bytes:
    """ListPartsResult. ``parts``: one more than asked for, if there are more."""
    shown = parts[: operation.max_parts]
    truncated = len(parts) > len(shown)
    elements = [
        element("Bucket", operation.bucket),
        element("Key", operation.key),
        element("UploadId", operation.upload.hex()),
        f"<Initiator><ID>{owner_id}</ID></Initiator>",
        render_owner(owner_id),
        _STANDARD,
        element("PartNumberMarker", str(operation.after)),
    ]
    if truncated and shown:
        elements.append(element("NextPartNumberMarker", str(shown[-1].number)))
    elements += [
        element("MaxParts", str(operation.max_parts)),
        f"<IsTruncated>{'true' if truncated and shown else 'false'}</IsTruncated>",
        *_algorithm_elements(upload),
        *map(_part_element, shown),
    ]
    return document("ListPartsResult", *elements)


def _part_element(part: PartRecord) -> str:
    checksum = "" if part.sent is None else _checksum_element(part.sent)
    return (
        f"<Part><PartNumber>{part.number}</PartNumber>"
        f"<LastModified>{format_iso(part.modified_ms // 1000)}</LastModified>"
        f"<ETag>&quot;{part.md5.hex()}&quot;</ETag><Size>{part.size_bytes}</Size>{checksum}</Part>"
    )


def render_list_uploads(
    operation: ListMultipartUploads, page: UploadPage, *, owner_id: str
) -> bytes:
    """ListMultipartUploadsResult."""
    encode = encoder(operation.list)
    marker = operation.upload_marker
    elements = [
        element("Bucket", operation.bucket),
        encoded("KeyMarker", operation.key_marker, encode),
        element("UploadIdMarker", "" if marker is None else marker.hex()),
    ]
    if page.truncated:
        elements.append(encoded("NextKeyMarker", page.last_key, encode))
        if page.last_upload is not None:
            elements.append(element("NextUploadIdMarker", page.last_upload.hex()))
    elements.append(encoded("Prefix", operation.list.prefix, encode))
    elements += page_head("MaxUploads", operation.list, encode, truncated=page.truncated)
    owner = f"<Initiator><ID>{owner_id}</ID></Initiator>{render_owner(owner_id)}{_STANDARD}"
    elements += [
        f"<Upload><Key>{encode(upload.key)}</Key><UploadId>{upload.upload.hex()}</UploadId>{owner}"
        f"<Initiated>{format_iso(upload.initiated_ms // 1000)}</Initiated>"
        f"{''.join(_algorithm_elements(upload))}</Upload>"
        for upload in page.uploads
    ]
    elements += [
        f"<CommonPrefixes><Prefix>{encode(prefix)}</Prefix></CommonPrefixes>"
        for prefix in page.common_prefixes
    ]
    return document("ListMultipartUploadsResult", *elements)


def _algorithm_elements(upload: UploadRecord) -> list[str]:
    if upload.algorithm is None:
        return []
    return [
        element("ChecksumAlgorithm", upload.algorithm.name),
        element("ChecksumType", COMPOSITE if upload.composite else FULL_OBJECT),
    ]


def _checksum_element(checksum: Checksum) -> str:
    text = b64encode(checksum.digest).decode()
    return element(f"{_ELEMENT_PREFIX}{checksum.algorithm.name}", text)


assert LIST_KEYS_MAX <= PARTS_MAX  # a page of parts is a part of them
