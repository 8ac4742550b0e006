"""Decoder of aws-chunked bodies: signed, unsigned, with and without a trailer. Pure.

Source: s3.md 3.2 (SigV4: sigv4-streaming, sigv4-streaming-trailers). A chunk is never buffered whole: its bytes go on
as they come, and ``finish`` tells whether every signature held; until then nothing may be committed. Any split of the
input gives the same bytes and the same verdict.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from sos.s3.errors import (
    IncompleteBody,
    InvalidChunkSizeError,
    MalformedTrailerError,
    SignatureDoesNotMatch,
)
from sos.s3.sigv4 import EMPTY_SHA256, PayloadMode, SigningKey, Verified

CHUNK_BYTES_MIN: Final = 8192  # of every chunk but the last (SigV4: sigv4-streaming)
SIZE_LINE_BYTES_MAX: Final = 128
TRAILER_BYTES_MAX: Final = 1024  # one checksum and one signature

_SIZE_LINE: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;chunk-signature=([0-9a-f]{64}))?", re.ASCII
)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # token, RFC 9110, 5.6.2
_SIGNATURE_NAME: Final = "x-amz-trailer-signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSigning:
    """What signatures of chunks continue from: the request's own."""

    signing_key: SigningKey
    timestamp: str
    scope: str
    seed_signature: str

    @classmethod
    def continue_from(cls, verified: Verified) -> ChunkSigning | None:
        """The chain for this request, or ``None`` if its chunks are not signed."""
        mode = verified.payload.mode
        if mode not in (PayloadMode.CHUNKED_SIGNED, PayloadMode.CHUNKED_SIGNED_TRAILER):
            return None
        return cls(
            signing_key=verified.signing_key,
            timestamp=verified.timestamp,
            scope=verified.scope,
            seed_signature=verified.seed_signature,
        )


