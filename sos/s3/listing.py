"""Parameters, positions and tokens of listings. Pure; the walk over the keys itself is the catalog's.

Source: s3.md 6.1-6.3, 6.5 (S3 API: ListObjectsV2, ListObjects, ListObjectVersions). One rule: a page is the first
``max_keys`` entries greater than a position, in byte order, whatever else the request says.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import BucketRecord, UploadId
from sos.limits import LIST_KEYS_MAX
from sos.s3.errors import InvalidArgument

BUCKETS_MAX: Final = 10_000
INT32_MAX: Final = 2**31 - 1

_TOKEN_VERSION: Final = b"\x01"
_MAC_BYTES: Final = 16
_TOKEN_CHARS_MAX: Final = 2048  # a 1,024-byte key with its MAC is under 1,400
_INTEGER: Final = re.compile(r"-?\d{1,20}", re.ASCII)
_UPLOAD_ID: Final = re.compile(r"[0-9a-f]{32}")
_KEYS_DOMAIN: Final = b"sos list keys\x00"
_BUCKETS_DOMAIN: Final = b"sos list buckets\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListParameters:
    """What every listing of keys takes. ``delimiter``: empty for none. ``max_keys`` is at most 1,000."""

    prefix: str
    delimiter: str
    max_keys: int
    encodes_url: bool


def parse_list_parameters(
    params: Mapping[str, str], *, size_name: str = "max-keys"
) -> ListParameters:
    """Read ``prefix``, ``delimiter``, ``encoding-type`` and the page size. Raises: InvalidArgument."""
    encoding = params.get("encoding-type")
    if encoding is not None and encoding != "url":
        raise InvalidArgument(
            "encoding-type", encoding, message="Invalid Encoding Method specified in Request"
        )
    size = params.get(size_name)
    return ListParameters(
        prefix=params.get("prefix", ""),
        delimiter=params.get("delimiter", ""),
        max_keys=LIST_KEYS_MAX if size is None else _parse_page_size(size_name, size),
        encodes_url=encoding is not None,
    )


def _parse_page_size(name: str, text: str) -> int:
    number = int(text) if _INTEGER.fullmatch(text) else INT32_MAX + 1
    if not -INT32_MAX - 1 <= number <= INT32_MAX:
        raise InvalidArgument(
            name, text, message=f"Provided {name} not an integer or within integer range"
        )
    if number < 0:
        argument = name.replace("-k", "K").replace("-u", "U").replace("-p", "P")
        raise InvalidArgument(
            name,
            text,
            message=f"Argument {argument} must be an integer between 0 and 2147483647",
        )
    return min(number, LIST_KEYS_MAX)


def parse_upload_marker(params: Mapping[str, str]) -> tuple[str, UploadId | None]:
    """``key-marker`` and ``upload-id-marker``, which is ignored without the other (s3.md 6.6). Raises: InvalidArgument."""
    key_marker = params.get("key-marker", "")
    upload_marker = params.get("upload-id-marker", "")
    if not key_marker or not upload_marker:
        return key_marker, None
    if not _UPLOAD_ID.fullmatch(upload_marker):
        raise InvalidArgument("upload-id-marker", upload_marker, message="Invalid uploadId marker")
    return key_marker, UploadId(bytes.fromhex(upload_marker))


def parse_version_marker(params: Mapping[str, str]) -> tuple[str, str]:
    """``key-marker`` and ``version-id-marker`` as sent (s3.md 6.5). Raises: InvalidArgument."""
    key_marker = params.get("key-marker", "")
    version_marker = params.get("version-id-marker")
    if version_marker is None:
        return key_marker, ""
    if not key_marker:
        raise InvalidArgument(
            "version-id-marker",
            version_marker,
            message="A version-id marker cannot be specified without a key marker.",
        )
    if not version_marker:
        raise InvalidArgument(
            "version-id-marker", "", message="A version-id marker cannot be empty."
        )
    return key_marker, version_marker


# --- tokens -----------------------------------------------------------------------------------------
def seal_token(secret: bytes, last: str) -> str:
    """A continuation token for the entries after ``last``; valid on every node, for ever (s3.md 6.3)."""
    return _seal(secret, _KEYS_DOMAIN, last)


def open_token(secret: bytes, token: str) -> str:
    """The position in a token of ours. Raises: InvalidArgument."""
    return _open(secret, _KEYS_DOMAIN, token)


def list_position(
    secret: bytes, *, token: str | None, start_after: str | None, superset: bool = False
) -> str:
    """Where a ListObjectsV2 page begins: the token beats ``start-after``. Raises: InvalidArgument."""
    if token is None or (superset and not token):
        return start_after or ""
    return open_token(secret, token)


def _seal(secret: bytes, domain: bytes, last: str) -> str:
    body = _TOKEN_VERSION + last.encode()
    return urlsafe_b64encode(_mac(secret, domain, body) + body).decode().rstrip("=")


def _open(secret: bytes, domain: bytes, token: str) -> str:
    raw = _decode_token(token)
    mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    if not body.startswith(_TOKEN_VERSION) or not hmac.compare_digest(
        mac, _mac(secret, domain, body)
    ):
        raise _incorrect_token(token)
    return body[1:].decode()


def _decode_token(token: str) -> bytes:
    if len(token) > _TOKEN_CHARS_MAX or not token.isascii():
        raise _incorrect_token(token)
    try:
        return urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError) as error:
        raise _incorrect_token(token) from error


def _mac(secret: bytes, domain: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, domain + body, "sha256")[:_MAC_BYTES]


def _incorrect_token(token: str) -> InvalidArgument:
    return InvalidArgument(
        "continuation-token", token, message="The continuation token provided is incorrect"
    )


# --- buckets ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPage:
    """One page of a ListBuckets; ``next_token`` only if more follow."""

    buckets: tuple[BucketRecord, ...]
    next_token: str | None


def parse_max_buckets(params: Mapping[str, str]) -> int:
    """``max-buckets``, 1..10000; without it a listing pages at 10,000. Raises: InvalidArgument."""
    text = params.get("max-buckets")
    if text is None:
        return BUCKETS_MAX
    number = int(text) if _INTEGER.fullmatch(text) else 0
    if not 1 <= number <= BUCKETS_MAX:
        raise InvalidArgument(
            "max-buckets",
            text,
            message="Argument max-buckets must be an integer between 1 and 10000",
        )
    return number


def page_buckets(
    buckets: list[BucketRecord], *, secret: bytes, prefix: str, token: str, max_buckets: int
) -> BucketPage:
    """The page after ``token`` (empty: from the start) of ``buckets``, which are in byte order of name.

    Raises: InvalidArgument.
    """
    after = _open(secret, _BUCKETS_DOMAIN, token) if token else ""
    left = [bucket for bucket in buckets if bucket.name.startswith(prefix) and bucket.name > after]
    page = tuple(left[:max_buckets])
    more = len(left) > len(page)
    next_token = _seal(secret, _BUCKETS_DOMAIN, page[-1].name) if more else None
    return BucketPage(buckets=page, next_token=next_token)
