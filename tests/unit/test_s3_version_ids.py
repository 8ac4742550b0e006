"""Version ids: opaque, ours or not (s3.md 1.3)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sos.catalog.model import NULL_VERSION, VersionNumber
from sos.s3.errors import InvalidArgument
from sos.s3.version_ids import parse_place_id, parse_version_id, place_id, version_id

SECRET, OTHER = b"s" * 32, b"o" * 32


@given(number=st.integers(1, (1 << 64) - 1))
def test_an_id_is_read_back_by_whoever_knows_the_secret(number: int) -> None:
    """The same on every node; of no use to another cluster, and no listing marker."""
    text = version_id(SECRET, VersionNumber(number))
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", text)
    assert parse_version_id(SECRET, text) == number
    assert parse_place_id(SECRET, text) is None
    with pytest.raises(InvalidArgument):
        parse_version_id(OTHER, text)
    assert parse_place_id(SECRET, place_id(SECRET, number)) == number
    with pytest.raises(InvalidArgument):
        parse_version_id(SECRET, place_id(SECRET, number))


@given(text=st.text(max_size=40))
def test_what_we_never_issued_is_refused(text: str) -> None:
    """Nothing but InvalidArgument, whatever is sent."""
    if text == "null":
        return
    with pytest.raises(InvalidArgument):
        parse_version_id(SECRET, text)


def test_null() -> None:
    """Written while the bucket was unversioned or suspended."""
    assert version_id(SECRET, NULL_VERSION) == "null"
    assert parse_version_id(SECRET, "null") == NULL_VERSION
