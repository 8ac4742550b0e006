"""aws-chunked bodies: framing, lengths, signatures, trailers (s3.md 3.2, 11)."""

from __future__ import annotations

import pytest

from sos.s3.chunked import CHUNK_BYTES_MIN, SIZE_LINE_BYTES_MAX, AwsChunkedDecoder, ChunkSigning
from sos.s3.errors import S3Error
from sos.s3.sigv4 import Payload, PayloadMode, SigningKey, Verified, parse_payload
from tests.unit.s3_chunks import KEY, SCOPE, SEED, STAMP, TRAILER, decode, encode
from tests.unit.s3_support import refusal

BIG = bytes(range(256)) * 32  # 8,192
CHUNKS = [BIG, BIG + b"x", b"end"]
WHOLE = b"".join(CHUNKS)


@pytest.mark.parametrize("chunks", [[], [b"a"], CHUNKS, [BIG]])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("trailer", [None, "AAAAAA=="])
def test_whole_bodies(chunks: list[bytes], signed: bool, trailer: str | None) -> None:
    """Every kind of aws-chunked body decodes, the empty one too."""
    body = encode(chunks, signed=signed, trailer=trailer)
    name = TRAILER if trailer else None
    data, value = decode(
        [body], decoded_bytes=len(b"".join(chunks)), signed=signed, trailer_name=name
    )
    assert data == b"".join(chunks)
    assert value == trailer


def test_example_of_the_aws_page() -> None:
    """The worked example of SigV4: sigv4-streaming verifies to the letter."""
    import hmac

    key = b"AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    for step in (b"20130524", b"us-east-1", b"s3", b"aws4_request"):
        key = hmac.digest(key, step, "sha256")
    signing = ChunkSigning(
        signing_key=SigningKey(key),
        timestamp="20130524T000000Z",
        scope="20130524/us-east-1/s3/aws4_request",
        seed_signature="4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    )
    body = (
        b"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
        + b"a" * 65536
        + b"\r\n400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
        + b"a" * 1024
        + b"\r\n0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
    )
    decoder = AwsChunkedDecoder(decoded_bytes=66560, trailer_name=None, signing=signing)
    assert b"".join(decoder.feed(body)) == b"a" * 66560
    assert decoder.finish() is None


def test_bytes_go_on_before_the_chunk_ends() -> None:
    """A chunk is never buffered whole: what came goes on, as views into what was fed."""
    decoder = AwsChunkedDecoder(decoded_bytes=1 << 30, trailer_name=None, signing=None)
    data = b"40000000\r\n" + b"z" * 1000
    pieces = decoder.feed(data)
    assert [len(piece) for piece in pieces] == [1000]
    assert pieces[0].obj is data


def test_the_chain_continues_from_the_request() -> None:
    """The first previous signature is the request's; unsigned modes have no chain (s3.md 3.2)."""

    def verified(payload: Payload) -> Verified:
        return Verified(
            access_key="a",
            presigned=False,
            payload=payload,
            seed_signature=SEED,
            timestamp=STAMP,
            scope=SCOPE,
            signing_key=SigningKey(KEY),
        )

    for mode in PayloadMode:
        if mode is not PayloadMode.SIGNED:
            chain = ChunkSigning.continue_from(verified(parse_payload(mode.value)))
            assert (chain is not None) == mode.value.startswith("STREAMING-AWS4")


def flip(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize(
    "where", ["data", "signature", "last signature", "trailer signature", "trailer"]
)
def test_broken_signatures(where: str) -> None:
    """3.4: a chunk or trailer signature differs -> 403 SignatureDoesNotMatch, without fields."""
    body = encode(CHUNKS, signed=True, trailer="AAAAAA==")
    at = {
        "data": body.index(b"\r\n") + 10,
        "signature": body.index(b"=") + 3,
        "last signature": body.rindex(b";chunk-signature=") + len(b";chunk-signature="),
        "trailer signature": body.index(b"trailer-signature:") + 25,
        "trailer": body.index(b"AAAAAA=="),
    }[where]
    broken = flip(body, at)
    if where == "last signature":
        broken = body[:at] + b"0" * 64 + body[at + 64 :]
    error = refusal(decode, [broken], decoded_bytes=len(WHOLE), signed=True, trailer_name=TRAILER)
    assert (error.status, error.code) == (403, "SignatureDoesNotMatch")
    assert error.fields == ()


def test_chunks_cannot_be_reordered() -> None:
    """Each signature covers the one before: two valid chunks in the other order fail."""
    one, two = BIG, BIG[::-1]
    body = encode([one, two], signed=True)
    first = body[: body.index(b"\r\n") + 2 + len(one) + 2]
    second = body[len(first) : 2 * len(first)]
    swapped = second + first + body[2 * len(first) :]
    error = refusal(decode, [swapped], decoded_bytes=2 * len(BIG), signed=True)
    assert error.code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nabcde\r\n",  # no last chunk
        b"5\r\nabc",
        b"5\r\nabcdeX\r\n0\r\n\r\n",
        b"5\r\nabcde\n0\r\n\r\n",
        b"5\nabcde\r\n0\r\n\r\n",
        b"x\r\nabcde\r\n0\r\n\r\n",
        b"-5\r\nabcde\r\n0\r\n\r\n",
        b"0x5\r\nabcde\r\n0\r\n\r\n",
        b" 5\r\nabcde\r\n0\r\n\r\n",
        b"\r\n",
        b"5;foo=bar\r\nabcde\r\n0\r\n\r\n",
        b"0" * (SIZE_LINE_BYTES_MAX + 2),
        b"5;chunk-signature=" + b"a" * 200 + b"\r\nabcde\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"4\r\nabcd\r\n0\r\n\r\n",  # decoded length not met
        b"6\r\nabcdef\r\n0\r\n\r\n",  # exceeded
        b"ffffffffffffffff\r\nabcdef",
    ],
)
def test_broken_framing(body: bytes) -> None:
    """Section 11: framing broken, size line too long or not hex, decoded length not met or exceeded -> 400 IncompleteBody."""
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        error = refusal(decode, pieces, decoded_bytes=5, signed=False)
        assert (error.status, error.code) == (400, "IncompleteBody")


