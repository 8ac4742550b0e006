"""Field checks and the values inside commands and records, as msgpack lists. Pure.

Checks raise ``PackingError``; wrong shapes raise ValueError, TypeError or KeyError, which the decoders of
``commands`` and ``codec`` translate.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from sos.catalog.model import (
    ALWAYS,
    SOURCE_ALWAYS,
    AccessKeyId,
    BlobBody,
    BlobId,
    Body,
    Checksum,
    ChecksumAlgorithm,
    CopySourceCondition,
    InlineBody,
    NodeId,
    StoredHeaders,
    VersionNumber,
    WriteCondition,
)
from sos.limits import KEY_BYTES_MAX
from sos.packing import PackingError

ID_BYTES: Final = 16  # of blobs and requests

# Bounds of what becomes part of an LMDB key (511 bytes) or a header; S3's own limits are the handlers'.
_TEXT_MAX: Final = 64 * 1024
_BUCKET_CHARACTERS_MAX: Final = 100
_NUMBER_MAX: Final = (1 << 63) - 1
# More than S3 will ever take in one object. Counters have 64 bits, and apply must not fail: three blobs that claim
# 2 ** 63 bytes overflowed them on every node.
_BLOB_BYTES_MAX: Final = 1 << 46

_NODE: Final = re.compile(r"[a-z0-9-]{1,32}@[0-9a-f]{16}")
_ACCESS_KEY: Final = re.compile(r"[!-~]{1,128}")

# Stored in every object row: never reuse a number.
ALGORITHM_NUMBERS: Final = {
    ChecksumAlgorithm.CRC32: 1,
    ChecksumAlgorithm.CRC32C: 2,
    ChecksumAlgorithm.CRC64NVME: 3,
    ChecksumAlgorithm.SHA1: 4,
    ChecksumAlgorithm.SHA256: 5,
}
ALGORITHMS: Final = {number: algorithm for algorithm, number in ALGORITHM_NUMBERS.items()}
NO_HEADERS: Final = StoredHeaders()


# --- field checks ---------------------------------------------------------------------------------
def refuse(what: str) -> PackingError:
    return PackingError(f"not a valid {what}")


def text(value: object) -> str:
    if type(value) is not str or len(value) > _TEXT_MAX:
        raise refuse("text")
    return value


def text_or_none(value: object) -> str | None:
    return None if value is None else text(value)


def number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
        raise refuse("number")
    return value


def _blob_size(value: object) -> int:
    size_bytes = number(value)
    if size_bytes > _BLOB_BYTES_MAX:
        raise refuse("size of a blob")
    return size_bytes


def exact_bytes(value: object, count: int) -> bytes:
    if type(value) is not bytes or len(value) != count:
        raise refuse(f"{count} bytes")
    return value


def flag(value: object) -> bool:
    if type(value) is not bool:
        raise refuse("flag")
    return value


def items(value: object) -> list[Any]:
    if type(value) is not list:
        raise refuse("list")
    return value


def blob_id(value: object) -> BlobId:
    return BlobId(exact_bytes(value, ID_BYTES))


def key_text(value: object) -> str:
    """An object's key. An empty one would have no place after "from the start" in a listing."""
    if type(value) is not str or not 0 < len(value) <= KEY_BYTES_MAX:
        raise refuse("key")
    return value


