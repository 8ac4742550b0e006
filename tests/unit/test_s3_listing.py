"""Parameters and tokens of listings (s3.md 6)."""

from __future__ import annotations

import pytest

from sos.catalog.model import BucketRecord
from sos.s3.listing import (
    list_position,
    open_token,
    page_buckets,
    parse_list_parameters,
    parse_upload_marker,
    parse_version_marker,
    seal_token,
)
from tests.unit.s3_support import refusal

SECRET = bytes(range(32))


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("1", 1), ("1000", 1000), ("1001", 1000), ("2147483647", 1000), ("007", 7)],
)
def test_max_keys(text: str, value: int) -> None:
    """6.1: above 1,000 serves and echoes 1,000; 0 is a page without entries."""
    assert parse_list_parameters({"max-keys": text}).max_keys == value


@pytest.mark.parametrize(
    "text", ["-1", "x", "", "2147483648", "-2147483649", "1.0", " 1", "9" * 30, "١"]
)
@pytest.mark.parametrize("name", ["max-keys", "max-uploads"])
def test_bad_page_sizes(name: str, text: str) -> None:
    """Section 11: not int32, negative -> 400 InvalidArgument."""
    error = refusal(parse_list_parameters, {name: text}, size_name=name)
    assert (error.status, error.code) == (400, "InvalidArgument")
    assert error.fields == (("ArgumentName", name), ("ArgumentValue", text))


def test_negative_page_size_says_what_aws_says() -> None:
    """6.1: the message of a negative ``max-keys``."""
    error = refusal(parse_list_parameters, {"max-keys": "-5"})
    assert error.message == "Argument maxKeys must be an integer between 0 and 2147483647"


def test_encoding_type() -> None:
    """Section 11: ``encoding-type`` other than ``url``, or empty -> 400 InvalidArgument."""
    assert parse_list_parameters({"encoding-type": "url"}).encodes_url
    assert not parse_list_parameters({}).encodes_url
    for text in ("", "URL", "base64"):
        assert refusal(parse_list_parameters, {"encoding-type": text}).code == "InvalidArgument"


def test_version_markers() -> None:
    """6.5: a version marker needs a key marker, and only ``null`` was ever issued."""
    assert parse_version_marker({}) == ("", "")
    assert parse_version_marker({"key-marker": "k"}) == ("k", "")
    assert parse_version_marker({"key-marker": "k", "version-id-marker": "null"}) == ("k", "null")
    for params in (
        {"version-id-marker": "null"},
        {"version-id-marker": "null", "key-marker": ""},
        {"version-id-marker": "", "key-marker": "k"},
    ):
        assert refusal(parse_version_marker, params).code == "InvalidArgument"


def test_upload_markers() -> None:
    """6.6: ignored without a key marker; with it, an id that we never issued -> 400 InvalidArgument."""
    assert parse_upload_marker({"upload-id-marker": "u"}) == ("", None)
    assert parse_upload_marker({"key-marker": "k"}) == ("k", None)
    upload = "0123456789abcdef" * 2
    assert parse_upload_marker({"key-marker": "k", "upload-id-marker": upload}) == (
        "k",
        bytes.fromhex(upload),
    )
    error = refusal(parse_upload_marker, {"key-marker": "k", "upload-id-marker": "u"})
    assert error.code == "InvalidArgument"


def test_tokens() -> None:
    """6.3: stateless, URL-safe, valid wherever the cluster's secret is known."""
    for last in ("a", "dir/", "é😀", "\x00", "k" * 1024):
        token = seal_token(SECRET, last)
        assert open_token(SECRET, token) == last
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_foreign_tokens() -> None:
    """6.3, 11: not ours, changed, or empty -> 400 InvalidArgument; a token of another list is not ours."""
    token = seal_token(SECRET, "key")
    buckets = [bucket("aaa"), bucket("bbb")]
    page = page_buckets(buckets, secret=SECRET, prefix="", token="", max_buckets=1)
    assert page.next_token is not None
    changed = token[:5] + ("A" if token[5] != "A" else "B") + token[6:]
    for text in ("", "x", "é", token[:-1], changed, token + "AAAA", "=" * 9, "A" * 5000):
        error = refusal(open_token, SECRET, text)
        assert (error.status, error.code) == (400, "InvalidArgument")
        assert error.message == "The continuation token provided is incorrect"
    assert refusal(open_token, bytes(32), token).code == "InvalidArgument"
    assert refusal(open_token, SECRET, page.next_token).code == "InvalidArgument"


def test_position() -> None:
    """6.1: the token beats ``start-after``; an empty token is none only by setting."""
    token = seal_token(SECRET, "t")
    assert list_position(SECRET, token=token, start_after="s") == "t"
    assert list_position(SECRET, token=None, start_after="s") == "s"
    assert list_position(SECRET, token=None, start_after=None) == ""
    assert list_position(SECRET, token="", start_after="s", superset=True) == "s"
    assert refusal(list_position, SECRET, token="", start_after="s").code == "InvalidArgument"


def bucket(name: str) -> BucketRecord:
    return BucketRecord(name=name, created_ms=0, object_count=0, size_bytes=0, bucket_id=1)


def test_pages_of_buckets() -> None:
    """1.1.3: pages join to the whole list; a token only if more follow."""
    buckets = [bucket(f"b{number:02d}") for number in range(7)] + [bucket("other")]
    seen: list[str] = []
    token = ""
    while True:
        page = page_buckets(buckets, secret=SECRET, prefix="b", token=token, max_buckets=3)
        seen += [found.name for found in page.buckets]
        if page.next_token is None:
            break
        token = page.next_token
    assert seen == [f"b{number:02d}" for number in range(7)]
    everything = page_buckets(buckets, secret=SECRET, prefix="", token="", max_buckets=8)
    assert (len(everything.buckets), everything.next_token) == (8, None)
