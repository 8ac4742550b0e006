"""Conditions and ranges of a request, and what they decide about a read. Pure.

Reads are decided here (RFC 9110, 13.2.2; s3.md 4.1, 5), always against a record found after a read barrier. Conditions
on writes and copy sources are only parsed here: the catalog decides them, at one place in the log (s3.md 4.2, 4.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import ALWAYS, SOURCE_ALWAYS, CopySourceCondition, WriteCondition
from sos.s3.dates import parse_http_date
from sos.s3.errors import (
    FeatureNotImplemented,
    InvalidArgument,
    InvalidPartNumber,
    InvalidRange,
    InvalidRequest,
    PreconditionFailed,
)

ANY: Final = "*"
PART_NUMBER_MAX: Final = 10_000
READ_CONDITIONS: Final = frozenset(
    {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"}
)
SOURCE_PREFIX: Final = "x-amz-copy-source-if-"
_SOURCE_HEADERS: Final = tuple(
    f"{SOURCE_PREFIX}{end}" for end in ("match", "none-match", "modified-since", "unmodified-since")
)
_RANGE: Final = re.compile(r"bytes=[ \t]*(\d*)-(\d*)[ \t]*", re.ASCII | re.IGNORECASE)
_PART_NUMBER: Final = re.compile(r"\d{1,10}", re.ASCII)
_DIGITS_MAX: Final = 19  # beyond it, every position is past the end of any object


# --- reads: what is asked ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class RangeFrom:
    """``bytes=first-last``, both included; ``last is None``: to the end."""

    text: str
    first: int
    last: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSuffix:
    """``bytes=-length``: the last bytes."""

    text: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConditions:
    """The ``If-*``, ``Range`` and ``partNumber`` of a GET or HEAD. ETags without quotes; ``None``: not sent.

    ``if_match`` leaves out weak ETags: they satisfy nothing. ``if_range``: an ETag, a time in seconds, or ``None``.
    """

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    if_modified_since_s: int | None = None
    if_unmodified_since_s: int | None = None
    range: RangeFrom | RangeSuffix | None = None
    if_range: str | int | None = None
    part_number: int | None = None


UNCONDITIONAL: Final = ReadConditions()


# --- reads: what is answered ------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Full:
    """200, the whole object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """206, bytes ``[start, stop)``. ``shows_checksum``: AWS sends the whole object's checksum with it (s3.md 5)."""

    start: int
    stop: int
    shows_checksum: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NotModified:
    """304."""


FULL: Final = Full()
NOT_MODIFIED: Final = NotModified()


def parse_read_conditions(headers: Mapping[str, str], params: Mapping[str, str]) -> ReadConditions:
    """Read what a GET or HEAD depends on. Unreadable dates and ranges are ignored (s3.md 4.1, 5).

    Raises: InvalidArgument (partNumber), InvalidRequest (partNumber with Range).
    """
    part_number = _parse_part_number(params["partNumber"]) if "partNumber" in params else None
    text = headers.get("range")
    if text is not None and part_number is not None:
        raise InvalidRequest(
            message="Cannot specify both Range header and partNumber query parameter"
        )
    wanted = _parse_range(text) if text is not None else None
    if wanted is None and part_number is None and READ_CONDITIONS.isdisjoint(headers):
        return UNCONDITIONAL
    if_range = headers.get("if-range")
    return ReadConditions(
        if_match=_etags(headers.get("if-match"), weak=False),
        if_none_match=_etags(headers.get("if-none-match"), weak=True),
        if_modified_since_s=_date(headers.get("if-modified-since")),
        if_unmodified_since_s=_date(headers.get("if-unmodified-since")),
        range=wanted,
        if_range=_parse_if_range(if_range) if if_range is not None else None,
        part_number=part_number,
    )


def _parse_part_number(text: str) -> int:
    number = int(text) if _PART_NUMBER.fullmatch(text) else 0
    if not 1 <= number <= PART_NUMBER_MAX:
        raise InvalidArgument(
            "partNumber",
            text,
            message="Part number must be an integer between 1 and 10000, inclusive",
        )
    return number