def bucket_name(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= _BUCKET_CHARACTERS_MAX:
        raise refuse("bucket name")
    return value


@lru_cache(maxsize=256)
def _is_access_key(value: str) -> bool:
    return _ACCESS_KEY.fullmatch(value) is not None


def access_key_id(value: object) -> AccessKeyId:
    if type(value) is not str or not _is_access_key(value):
        raise refuse("access key")
    return AccessKeyId(value)


@lru_cache(maxsize=256)
def _is_node(value: str) -> bool:
    return _NODE.fullmatch(value) is not None


def node_id(value: object) -> NodeId:
    if type(value) is not str or not _is_node(value):
        raise refuse("node")
    return NodeId(value)


def version_or_none(value: object) -> VersionNumber | None:
    return None if value is None else VersionNumber(number(value))


# --- values ---------------------------------------------------------------------------------------
def tags_from(value: object) -> tuple[tuple[str, str], ...]:
    """Tags, which are written as they are."""
    return tuple(_pair(pair) for pair in items(value))


def etag_field(etag: str, md5: bytes) -> str:
    """The ETag as it is written: nothing when it is the MD5 in hex, as for every single-part object."""
    return "" if etag == md5.hex() else etag


def checksum_fields(checksum: Checksum | None) -> tuple[int, bytes] | None:
    """A checksum as it is written."""
    return None if checksum is None else (ALGORITHM_NUMBERS[checksum.algorithm], checksum.digest)


def checksum_from(value: object) -> Checksum:
    number, digest = items(value)
    if type(digest) is not bytes or not 4 <= len(digest) <= 32:
        raise refuse("digest")
    return Checksum(algorithm=ALGORITHMS[number], digest=digest)


def headers_fields(headers: StoredHeaders | None) -> tuple[object, ...] | str | None:
    """Stored headers as they are written: the content type alone when there is no other, the usual case."""
    if headers is None:
        return None
    plain = (
        headers.cache_control,
        headers.content_disposition,
        headers.content_encoding,
        headers.content_language,
        headers.expires,
    )
    if plain == _NONE_PLAIN and not headers.user:
        return headers.content_type if headers.content_type is not None else ()
    return (headers.content_type, *plain, headers.user)


_NONE_PLAIN: Final = (None, None, None, None, None)


@lru_cache(maxsize=1024)
def _typed_headers(content_type: str) -> StoredHeaders:
    return StoredHeaders(content_type=content_type)


def _pair(value: object) -> tuple[str, str]:
    name, content = items(value)
    return text(name), text(content)


def headers_from(value: object) -> StoredHeaders:
    """Stored headers from ``headers_fields``. Raises: PackingError, ValueError."""
    if type(value) is str:
        return _typed_headers(text(value))
    fields = items(value)
    if not fields:
        return NO_HEADERS
    content_type, cache, disposition, encoding, language, expires, user = fields
    pairs = tuple(_pair(pair) for pair in items(user))
    return StoredHeaders(
        content_type=text_or_none(content_type),
        cache_control=text_or_none(cache),
        content_disposition=text_or_none(disposition),
        content_encoding=text_or_none(encoding),
        content_language=text_or_none(language),
        expires=text_or_none(expires),
        user=pairs,
    )


def condition_fields(condition: WriteCondition) -> tuple[bool, str | None] | None:
    if condition is ALWAYS:
        return None
    if not condition.if_none_match_any and condition.if_match is None:
        return None
    return (condition.if_none_match_any, condition.if_match)


def condition_from(value: object) -> WriteCondition:
    if value is None:
        return ALWAYS
    none_match, match = items(value)
    return WriteCondition(if_none_match_any=flag(none_match), if_match=text_or_none(match))


def source_condition_fields(condition: CopySourceCondition) -> tuple[object, ...] | None:
    if condition == SOURCE_ALWAYS:
        return None
    return (
        condition.if_match,
        condition.if_none_match,
        condition.if_modified_since_s,
        condition.if_unmodified_since_s,
    )


def _texts_or_none(value: object) -> tuple[str, ...] | None:
    return None if value is None else tuple(text(item) for item in items(value))


def _seconds_or_none(value: object) -> int | None:
    """Times of clients may lie before 1970."""
    if value is not None and (type(value) is not int or abs(value) > _NUMBER_MAX):
        raise refuse("time")
    return value


def source_condition_from(value: object) -> CopySourceCondition:
    if value is None:
        return SOURCE_ALWAYS
    match, none_match, modified, unmodified = items(value)
    return CopySourceCondition(
        if_match=_texts_or_none(match),
        if_none_match=_texts_or_none(none_match),
        if_modified_since_s=_seconds_or_none(modified),
        if_unmodified_since_s=_seconds_or_none(unmodified),
    )


def body_fields(body: Body | None) -> tuple[object, ...] | None:
    if body is None:
        return None
    if type(body) is InlineBody:
        return (body.blob, body.data)
    assert type(body) is BlobBody
    return (body.blob, body.size_bytes, body.crc64, body.holders)


def body_from(value: object) -> Body | None:
    if value is None:
        return None
    fields = items(value)
    if len(fields) == 2:
        blob, data = fields
        if type(data) is not bytes:
            raise refuse("body")
        return InlineBody(blob=blob_id(blob), data=data)
    blob, size_bytes, crc64, holders = fields
    return BlobBody(
        blob=blob_id(blob),
        size_bytes=_blob_size(size_bytes),
        crc64=exact_bytes(crc64, 8),
        holders=tuple(node_id(holder) for holder in items(holders)),
    )