def test_signed_chunk_without_signature() -> None:
    """A signed body cannot smuggle an unsigned chunk."""
    error = refusal(decode, [b"5\r\nabcde\r\n0\r\n\r\n"], decoded_bytes=5, signed=True)
    assert error.code == "IncompleteBody"


@pytest.mark.parametrize("signed", [True, False])
def test_small_chunks(signed: bool) -> None:
    """Section 11: a chunk under 8 KiB that is not the last -> 403 InvalidChunkSizeError."""
    small = b"s" * (CHUNK_BYTES_MIN - 1)
    error = refusal(
        decode,
        [encode([BIG, small, BIG], signed=signed)],
        decoded_bytes=2 * len(BIG) + len(small),
        signed=signed,
    )
    assert (error.status, error.code) == (403, "InvalidChunkSizeError")
    assert error.fields == (("Chunk", "2"), ("BadChunkSize", "8191"))


def end(trailer: bytes) -> bytes:
    return b"5\r\nabcde\r\n0\r\n" + trailer


@pytest.mark.parametrize(
    "trailer",
    [
        b"x-amz-checksum-crc32c:AAAAAA==\r\n\r\n",
        b"x-amz-checksum-crc32c:AAAAAA==\r\n",
        b"x-amz-checksum-crc32c:AAAAAA==",
        b"x-amz-checksum-crc32c:AAAAAA==\n",
        b"x-amz-checksum-crc32c:AAAAAA==\n\r\n",
        b"X-Amz-Checksum-CRC32C: AAAAAA== \r\n\r\n",
    ],
)
def test_forms_of_trailers(trailer: bytes) -> None:
    """3.2: lines end in CRLF or LF, the last may be missing, names compare without case."""
    found = decode([end(trailer)], decoded_bytes=5, signed=False, trailer_name=TRAILER)
    assert found == (b"abcde", "AAAAAA==")


@pytest.mark.parametrize(
    ("name", "trailer"),
    [
        (TRAILER, b"\r\n"),  # missing though announced
        (TRAILER, b""),
        (None, b"x-amz-checksum-crc32c:AAAAAA==\r\n\r\n"),  # present though not announced
        (TRAILER, b"x-amz-checksum-crc32:AAAAAA==\r\n\r\n"),  # another name
        (TRAILER, b"x-amz-checksum-crc32c:A\r\nx-amz-checksum-crc32c:A\r\n\r\n"),  # twice
        (TRAILER, b"x-amz-checksum-crc32c:A\r\nmore:A\r\n\r\n"),
        (TRAILER, b"nonsense\r\n\r\n"),
        (TRAILER, b":AAAAAA==\r\n\r\n"),
        (TRAILER, b"x-amz-checksum-crc32c:AAAAAA==\r\nx-amz-trailer-signature:aa\r\n\r\n"),
        (TRAILER, b"x-amz-checksum-crc32c:" + b"A" * 2000),
        (TRAILER, b"\xff\x00"),
    ],
)
def test_bad_trailers(name: str | None, trailer: bytes) -> None:
    """Section 11: malformed, missing, not announced, another name -> 400 MalformedTrailerError."""
    body = end(trailer)
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        error = refusal(decode, pieces, decoded_bytes=5, signed=False, trailer_name=name)
        assert (error.status, error.code) == (400, "MalformedTrailerError")


def test_signed_trailer_without_signature() -> None:
    """The trailer of signed chunks must be signed too."""
    body = encode([b"abc"], signed=True, trailer="AAAAAA==")
    cut = body[: body.index(b"x-amz-trailer-signature")]
    for tail in (
        b"",
        b"\r\n",
        b"x-amz-trailer-signature:\r\n",
        b"x-amz-trailer-signature:\xe9\r\n",
    ):
        error = refusal(decode, [cut + tail], decoded_bytes=3, signed=True, trailer_name=TRAILER)
        assert error.code == "SignatureDoesNotMatch"


def test_decoder_errors_are_s3_errors() -> None:
    """Every prefix of a good body fails cleanly: a client that hangs up stores nothing."""
    body = encode([BIG, b"x"], signed=True, trailer="AAAAAA==")
    for stop in range(0, len(body) - 4, 97):
        with pytest.raises(S3Error):
            decode([body[:stop]], decoded_bytes=len(BIG) + 1, signed=True, trailer_name=TRAILER)
