"""Conditions and ranges (s3.md 4, 5; RFC 9110, 13 and 14)."""

from __future__ import annotations

import pytest

from sos.catalog.model import ALWAYS, SOURCE_ALWAYS, CopySourceCondition, WriteCondition
from sos.s3.conditional import (
    UNCONDITIONAL,
    Full,
    NotModified,
    Partial,
    evaluate_read,
    parse_read_conditions,
    parse_source_condition,
    parse_write_condition,
)
from sos.s3.dates import format_http_date, parse_http_date
from tests.unit.s3_support import refusal

MODIFIED_S = 1_790_000_000
SAME = format_http_date(MODIFIED_S)
BEFORE = format_http_date(MODIFIED_S - 1)
AFTER = format_http_date(MODIFIED_S + 1)
FUTURE = format_http_date(MODIFIED_S + 10_000)
ETAG = "9b2cf535f27731c974343645a3985328"


def read(
    headers: dict[str, str], params: dict[str, str] | None = None, size_bytes: int = 10
) -> Full | Partial | NotModified:
    return evaluate_read(
        parse_read_conditions(headers, params or {}),
        etag=ETAG,
        modified_ms=MODIFIED_S * 1000 + 999,
        size_bytes=size_bytes,
        now_ms=(MODIFIED_S + 100) * 1000,
    )


OK, NOT_MODIFIED, FAILED = 200, 304, 412


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, OK),
        ({"if-match": f'"{ETAG}"'}, OK),
        ({"if-match": ETAG}, OK),
        ({"if-match": f"&quot;{ETAG}&quot;"}, OK),
        ({"if-match": "*"}, OK),
        ({"if-match": f'"x", "{ETAG}"'}, OK),
        ({"if-match": '"x","y"'}, FAILED),
        ({"if-match": ""}, FAILED),
        ({"if-match": f'W/"{ETAG}"'}, FAILED),  # weak never satisfies If-Match
        ({"if-none-match": f'"{ETAG}"'}, NOT_MODIFIED),
        ({"if-none-match": f'W/"{ETAG}"'}, NOT_MODIFIED),
        ({"if-none-match": "*"}, NOT_MODIFIED),
        ({"if-none-match": f'"x", "{ETAG}"'}, NOT_MODIFIED),
        ({"if-none-match": '"x"'}, OK),
        ({"if-unmodified-since": SAME}, OK),
        ({"if-unmodified-since": AFTER}, OK),
        ({"if-unmodified-since": BEFORE}, FAILED),
        ({"if-modified-since": BEFORE}, OK),
        ({"if-modified-since": SAME}, NOT_MODIFIED),
        ({"if-modified-since": AFTER}, NOT_MODIFIED),
        ({"if-modified-since": FUTURE}, OK),  # a time in the future is ignored
        ({"if-modified-since": "yesterday"}, OK),
        ({"if-unmodified-since": "2020-01-01"}, OK),
        # the order of RFC 9110, 13.2.2
        ({"if-match": f'"{ETAG}"', "if-unmodified-since": BEFORE}, OK),
        ({"if-match": '"x"', "if-none-match": f'"{ETAG}"'}, FAILED),
        ({"if-match": f'"{ETAG}"', "if-none-match": f'"{ETAG}"'}, NOT_MODIFIED),
        ({"if-none-match": '"x"', "if-modified-since": SAME}, OK),
        ({"if-unmodified-since": BEFORE, "if-none-match": f'"{ETAG}"'}, FAILED),
        ({"if-unmodified-since": SAME, "if-modified-since": SAME}, NOT_MODIFIED),
        ({"if-match": '"x"', "range": "bytes=99-"}, FAILED),  # before the range
        ({"if-none-match": f'"{ETAG}"', "range": "bytes=99-"}, NOT_MODIFIED),
    ],
)
def test_read_conditions(headers: dict[str, str], status: int) -> None:
    """4.1, step by step."""
    if status == FAILED:
        error = refusal(read, headers)
        assert (error.status, error.code) == (412, "PreconditionFailed")
        assert error.fields[0][1].lower() in headers
    else:
        assert read(headers) == (NotModified() if status == NOT_MODIFIED else Full())


def test_nothing_asked_costs_nothing() -> None:
    """The common read shares one value."""
    assert parse_read_conditions({"host": "h"}, {"x-id": "GetObject"}) is UNCONDITIONAL


@pytest.mark.parametrize(
    ("text", "start", "stop", "shows_checksum"),
    [
        ("bytes=0-8", 0, 9, False),
        ("bytes=5-", 5, 10, False),
        ("bytes=5-99", 5, 10, False),
        ("bytes=-3", 7, 10, False),
        ("bytes=-15", 0, 10, True),
        ("bytes=-10", 0, 10, True),
        ("bytes=0-9", 0, 10, False),
        ("bytes=9-9", 9, 10, False),
        ("Bytes=0-0", 0, 1, False),
        ("bytes=0-" + "9" * 400, 0, 10, False),
    ],
)
def test_satisfiable_ranges(text: str, start: int, stop: int, shows_checksum: bool) -> None:
    """5: the table for a 10-byte object."""
    expected = Partial(start=start, stop=stop, shows_checksum=shows_checksum)
    assert read({"range": text}) == expected


@pytest.mark.parametrize(
    "text", ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=" + "9" * 400 + "-"]
)
def test_unsatisfiable_ranges(text: str) -> None:
    """5: 416 InvalidRange with both fields and ``Content-Range: bytes */10``."""
    error = refusal(read, {"range": text})
    assert (error.status, error.code) == (416, "InvalidRange")
    assert error.fields == (("RangeRequested", text), ("ActualObjectSize", "10"))
    assert error.headers == (("Content-Range", "bytes */10"),)


