"""The documents of listings: one string join a page. Pure.

Source: s3.md 6.1, 6.2, 6.5, 6.6. A page of 1,000 keys is rendered on the event loop, so it must cost about a millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus

from sos.catalog.model import ChecksumAlgorithm, KeyPage, VersionNumber, VersionPage
from sos.s3.checksums import COMPOSITE, FULL_OBJECT
from sos.s3.dates import format_iso
from sos.s3.listing import ListParameters
from sos.s3.operations import (
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
)
from sos.s3.version_ids import NULL_ID
from sos.s3.xml import document, element, escape, find_special, render_owner

_ODD_IN_URL: Final = re.compile(r"[^A-Za-z0-9/\-_.*~]")
_CHECKSUM: Final = {
    (algorithm, composite): f"<ChecksumAlgorithm>{algorithm.name}</ChecksumAlgorithm>"
    f"<ChecksumType>{COMPOSITE if composite else FULL_OBJECT}</ChecksumType>"
    for algorithm in ChecksumAlgorithm
    for composite in (False, True)
}
_STANDARD: Final = "<StorageClass>STANDARD</StorageClass>"


def encode_url(text: str) -> str:
    """``encoding-type=url``: UTF-8 percent, space as ``+`` (s3.md 6.1). The result needs no escaping."""
    return quote_plus(text, safe="/-_.*~") if _ODD_IN_URL.search(text) else text


def encoder(parameters: ListParameters) -> Callable[[str], str]:
    """How keys are written in a listing."""
    return encode_url if parameters.encodes_url else escape


def encoded(name: str, text: str, encode: Callable[[str], str]) -> str:
    """One element whose text is part of a key."""
    return f"<{name}>{encode(text)}</{name}>"


def render_list_objects_v2(
    operation: ListObjectsV2, page: KeyPage, *, owner_id: str, next_token: str | None
) -> bytes:
    """ListBucketResult of version 2. ``next_token``: of a truncated page, from ``listing.seal_token``."""
    encode = encoder(operation.list)
    parts = [
        element("Name", operation.bucket),
        encoded("Prefix", operation.list.prefix, encode),
    ]
    if operation.start_after is not None:
        parts.append(encoded("StartAfter", operation.start_after, encode))
    if operation.continuation_token is not None:
        parts.append(element("ContinuationToken", operation.continuation_token))
    if next_token is not None:
        parts.append(element("NextContinuationToken", next_token))
    parts.append(f"<KeyCount>{len(page.objects) + len(page.common_prefixes)}</KeyCount>")
    parts += page_head("MaxKeys", operation.list, encode, truncated=page.truncated)
    _append_objects(
        parts, page, operation.list, render_owner(owner_id) if operation.fetch_owner else ""
    )
    _append_prefixes(parts, page.common_prefixes, encode)
    return document("ListBucketResult", *parts)


def render_list_objects(operation: ListObjects, page: KeyPage, *, owner_id: str) -> bytes:
    """ListBucketResult of version 1; ``NextMarker`` only with a delimiter (S3 API: ListObjects)."""
    encode = encoder(operation.list)
    parts = [
        element("Name", operation.bucket),
        encoded("Prefix", operation.list.prefix, encode),
        encoded("Marker", operation.marker, encode),
    ]
    if page.truncated and operation.list.delimiter:
        assert page.last is not None, "a truncated page has a last entry"
        parts.append(encoded("NextMarker", page.last, encode))
    parts += page_head("MaxKeys", operation.list, encode, truncated=page.truncated)
    _append_objects(parts, page, operation.list, render_owner(owner_id))
    _append_prefixes(parts, page.common_prefixes, encode)
    return document("ListBucketResult", *parts)


def render_list_versions(
    operation: ListObjectVersions,
    page: VersionPage,
    *,
    owner_id: str,
    id_of: Callable[[VersionNumber], str],
    next_id: str | None,
) -> bytes:
    """ListVersionsResult (s3.md 6.5). ``next_id``: the version id marker behind the page's last version."""
    encode = encoder(operation.list)
    parts = [
        element("Name", operation.bucket),
        encoded("Prefix", operation.list.prefix, encode),
        encoded("KeyMarker", operation.key_marker, encode),
        element("VersionIdMarker", operation.version_id_marker),
    ]
    if page.truncated:
        assert page.last is not None, "a truncated page has a last entry"
        parts.append(encoded("NextKeyMarker", page.last.key, encode))
        if next_id is not None:
            parts.append(element("NextVersionIdMarker", next_id))
    parts += page_head("MaxKeys", operation.list, encode, truncated=page.truncated)
    _append_versions(parts, page, encode, render_owner(owner_id), id_of)
    _append_prefixes(parts, page.common_prefixes, encode)
    return document("ListVersionsResult", *parts)


