"""An encoder of aws-chunked bodies, written from the AWS pages alone, to test the decoder against."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from sos.s3.chunked import AwsChunkedDecoder, ChunkSigning
from sos.s3.sigv4 import SigningKey

KEY = bytes(range(32))
STAMP = "20261125T000000Z"
SCOPE = "20261125/us-east-1/s3/aws4_request"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
TRAILER = "x-amz-checksum-crc32c"
SIGNING = ChunkSigning(
    signing_key=SigningKey(KEY), timestamp=STAMP, scope=SCOPE, seed_signature=SEED
)
_EMPTY = hashlib.sha256(b"").hexdigest()


def _sign(kind: str, previous: str, rest: str) -> str:
    text = f"AWS4-HMAC-SHA256-{kind}\n{STAMP}\n{SCOPE}\n{previous}\n{rest}"
    return hmac.new(KEY, text.encode(), "sha256").hexdigest()


def encode(
    chunks: Sequence[bytes], *, signed: bool, trailer: str | None = None, name: str = TRAILER
) -> bytes:
    """``chunks`` and the closing one, with a trailer of value ``trailer``."""
    previous, out = SEED, b""
    for chunk in [*chunks, b""]:
        line = f"{len(chunk):x}"
        if signed:
            digest = hashlib.sha256(chunk).hexdigest()
            previous = _sign("PAYLOAD", previous, f"{_EMPTY}\n{digest}")
            line += f";chunk-signature={previous}"
        out += line.encode() + b"\r\n" + (chunk + b"\r\n" if chunk else b"")
    if trailer is not None:
        out += f"{name}:{trailer}\r\n".encode()
        if signed:
            digest = hashlib.sha256(f"{name}:{trailer}\n".encode()).hexdigest()
            signature = _sign("TRAILER", previous, digest)
            out += f"x-amz-trailer-signature:{signature}\r\n".encode()
    return out + b"\r\n"


def decode(
    pieces: Sequence[bytes], *, decoded_bytes: int, signed: bool, trailer_name: str | None = None
) -> tuple[bytes, str | None]:
    """Feed ``pieces``; the object's bytes and the trailer's value."""
    decoder = AwsChunkedDecoder(
        decoded_bytes=decoded_bytes,
        trailer_name=trailer_name,
        signing=SIGNING if signed else None,
    )
    data = b"".join(b"".join(decoder.feed(piece)) for piece in pieces)
    return data, decoder.finish()