def _parse_range(text: str) -> RangeFrom | RangeSuffix | None:
    """One range of bytes; ``None`` for every other form, which is ignored (seen)."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return None
    first, last = found[1][-_DIGITS_MAX - 1 :], found[2][-_DIGITS_MAX - 1 :]
    if not first:
        return RangeSuffix(text=text, length=int(last)) if last else None
    if last and int(last) < int(first):
        return None
    return RangeFrom(text=text, first=int(first), last=int(last) if last else None)


def _etags(text: str | None, *, weak: bool) -> tuple[str, ...] | None:
    """The ETags of a comma list, without quotes. ``weak``: keep weak ones too, as if they were strong."""
    if text is None:
        return None
    etags = []
    for piece in text.replace("&quot;", '"').split(","):
        etag = piece.strip()
        if etag.startswith("W/"):
            if not weak:
                continue
            etag = etag[2:]
        if etag:
            etags.append(etag.strip('"'))
    return tuple(etags)


def _date(text: str | None) -> int | None:
    return parse_http_date(text) if text is not None else None


def _parse_if_range(text: str) -> str | int:
    """An ETag or a time. An empty text, which equals no ETag, for a weak one, a list, or none."""
    seconds = parse_http_date(text)
    if seconds is not None:
        return seconds
    strong = _etags(text, weak=False)
    return strong[0] if strong and len(strong) == 1 else ""


# --- reads: the decision ----------------------------------------------------------------------------
def evaluate_read(
    conditions: ReadConditions,
    *,
    etag: str,
    modified_ms: int,
    size_bytes: int,
    now_ms: int,
    part_count: int = 0,
    span: tuple[int, int] | None = None,
) -> Full | Partial | NotModified:
    """Decide what a read of an existing object answers (RFC 9110, 13.2.2). ``etag`` without quotes.

    ``part_count``: 0 for an object that was not uploaded in parts. ``span``: where the part that is asked for lies.
    Raises: PreconditionFailed, InvalidRange, InvalidPartNumber.
    """
    if conditions is UNCONDITIONAL:
        return FULL
    modified_s = modified_ms // 1000
    if conditions.if_match is not None:
        if not _matches(conditions.if_match, etag):
            raise PreconditionFailed("If-Match")
    elif _is_after(modified_s, conditions.if_unmodified_since_s):
        raise PreconditionFailed("If-Unmodified-Since")
    if conditions.if_none_match is not None:
        if _matches(conditions.if_none_match, etag):
            return NOT_MODIFIED
    else:
        since = conditions.if_modified_since_s
        # A time in the future is no time at all (RFC 9110, 13.1.3).
        if since is not None and since <= now_ms // 1000 and modified_s <= since:
            return NOT_MODIFIED
    if conditions.part_number is not None:
        if part_count:
            return _part(conditions.part_number, part_count, span)
        return _whole_part(conditions.part_number, size_bytes)
    if conditions.range is None or not _range_applies(conditions.if_range, etag, modified_s):
        return FULL
    return _satisfy(conditions.range, size_bytes)


def _matches(wanted: tuple[str, ...], etag: str) -> bool:
    return etag in wanted or ANY in wanted


def _is_after(modified_s: int, limit_s: int | None) -> bool:
    return limit_s is not None and modified_s > limit_s


def _range_applies(if_range: str | int | None, etag: str, modified_s: int) -> bool:
    if if_range is None:
        return True
    return if_range == (etag if isinstance(if_range, str) else modified_s)


def _part(part_number: int, part_count: int, span: tuple[int, int] | None) -> Full | Partial:
    if span is None:
        raise InvalidPartNumber(str(part_number), str(part_count))
    start, stop = span
    return Partial(start=start, stop=stop) if stop > start else FULL


def _whole_part(part_number: int, size_bytes: int) -> Full | Partial:
    """An object written in one piece is its own only part."""
    if part_number != 1:
        raise InvalidPartNumber(str(part_number), "1")
    # An empty object has no first byte that a Content-Range could name.
    return Partial(start=0, stop=size_bytes) if size_bytes else FULL


def _satisfy(wanted: RangeFrom | RangeSuffix, size_bytes: int) -> Partial:
    if isinstance(wanted, RangeSuffix):
        if wanted.length and size_bytes:
            start = max(0, size_bytes - wanted.length)
            return Partial(start=start, stop=size_bytes, shows_checksum=start == 0)
    elif wanted.first < size_bytes:
        last = size_bytes - 1 if wanted.last is None else min(wanted.last, size_bytes - 1)
        return Partial(start=wanted.first, stop=last + 1)
    raise InvalidRange(
        wanted.text, str(size_bytes), headers=(("Content-Range", f"bytes */{size_bytes}"),)
    )


# --- writes and copies ------------------------------------------------------------------------------
def parse_write_condition(
    headers: Mapping[str, str], *, is_delete: bool, superset: bool = False
) -> WriteCondition:
    """The condition of a Put, Copy or (``is_delete``) DeleteObject (s3.md 4.3).

    Raises: NotImplemented for every condition that has no row there, naming its header.
    """
    if_match, if_none_match = headers.get("if-match"), headers.get("if-none-match")
    for name in headers:
        if name.startswith("if-") and name not in ("if-match", "if-none-match"):
            raise FeatureNotImplemented(_title(name))
    if if_none_match is not None:
        if is_delete or if_match is not None or if_none_match != ANY:
            raise FeatureNotImplemented(
                "If-None-Match",
                "We don't accept the provided value of If-None-Match header for this API",
            )
        return WriteCondition(if_none_match_any=True)
    if if_match is None:
        return ALWAYS
    etags = _etags(if_match, weak=True)
    is_any = if_match == ANY
    if is_any and (is_delete or superset):
        return WriteCondition(if_match=ANY)
    # Lists and weak ETags are legal HTTP, yet no row of S3's table: refused, never judged in part.
    if is_any or not etags or len(etags) > 1 or if_match.startswith("W/"):
        raise FeatureNotImplemented(
            "If-Match", "We don't accept the provided value of If-Match header for this API"
        )
    return WriteCondition(if_match=etags[0])


def _title(name: str) -> str:
    return "-".join([part.capitalize() for part in name.split("-")])


def parse_source_condition(headers: Mapping[str, str]) -> CopySourceCondition:
    """``x-amz-copy-source-if-*``, for the catalog to judge before the destination's (s3.md 4.2)."""
    match, none_match, modified, unmodified = (headers.get(name) for name in _SOURCE_HEADERS)
    if match is None and none_match is None and modified is None and unmodified is None:
        return SOURCE_ALWAYS
    return CopySourceCondition(
        if_match=_etags(match, weak=False),
        if_none_match=_etags(none_match, weak=True),
        if_modified_since_s=_date(modified),
        if_unmodified_since_s=_date(unmodified),
    )


def source_condition_names(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The ``x-amz-copy-source-if-*`` that were sent; where it is one alone, a 412 can name it."""
    return tuple([name for name in _SOURCE_HEADERS if name in headers])
