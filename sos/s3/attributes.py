"""GetObjectAttributes: which were asked for, and their document. Pure.

Source: s3.md 1.2 (S3 API: GetObjectAttributes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from sos.limits import LIST_KEYS_MAX
from sos.s3.checksums import COMPOSITE, FULL_OBJECT, checksum_text
from sos.s3.errors import InvalidArgument, InvalidRequest
from sos.s3.listing import INT32_MAX
from sos.s3.xml import document, element

if TYPE_CHECKING:
    from sos.catalog.model import ObjectRecord, PartRecord

ATTRIBUTES: Final = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})


def parse_attributes(headers: Mapping[str, str]) -> frozenset[str]:
    """``x-amz-object-attributes``. Raises: InvalidRequest, InvalidArgument."""
    text = headers.get("x-amz-object-attributes", "")
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InvalidRequest(
            message="The x-amz-object-attributes header specifying the attributes to be retrieved is either missing"
            " or empty"
        )
    for name in names:
        if name not in ATTRIBUTES:
            raise InvalidArgument(
                "x-amz-object-attributes", name, message="Invalid attribute name specified."
            )
    return frozenset(names)


def parse_parts_page(headers: Mapping[str, str]) -> tuple[int, int]:
    """``x-amz-part-number-marker`` and ``x-amz-max-parts``. Raises: InvalidArgument."""
    after = _number(headers, "x-amz-part-number-marker", 0)
    return after, min(_number(headers, "x-amz-max-parts", LIST_KEYS_MAX), LIST_KEYS_MAX)


def _number(headers: Mapping[str, str], name: str, default: int) -> int:
    text = headers.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else INT32_MAX + 1
    if number > INT32_MAX:
        raise InvalidArgument(
            name, text, message=f"Argument {name} must be an integer between 0 and 2147483647"
        )
    return number


def render_attributes(
    wanted: frozenset[str],
    record: ObjectRecord,
    parts: Sequence[PartRecord],
    *,
    after: int,
    max_parts: int,
) -> bytes:
    """GetObjectAttributesResponse. ``parts``: of the object, with numbers above ``after``; one more than fit, if any."""
    elements = []
    if "ETag" in wanted:
        elements.append(element("ETag", record.etag))
    if "Checksum" in wanted:
        count = record.part_count if record.composite else 0
        text = checksum_text(record.checksum, count)
        kind = element("ChecksumType", COMPOSITE if record.composite else FULL_OBJECT)
        name = f"Checksum{record.checksum.algorithm.name}"
        elements.append(f"<Checksum>{element(name, text)}{kind}</Checksum>")
    if "ObjectParts" in wanted and record.part_count:
        elements.append(_render_parts(record, parts, after, max_parts))
    if "StorageClass" in wanted:
        elements.append(element("StorageClass", "STANDARD"))
    if "ObjectSize" in wanted:
        elements.append(element("ObjectSize", str(record.size_bytes)))
    return document("GetObjectAttributesResponse", *elements)


def _render_parts(
    record: ObjectRecord, parts: Sequence[PartRecord], after: int, max_parts: int
) -> str:
    """Parts are listed only where each has a checksum of its own (s3.md 1.2)."""
    count = element("PartsCount", str(record.part_count))
    if not record.composite:
        return f"<ObjectParts>{count}</ObjectParts>"
    shown = parts[:max_parts]
    truncated = len(parts) > len(shown) and bool(shown)
    elements = [element("PartNumberMarker", str(after))]
    if shown:
        elements.append(element("NextPartNumberMarker", str(shown[-1].number)))
    elements += [
        element("MaxParts", str(max_parts)),
        element("IsTruncated", "true" if truncated else "false"),
        count,
    ]
    for part in shown:
        digest = ""
        if part.sent is not None:
            digest = element(f"Checksum{part.sent.algorithm.name}", checksum_text(part.sent))
        number = element("PartNumber", str(part.number))
        size = element("Size", str(part.size_bytes))
        elements.append(f"<Part>{number}{size}{digest}</Part>")
    return f"<ObjectParts>{''.join(elements)}</ObjectParts>"
