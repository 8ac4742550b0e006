"""HTTP/1.1 on the wire: what is read, and that everything else is refused (s3.md 2.6, 11)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sos.s3.wire import TransferDecoder, WireError, parse_head, render_head


def head(*lines: bytes, start: bytes = b"GET /b/k HTTP/1.1") -> bytes:
    return b"\r\n".join((start, *lines))


def test_a_head_is_read_as_sent() -> None:
    """Signatures are made over what was sent: target and values keep every byte (s3.md 2.2)."""
    wire = parse_head(
        head(
            b"Host: h:9000",
            b"X-Amz-Meta-A:  \xe9\xff ",
            b"x-amz-meta-a: b",
            start=b"PUT /b/%2f?a HTTP/1.1",
        )
    )

    assert wire.method == "PUT"
    assert wire.target == b"/b/%2f?a"
    assert wire.raw_headers == [
        ("host", b"h:9000"),
        ("x-amz-meta-a", b"\xe9\xff"),
        ("x-amz-meta-a", b"b"),
    ]
    assert wire.headers == {"host": "h:9000", "x-amz-meta-a": "\xe9\xff,b"}
    assert wire.keep_alive
    assert wire.content_length is None


@pytest.mark.parametrize(
    ("lines", "start"),
    [
        pytest.param([b"Host: h"], b"GET /b HTTP/2.0", id="version 2"),
        pytest.param([b"Host: h"], b"GET /b", id="no version"),
        pytest.param([b"Host: h"], b"GET  /b HTTP/1.1", id="two blanks"),
        pytest.param([b"Host: h"], b"G(T /b HTTP/1.1", id="method"),
        pytest.param([b"Host: h"], b"GET /\x7f HTTP/1.1", id="control in target"),
        pytest.param([b"Host: h", b"no colon"], b"GET / HTTP/1.1", id="no colon"),
        pytest.param([b"Host : h"], b"GET / HTTP/1.1", id="blank before colon"),
        pytest.param([b"Host: h", b" folded: x"], b"GET / HTTP/1.1", id="folding"),
        pytest.param([b"Host: h", b"a: \x00"], b"GET / HTTP/1.1", id="NUL"),
        pytest.param([b"Host: h", b"a: x\ny: z"], b"GET / HTTP/1.1", id="bare LF"),
        pytest.param([b"Host: h", b"a: x\ry"], b"GET / HTTP/1.1", id="bare CR"),
        pytest.param([], b"GET / HTTP/1.1", id="no host"),
        pytest.param([b"Host: h", b"Host: i"], b"GET / HTTP/1.1", id="two hosts"),
        pytest.param([b"Host: h", b"Content-Length: -1"], b"PUT / HTTP/1.1", id="negative"),
        pytest.param([b"Host: h", b"Content-Length:"], b"PUT / HTTP/1.1", id="empty length"),
        pytest.param([b"Host: h", b"Content-Length: +1"], b"PUT / HTTP/1.1", id="plus"),
        pytest.param([b"Host: h", b"Content-Length: 1, 1"], b"PUT / HTTP/1.1", id="list"),
        pytest.param(
            [b"Host: h", b"Content-Length: 99999999999999999999"], b"PUT / HTTP/1.1", id="huge"
        ),
        pytest.param(
            [b"Host: h", b"Content-Length: 1", b"Content-Length: 2"],
            b"PUT / HTTP/1.1",
            id="two lengths",
        ),
        pytest.param(
            [b"Host: h", b"Content-Length: 1", b"Transfer-Encoding: chunked"],
            b"PUT / HTTP/1.1",
            id="both lengths",
        ),
        pytest.param(
            [b"Host: h", b"Transfer-Encoding: gzip, chunked"], b"PUT / HTTP/1.1", id="coding"
        ),
        pytest.param(
            [b"Host: h", b"Transfer-Encoding: chunked"], b"PUT / HTTP/1.0", id="1.0 chunked"
        ),
    ],
)
def test_what_rfc_9112_does_not_allow_is_refused(lines: list[bytes], start: bytes) -> None:
    """No message is read in a way that a proxy in front could read differently (RFC 9112, 6.3, 11.2)."""
    with pytest.raises(WireError):
        parse_head(head(*lines, start=start))


def test_connection_and_expectation_are_understood() -> None:
    """Keep-alive is the default of 1.1 alone; only 100-continue is an expectation (s3.md 2.6)."""
    assert not parse_head(head(b"Host: h", b"Connection: TE, Close")).keep_alive
    assert not parse_head(head(start=b"GET / HTTP/1.0")).keep_alive
    assert parse_head(head(b"Host: h", b"Expect: 100-Continue")).expects_continue
    assert not parse_head(head(b"Host: h", b"Expect: a cake")).expects_continue


CHUNKED = b"4\r\nWiki\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nGET /next"


@given(st.lists(st.integers(min_value=0, max_value=len(CHUNKED)), max_size=8))
def test_transfer_chunks_decode_alike_for_any_split(cuts: list[int]) -> None:
    """TCP splits a stream where it likes: body and rest are the same for every split."""
    decoder = TransferDecoder()
    edges = [0, *sorted(cuts), len(CHUNKED)]
    body, rest = b"", b""

    for start, stop in itertools.pairwise(edges):
        piece = CHUNKED[start:stop]
        if decoder.finished:
            rest += piece
        else:
            out, rest = decoder.feed(piece)
            body += b"".join(out)

    assert body == b"Wiki0123456789"
    assert decoder.finished
    assert rest == b"GET /next"


@pytest.mark.parametrize(
    "stream",
    [
        b"x\r\n",
        b"-1\r\n",
        b"4\nWiki\r\n",
        b"4\r\nWikix\r\n",
        b"0x4\r\nWiki\r\n",
        b"\r\n",
        b"1000000000000000\r\n",
        b"4;" + b"e" * 5000,
        b"4;x=y\r\nWiki\r\n",
        b"4;\r\nWiki\r\n",
        b"4 \r\nWiki\r\n",
        b"0;x\r\n\r\n",
        b"0\r\n" + b"t: v\r\n" * 3000,
    ],
)
def test_broken_transfer_chunks_are_refused(stream: bytes) -> None:
    """Broken framing never becomes body bytes (RFC 9112, 7.1)."""
    with pytest.raises(WireError):
        TransferDecoder().feed(stream)


def test_a_response_header_cannot_split_the_response() -> None:
    """A stored value with a line break is our bug, never a second header (CWE-113)."""
    for value in ("a\r\nb: c", "a\nb", "\x00"):
        with pytest.raises(ValueError, match="control"):
            render_head(200, [("x", value)])
    assert render_head(204, [("A", "é")]) == b"HTTP/1.1 204 No Content\r\nA: \xc3\xa9\r\n\r\n"