def _append_versions(
    parts: list[str],
    page: VersionPage,
    encode: Callable[[str], str],
    owner: str,
    id_of: Callable[[VersionNumber], str],
) -> None:
    """One element per version; like ``_append_objects``, which says why it is written so."""
    tail = f"</Size>{owner}{_STANDARD}</Version>"
    previous: ChecksumAlgorithm | None = None
    previous_composite = False
    between = ""
    is_odd = find_special if encode is escape else _ODD_IN_URL.search
    if not is_odd("".join([entry[0] for entry in page.versions])):
        encode = str
    for entry, is_latest in zip(page.versions, page.is_latest, strict=True):
        key, size_bytes, etag, modified_ms, algorithm, composite, is_marker, version, _, _ = entry
        head = (
            f"<Key>{encode(key)}</Key><VersionId>{id_of(version) if version else NULL_ID}</VersionId>"
            f"<IsLatest>{'true' if is_latest else 'false'}</IsLatest>"
            f"<LastModified>{format_iso(modified_ms // 1000)}</LastModified>"
        )
        if is_marker:
            parts.append(f"<DeleteMarker>{head}{owner}</DeleteMarker>")
            continue
        if algorithm is not previous or composite is not previous_composite:
            previous, previous_composite = algorithm, composite
            between = f"&quot;</ETag>{_CHECKSUM[algorithm, composite]}<Size>"
        parts.append(f"<Version>{head}<ETag>&quot;{etag}{between}{size_bytes}{tail}")


def page_head(
    size_name: str,
    parameters: ListParameters,
    encode: Callable[[str], str],
    *,
    truncated: bool,
) -> list[str]:
    """The elements between the position and the entries."""
    parts = [f"<{size_name}>{parameters.max_keys}</{size_name}>"]
    if parameters.delimiter:
        parts.append(encoded("Delimiter", parameters.delimiter, encode))
    if parameters.encodes_url:
        parts.append("<EncodingType>url</EncodingType>")
    parts.append(f"<IsTruncated>{'true' if truncated else 'false'}</IsTruncated>")
    return parts


def _append_objects(
    parts: list[str],
    page: KeyPage,
    parameters: ListParameters,
    owner: str,
) -> None:
    """One element per key. The hot loop: odd characters are looked for in the whole page, and dates are cached."""
    is_odd = _ODD_IN_URL.search if parameters.encodes_url else find_special
    encode = encoder(parameters) if is_odd("".join([entry[0] for entry in page.objects])) else None
    tail = f"</Size>{owner}{_STANDARD}</Contents>"
    previous: ChecksumAlgorithm | None = None
    previous_composite = False
    between = ""
    append = parts.append
    for key, size_bytes, etag, modified_ms, algorithm, composite, _, _, _, _ in page.objects:
        if encode is not None:
            key = encode(key)
        # hashing an Enum member costs more than the rest of the line
        if algorithm is not previous or composite is not previous_composite:
            previous, previous_composite = algorithm, composite
            between = f"&quot;</ETag>{_CHECKSUM[algorithm, composite]}<Size>"
        append(
            f"<Contents><Key>{key}</Key><LastModified>{format_iso(modified_ms // 1000)}</LastModified>"
            f"<ETag>&quot;{etag}"
            f"{between}{size_bytes}{tail}"
        )


def _append_prefixes(parts: list[str], prefixes: list[str], encode: Callable[[str], str]) -> None:
    parts += [
        f"<CommonPrefixes><Prefix>{encode(prefix)}</Prefix></CommonPrefixes>" for prefix in prefixes
    ]
