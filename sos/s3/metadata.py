"""Headers that are stored with an object and returned with it. Pure.

Source: s3.md 1.1.1 (S3 API: PutObject; UG: UsingMetadata).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header
from typing import Final

from sos.catalog.model import StoredHeaders
from sos.limits import METADATA_BYTES_MAX
from sos.s3.errors import MetadataTooLarge
from sos.s3.head import PLAIN_NAMES

META_PREFIX: Final = "x-amz-meta-"
DEFAULT_CONTENT_TYPE: Final = "binary/octet-stream"

_ENCODED_WORD: Final = re.compile(r"=\?[^?]+\?[BbQq]\?[^?]*\?=", re.ASCII)
_WORD_BYTES: Final = (
    45  # of UTF-8 in one encoded word: base64 makes 60 of them, a word has at most 75
)
_PLAIN: Final = StoredHeaders()
SYSTEM_NAMES: Final = frozenset(
    {
        *("content-type", "cache-control", "content-disposition", "content-encoding"),
        *("content-language", "expires"),
    }
)


def parse_stored_headers(headers: Mapping[str, str]) -> StoredHeaders:
    """What of ``headers`` is stored. Raises: MetadataTooLarge."""
    user = _parse_user_metadata(headers)
    if not user and SYSTEM_NAMES.isdisjoint(headers):
        return _PLAIN
    encoding = headers.get("content-encoding")
    return StoredHeaders(
        content_type=headers.get("content-type") or None,
        cache_control=headers.get("cache-control"),
        content_disposition=headers.get("content-disposition"),
        content_encoding=_without_aws_chunked(encoding) if encoding is not None else None,
        content_language=headers.get("content-language"),
        expires=headers.get("expires"),
        user=user,
    )


def _without_aws_chunked(text: str) -> str | None:
    """The encodings that are the object's own; aws-chunked belongs to the transfer."""
    if "aws-chunked" not in text.lower():
        return text
    tokens = [token.strip() for token in text.split(",")]
    return ",".join([token for token in tokens if token.lower() != "aws-chunked" and token]) or None


def _parse_user_metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    pairs = []
    size_bytes = 0
    if PLAIN_NAMES.issuperset(headers):
        return ()
    for name, value in headers.items():
        if name not in PLAIN_NAMES and name.startswith(META_PREFIX):
            short = name[len(META_PREFIX) :]
            if value.isascii():
                size_bytes += len(short) + len(value)
                if "=?" in value:
                    value = normalise_value(value)
            else:
                size_bytes += len(short) + len(value.encode("utf-8", "replace"))
                value = encode_words(value)
            pairs.append((short, value))
    if size_bytes > METADATA_BYTES_MAX:
        raise MetadataTooLarge(str(size_bytes), str(METADATA_BYTES_MAX))
    pairs.sort()
    return tuple(pairs)


def normalise_value(value: str) -> str:
    """An ASCII value with RFC 2047 words: decoded if that is ASCII too, else words again (seen)."""
    if not _ENCODED_WORD.search(value):
        return value
    try:
        pieces = decode_header(value)
        text = "".join(
            piece if isinstance(piece, str) else piece.decode(charset or "ascii")
            for piece, charset in pieces
        )
    except (HeaderParseError, LookupError, ValueError):
        return value  # no charset that we know, or broken words: a text like any other
    return text if text.isascii() and text.isprintable() else encode_words(text)


def encode_words(text: str) -> str:
    """``text`` as RFC 2047 words of at most 75 characters, in UTF-8 and base64."""
    words = []
    piece = ""
    piece_bytes = 0
    for character in text:
        size_bytes = len(character.encode("utf-8", "replace"))
        if piece_bytes + size_bytes > _WORD_BYTES:
            words.append(piece)
            piece, piece_bytes = "", 0
        piece += character
        piece_bytes += size_bytes
    words.append(piece)
    return " ".join(
        [f"=?UTF-8?B?{b64encode(word.encode('utf-8', 'replace')).decode()}?=" for word in words]
    )
