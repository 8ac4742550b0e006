"""Tags of objects and buckets: the header, the document, what a tag may be. Pure.

Source: s3.md 1.2, 11 (S3 API: PutObjectTagging; UG: object-tagging).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from sos.packing import pack, unpack
from sos.s3.errors import BadRequest, InvalidArgument, InvalidTag, InvalidURI, MalformedXML
from sos.s3.head import percent_decode
from sos.s3.xml import document, element, local_name, parse_document

Tags = tuple[tuple[str, str], ...]

OBJECT_TAGS_MAX: Final = 10
BUCKET_TAGS_MAX: Final = 50
_KEY_UNITS_MAX: Final = 128
_VALUE_UNITS_MAX: Final = 256
_PUNCTUATION: Final = frozenset("+-=._:/@")
_RESERVED: Final = "aws:"


def parse_tags(headers: Mapping[str, str]) -> Tags:
    """The tags that a request brings. Raises: as ``parse_tagging_header``."""
    text = headers.get("x-amz-tagging")
    return parse_tagging_header(text) if text else ()


def parse_tagging_header(text: str) -> Tags:
    """``x-amz-tagging``, in the form of a query. Raises: InvalidArgument, InvalidTag, BadRequest."""
    tags: list[tuple[str, str]] = []
    for pair in text.split("&") if text else ():
        name, _, value = pair.partition("=")
        try:
            tags.append(
                (percent_decode(name.replace("+", " ")), percent_decode(value.replace("+", " ")))
            )
        except InvalidURI as error:
            raise _unreadable(text) from error
        if not tags[-1][0]:
            raise _unreadable(text)
    return check_tags(tags, OBJECT_TAGS_MAX)


def _unreadable(text: str) -> InvalidArgument:
    return InvalidArgument(
        "x-amz-tagging",
        text,
        message="The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters"
        " without tag name duplicates.",
    )


def parse_tagging(data: bytes, count_max: int) -> Tags:
    """The tags of a ``Tagging`` document. Raises: MalformedXML, InvalidTag, BadRequest."""
    sets = [child for child in parse_document(data, "Tagging") if local_name(child) == "TagSet"]
    if len(sets) != 1:
        raise MalformedXML()
    tags = []
    for node in sets[0]:
        if local_name(node) != "Tag":
            raise MalformedXML()
        found = {local_name(child): child.text or "" for child in node}
        if found.keys() != {"Key", "Value"}:
            raise MalformedXML()
        tags.append((found["Key"], found["Value"]))
    return check_tags(tags, count_max)


def check_tags(tags: Iterable[tuple[str, str]], count_max: int) -> Tags:
    """Checked one by one, then counted (seen). Raises: InvalidTag, BadRequest."""
    found: dict[str, str] = {}
    for key, value in tags:
        if not key or _units(key) > _KEY_UNITS_MAX or not _is_text(key):
            raise InvalidTag(key, value, message="The TagKey you have provided is invalid")
        if key.lower().startswith(_RESERVED):
            raise InvalidTag(key, value, message="System tags cannot be added/updated by requester")
        if _units(value) > _VALUE_UNITS_MAX or not _is_text(value):
            raise InvalidTag(key, value, message="The TagValue you have provided is invalid")
        if key in found:
            raise InvalidTag(key, value, message="Cannot provide multiple Tags with the same key")
        found[key] = value
    if len(found) > count_max:
        kind = "Object" if count_max == OBJECT_TAGS_MAX else "Bucket"
        raise BadRequest(message=f"{kind} tags cannot be greater than {count_max}")
    return tuple(found.items())


def _units(text: str) -> int:
    """Characters as UTF-16 counts them."""
    return len(text) + sum(character > "\uffff" for character in text)


def _is_text(text: str) -> bool:
    return all(
        character in _PUNCTUATION or unicodedata.category(character)[0] in "LNZ"
        for character in text
    )


def render_tagging(tags: Tags) -> bytes:
    """``Tagging``; an empty set for an object without tags."""
    rows = [f"<Tag>{element('Key', key)}{element('Value', value)}</Tag>" for key, value in tags]
    return document("Tagging", f"<TagSet>{''.join(rows)}</TagSet>")


def pack_tags(tags: Tags) -> bytes:
    """Tags of a bucket as its setting keeps them."""
    return pack(tags)


def unpack_tags(data: bytes) -> Tags:
    """Tags from ``pack_tags``."""
    return tuple((key, value) for key, value in unpack(data))
