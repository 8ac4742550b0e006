"""Names survive: paths, XML in both encodings, tokens (s3.md 2.2, 2.5, 6)."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote, unquote_plus

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sos.s3.errors import S3Error
from sos.s3.listing import open_token, seal_token
from sos.s3.listing_xml import encode_url
from sos.s3.metadata import encode_words, normalise_value
from sos.s3.target import S3Settings, parse_target
from sos.s3.wire import WireError
from sos.s3.xml import escape, parse_delete
from tests.unit.s3_support import sent_head

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
XML_TEXT = st.text(  # what XML 1.0 can hold
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r"),
    min_size=1,
    max_size=60,
).filter(lambda text: not {"\ufffe", "\uffff"} & set(text))


@given(key=TEXT)
def test_keys_come_back_as_sent(key: str) -> None:
    """Any key that a client encodes is the key that the catalog sees."""
    for safe in ("", "/", "/!'()*~+=&"):
        head = sent_head("GET", f"/bucket/{quote(key, safe=safe)}", [])
        target = parse_target(head, S3Settings())
        assert (target.bucket, target.key) == ("bucket", key)


HEAD_BYTES = st.lists(  # bytes that HTTP lets through, and some that it does not
    st.one_of(st.integers(33, 126), st.integers(128, 255), st.integers(0, 255)), max_size=60
).map(bytes)


@given(target=HEAD_BYTES, value=HEAD_BYTES)
def test_hostile_heads(target: bytes, value: bytes) -> None:
    """Any bytes give a target, an S3 error, or are no HTTP."""
    with suppress(S3Error, WireError):
        head = sent_head("GET", b"/" + target, [(b"host", value), (b"x", value)])
        parse_target(head, S3Settings(domains=("d.example",)))


@given(text=XML_TEXT)
def test_escaped_text_is_read_back(text: str) -> None:
    """An XML parser reads the same text; CR is not turned into LF."""
    assert etree.fromstring(f"<a>{escape(text)}</a>".encode()).text == text
    body = f"<Delete><Object><Key>{escape(text)}</Key></Object></Delete>"
    assert parse_delete(body.encode()).entries[0].key == text


@given(text=TEXT)
def test_url_encoding_is_reversible_and_safe(text: str) -> None:
    """``encoding-type=url`` decodes by the rules that SDKs use, and needs no escaping."""
    encoded = encode_url(text)
    assert unquote_plus(encoded) == text
    assert escape(encoded) == encoded


@given(text=TEXT, secret=st.binary(min_size=32, max_size=32))
def test_tokens_are_reversible(text: str, secret: bytes) -> None:
    """A token names its position on every node."""
    assert open_token(secret, seal_token(secret, text)) == text


@given(text=TEXT)
def test_metadata_words_are_stable(text: str) -> None:
    """A value that came back as words and is stored again comes back the same (1.1.1)."""
    words = encode_words(text)
    assert words.isascii()
    if not text.isascii():
        assert normalise_value(words) == words