@pytest.mark.parametrize("text", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0"])
def test_ranges_of_an_empty_object(text: str) -> None:
    """5: any bytes range on an empty object is 416."""
    assert refusal(read, {"range": text}, {}, 0).status == 416


@pytest.mark.parametrize(
    "text",
    [
        *("bytes=3-1", "bytes=--1", "bytes=-", "0-8", "bytes=a-b", "items=0-1", "bytes=0-1,3-4"),
        *("", "bytes", "bytes=", "bytes=1", "bytes=+1-2", "bytes=1-2-3", "bytes=٣-٤"),
    ],
)
def test_other_ranges_are_ignored(text: str) -> None:
    """5: every other form is ignored: 200, whole (seen)."""
    assert read({"range": text}) == Full()


def test_part_number() -> None:
    """5, 11: a plain object is one part; the rest is 416 or 400."""
    assert read({}, {"partNumber": "1"}) == Partial(start=0, stop=10)
    assert read({}, {"partNumber": "1"}, 0) == Full()
    error = refusal(read, {}, {"partNumber": "2"})
    assert (error.status, error.code) == (416, "InvalidPartNumber")
    assert error.fields == (("PartNumberRequested", "2"), ("ActualPartCount", "1"))
    for text in ("0", "10001", "x", "", "-1", "1.0"):
        error = refusal(read, {}, {"partNumber": text})
        assert (error.status, error.code) == (400, "InvalidArgument")
    error = refusal(read, {"range": "bytes=0-1"}, {"partNumber": "1"})
    assert (error.status, error.code) == (400, "InvalidRequest")


@pytest.mark.parametrize(
    ("if_range", "applies"),
    [
        (f'"{ETAG}"', True),
        ('"x"', False),
        (f'W/"{ETAG}"', False),
        (SAME, True),
        (BEFORE, False),
        (AFTER, False),
        ("nonsense", False),
        ("", False),
        (f'"x", "{ETAG}"', False),
    ],
)
def test_if_range(if_range: str, applies: bool) -> None:
    """5: an ``If-Range`` that does not match serves the whole object (RFC 9110, 13.1.5)."""
    answer = read({"range": "bytes=0-1", "if-range": if_range})
    assert answer == (Partial(start=0, stop=2) if applies else Full())


# --- writes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("headers", "is_delete", "superset", "expected"),
    [
        ({}, False, False, ALWAYS),
        ({"if-none-match": "*"}, False, False, WriteCondition(if_none_match_any=True)),
        ({"if-none-match": '"x"'}, False, False, None),
        ({"if-none-match": ""}, False, False, None),
        ({"if-match": '"e"'}, False, False, WriteCondition(if_match="e")),
        ({"if-match": "e"}, False, False, WriteCondition(if_match="e")),
        ({"if-match": "*"}, False, False, None),
        ({"if-match": "*"}, False, True, WriteCondition(if_match="*")),
        ({"if-match": '"e", "f"'}, False, False, None),
        ({"if-match": 'W/"e"'}, False, False, None),
        ({"if-match": ""}, False, False, None),
        ({"if-match": '"e"', "if-none-match": "*"}, False, False, None),
        ({"if-modified-since": SAME}, False, False, None),
        ({"if-unmodified-since": SAME}, False, False, None),
        ({"if-match": '"e"', "if-unmodified-since": SAME}, False, False, None),
        ({"if-match": '"e"'}, True, False, WriteCondition(if_match="e")),
        ({"if-match": "*"}, True, False, WriteCondition(if_match="*")),
        ({"if-none-match": "*"}, True, False, None),
        ({"if-modified-since": SAME}, True, False, None),
    ],
)
def test_write_conditions(
    headers: dict[str, str], is_delete: bool, superset: bool, expected: WriteCondition | None
) -> None:
    """4.3: what has a row is parsed; everything else is 501 with Header, never judged in part."""
    if expected is None:
        error = refusal(parse_write_condition, headers, is_delete=is_delete, superset=superset)
        assert (error.status, error.code) == (501, "NotImplemented")
        assert error.fields[0][1].lower() in headers
    else:
        found = parse_write_condition(headers, is_delete=is_delete, superset=superset)
        assert found == expected


def test_source_conditions() -> None:
    """4.2: the four headers, for the catalog to judge."""
    assert parse_source_condition({"if-match": '"x"'}) is SOURCE_ALWAYS
    headers = {
        "x-amz-copy-source-if-match": f'"{ETAG}", W/"w"',
        "x-amz-copy-source-if-none-match": "*",
        "x-amz-copy-source-if-modified-since": SAME,
        "x-amz-copy-source-if-unmodified-since": "nonsense",
    }
    assert parse_source_condition(headers) == CopySourceCondition(
        if_match=(ETAG,), if_none_match=("*",), if_modified_since_s=MODIFIED_S
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784111777),
        ("Sun Nov  6 08:49:37 1994", 784111777),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:60 GMT", 784111800),
        ("Sun, 06 Nov 1994 08:49:61 GMT", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ("Sun, 06 Nov 1994 24:00:00 GMT", None),
        ("1994-11-06T08:49:37Z", None),
        ("", None),
    ],
)
def test_dates(text: str, seconds: int | None) -> None:
    """2.6: the three forms of RFC 9110, 5.6.7, and nothing else."""
    assert parse_http_date(text) == seconds