class AwsChunkedDecoder:
    """Feed it the body as it arrives; it hands the object's bytes on. Unusable after an error."""

    def __init__(
        self, *, decoded_bytes: int, trailer_name: str | None, signing: ChunkSigning | None
    ) -> None:
        """``decoded_bytes``: ``x-amz-decoded-content-length``. ``trailer_name``: the one announced, lower case."""
        self._undecoded = decoded_bytes
        self._trailer_name = trailer_name
        self._signing = signing
        self._previous = signing.seed_signature if signing else ""
        self._claimed = ""  # signature in the size line of the chunk being read
        self._hasher = hashlib.sha256()
        self._buffer = (
            bytearray()
        )  # of a size line, the CRLF after data, or the trailer; a few bytes
        self._remaining = 0  # of the data of this chunk
        self._small_chunk = 0  # size of a chunk that only the last may have; 0 for none
        self._chunk_count = 0
        self._state = self._read_size_line

    def feed(self, data: bytes) -> list[memoryview]:
        """The object's bytes in ``data``, as views into it.

        Raises: IncompleteBody, InvalidChunkSizeError, MalformedTrailerError, SignatureDoesNotMatch.
        """
        pieces: list[memoryview] = []
        view = memoryview(data)
        position = 0
        while position < len(data):
            if self._remaining:
                piece = view[position : position + self._remaining]
                pieces.append(piece)
                position += len(piece)
                self._remaining -= len(piece)
                if self._signing is not None:
                    self._hasher.update(piece)
                if not self._remaining:
                    self._end_chunk()
            else:
                position = self._state(data, position)
        return pieces

    def finish(self) -> str | None:
        """Judge the end of the body. Returns: the value of the announced trailer.

        Raises: IncompleteBody, MalformedTrailerError, SignatureDoesNotMatch.
        """
        if self._state != self._read_trailer:
            raise IncompleteBody(message="The aws-chunked body ended before its last chunk.")
        if self._undecoded:
            raise IncompleteBody()
        return self._judge_trailer(bytes(self._buffer))

    # --- states: each consumes some of data and returns the new position ----------------------------
    def _read_size_line(self, data: bytes, position: int) -> int:
        end = data.find(b"\n", position, position + SIZE_LINE_BYTES_MAX + 2)
        stop = end + 1 if end >= 0 else min(len(data), position + SIZE_LINE_BYTES_MAX + 2)
        self._buffer += data[position:stop]
        if self._buffer.endswith(b"\n"):
            line = bytes(self._buffer)
            self._buffer.clear()
            if not line.endswith(b"\r\n") or len(line) > SIZE_LINE_BYTES_MAX + 2:
                raise IncompleteBody(message="A chunk-size line is not well-formed.")
            self._begin_chunk(line[:-2])
        elif len(self._buffer) >= SIZE_LINE_BYTES_MAX + 2:
            raise IncompleteBody(message="A chunk-size line is too long.")
        return stop

    def _read_data_end(self, data: bytes, position: int) -> int:
        stop = position + 2 - len(self._buffer)
        self._buffer += data[position:stop]
        if not b"\r\n".startswith(self._buffer):
            raise IncompleteBody(message="A chunk does not end where its size says.")
        if len(self._buffer) == 2:
            self._buffer.clear()
            self._state = self._read_size_line
        return min(stop, len(data))

    def _read_trailer(self, data: bytes, position: int) -> int:
        self._buffer += data[position : position + TRAILER_BYTES_MAX + 1]
        if len(self._buffer) > TRAILER_BYTES_MAX:
            raise MalformedTrailerError()
        return len(data)

    # --- chunks -------------------------------------------------------------------------------------
    def _begin_chunk(self, line: bytes) -> None:
        found = _SIZE_LINE.fullmatch(line)
        if found is None:
            raise IncompleteBody(message="A chunk-size line is not well-formed.")
        size, signature = int(found[1], 16), found[2]
        if self._signing is not None:
            if signature is None:
                raise IncompleteBody(message="A chunk has no signature.")
            self._claimed = signature.decode()
        self._chunk_count += 1
        if size == 0:
            self._end_chunk()
            self._state = self._read_trailer
            return
        if self._small_chunk:
            raise InvalidChunkSizeError(str(self._chunk_count - 1), str(self._small_chunk))
        if size < CHUNK_BYTES_MIN:
            self._small_chunk = size
        if size > self._undecoded:
            raise IncompleteBody(message="The body is longer than x-amz-decoded-content-length.")
        self._undecoded -= size
        self._remaining = size
        self._state = self._read_data_end

    def _end_chunk(self) -> None:
        if self._signing is None:
            return
        digest = self._hasher.hexdigest()
        self._hasher = hashlib.sha256()
        self._continue_chain(f"{EMPTY_SHA256}\n{digest}", "PAYLOAD", self._claimed)

    def _continue_chain(self, digests: str, kind: str, claimed: str) -> None:
        """Compare a signature with ours; it becomes the previous one of the next. Raises: SignatureDoesNotMatch."""
        signing = self._signing
        assert signing is not None, "only signed bodies have a chain"
        text = f"AWS4-HMAC-SHA256-{kind}\n{signing.timestamp}\n{signing.scope}\n{self._previous}\n{digests}"
        expected = signing.signing_key.sign(text)
        if not hmac.compare_digest(expected, claimed):
            raise SignatureDoesNotMatch()
        self._previous = expected

    # --- trailer ------------------------------------------------------------------------------------
    def _judge_trailer(self, raw: bytes) -> str | None:
        """The announced trailer's value; it must be exactly that one, and signed if chunks are (s3.md 3.2)."""
        lines = _parse_trailer(raw)
        signature = ""
        if lines and lines[-1][0] == _SIGNATURE_NAME:
            signature = lines.pop()[1]
        if self._trailer_name is None:
            if lines or signature:
                raise MalformedTrailerError()
            return None
        if [name for name, _ in lines] != [self._trailer_name]:
            raise MalformedTrailerError()
        value = lines[0][1]
        if self._signing is not None:
            signed = hashlib.sha256(f"{self._trailer_name}:{value}\n".encode()).hexdigest()
            if not signature.isascii():
                raise SignatureDoesNotMatch()
            self._continue_chain(signed, "TRAILER", signature)
        elif signature:
            raise MalformedTrailerError()
        return value


def _parse_trailer(raw: bytes) -> list[tuple[str, str]]:
    """Lines end in CRLF or LF; the last line end may be missing. Raises: MalformedTrailerError, IncompleteBody."""
    lines = raw.replace(b"\r\n", b"\n").split(b"\n")
    while lines and not lines[-1]:
        lines.pop()
    parsed = []
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not _NAME.fullmatch(name.strip()):
            raise MalformedTrailerError()
        parsed.append((name.strip().lower(), value.strip()))
    return parsed
