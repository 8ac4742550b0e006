"""Digests of a body: which were promised, which must be computed, and whether they hold. Pure.

Source: s3.md 8 and rows of 11 (UG: checking-object-integrity). Digests are raw bytes here, text only in headers.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from sos.catalog.model import Checksum, ChecksumAlgorithm
from sos.checksum import Buffer, RunningChecksum, crc32, crc32c, crc64nvme
from sos.s3.errors import (
    BadDigest,
    InvalidDigest,
    InvalidRequest,
    MalformedTrailerError,
    XAmzContentSHA256Mismatch,
)
from sos.s3.head import PLAIN_NAMES
from sos.s3.sigv4 import Payload, PayloadMode

HEADER_PREFIX: Final = "x-amz-checksum-"
TYPE_HEADER: Final = "x-amz-checksum-type"
FULL_OBJECT: Final = "FULL_OBJECT"
COMPOSITE: Final = "COMPOSITE"  # of the checksums of the parts
# Headers with the prefix that carry no digest.
_NOT_DIGESTS: Final = frozenset(
    {"x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"}
)


class Hasher(Protocol):
    """What ``hashlib`` objects offer; CRCs are dressed the same way."""

    def update(self, data: Buffer, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    """A CRC with the interface of a hash."""

    __slots__ = ("_function", "_size_bytes", "_value")

    def __init__(self, function: RunningChecksum, size_bytes: int) -> None:
        self._function = function
        self._size_bytes = size_bytes
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size_bytes, "big")


def _md5() -> Hasher:
    return hashlib.md5(usedforsecurity=False)  # S3's ETag; no security rests on it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One algorithm. Adding an algorithm is adding a row."""

    digest_bytes: int
    new: Callable[[], Hasher]


_TABLE: Final[dict[ChecksumAlgorithm, _Row]] = {
    ChecksumAlgorithm.CRC32: _Row(digest_bytes=4, new=lambda: _Crc(crc32, 4)),
    ChecksumAlgorithm.CRC32C: _Row(digest_bytes=4, new=lambda: _Crc(crc32c, 4)),
    ChecksumAlgorithm.CRC64NVME: _Row(digest_bytes=8, new=lambda: _Crc(crc64nvme, 8)),
    ChecksumAlgorithm.SHA1: _Row(digest_bytes=20, new=lambda: hashlib.sha1(usedforsecurity=False)),
    ChecksumAlgorithm.SHA256: _Row(digest_bytes=32, new=hashlib.sha256),
}
_BY_HEADER: Final = {f"{HEADER_PREFIX}{algorithm.value}": algorithm for algorithm in _TABLE}


class DigestPlan(NamedTuple):
    """What the client promised about the body; a named tuple: one per upload. ``None``: not promised.

    ``algorithm`` is computed and stored, with or without a promise. ``trailer``: the header name, announced by
    ``x-amz-trailer``, whose value follows the body.
    """

    algorithm: ChecksumAlgorithm
    checksum: bytes | None = None
    trailer: str | None = None
    md5: bytes | None = None
    sha256: bytes | None = None
    also: ChecksumAlgorithm | None = None  # computed beside it

    @property
    def has_checksum(self) -> bool:
        """Whether a checksum came along, in a header or as a trailer."""
        return self.checksum is not None or self.trailer is not None

    @property
    def is_promised(self) -> bool:
        """Whether Content-MD5 or a checksum came along, as DeleteObjects demands."""
        return self.has_checksum or self.md5 is not None


_DEFAULT_PLAN: Final = DigestPlan(algorithm=ChecksumAlgorithm.CRC64NVME)


class Digests(NamedTuple):
    """The verified digests of a whole body."""

    md5: bytes
    checksum: Checksum
    also: Checksum | None = None

    @property
    def etag(self) -> str:
        """ETag of a body written in one piece, without quotes (S3 API: Object)."""
        return self.md5.hex()


def parse_digests(headers: Mapping[str, str], payload: Payload) -> DigestPlan:
    """Read every promise about the body; one checksum at most (s3.md 8).

    Raises: InvalidRequest, InvalidDigest, MalformedTrailerError.
    """
    found: tuple[ChecksumAlgorithm, bytes] | None = None
    for name in headers:
        if name in PLAIN_NAMES:
            continue
        if name.startswith(HEADER_PREFIX) and name not in _NOT_DIGESTS:
            if found is not None:
                raise InvalidRequest(
                    message="Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
                )
            found = _parse_checksum(name, headers[name])
    trailer = _parse_trailer_name(headers, payload)
    if found is not None and trailer is not None:
        raise InvalidRequest(
            message="Expecting a single x-amz-checksum- header. A header and a trailer are not allowed."
        )
    if "x-amz-sdk-checksum-algorithm" in headers:
        _check_sdk_algorithm(headers["x-amz-sdk-checksum-algorithm"])
        if found is None and trailer is None:
            raise InvalidRequest(
                message="x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-*"
                " or x-amz-trailer headers were found."
            )
    md5 = parse_content_md5(headers["content-md5"]) if "content-md5" in headers else None
    if found is None and trailer is None and md5 is None and payload.sha256 is None:
        return _DEFAULT_PLAN
    algorithm = ChecksumAlgorithm.CRC64NVME
    if found is not None:
        algorithm = found[0]
    elif trailer is not None:
        algorithm = _BY_HEADER[trailer]
    return DigestPlan(
        algorithm=algorithm,
        checksum=found[1] if found is not None else None,
        trailer=trailer,
        md5=md5,
        sha256=payload.sha256,
    )


def parse_algorithm(text: str) -> ChecksumAlgorithm:
    """An algorithm's name as in ``x-amz-checksum-algorithm``, in any case. Raises: InvalidRequest."""
    algorithm = _BY_HEADER.get(f"{HEADER_PREFIX}{text.lower()}")
    if algorithm is None:
        raise InvalidRequest(
            message="Checksum algorithm provided is unsupported. Please try again with any of the valid types:"
            " [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]"
        )
    return algorithm


def _check_sdk_algorithm(text: str) -> None:
    parse_algorithm(text)  # the value that is really sent decides which one counts (seen)


def _parse_checksum(name: str, text: str) -> tuple[ChecksumAlgorithm, bytes]:
    algorithm = _BY_HEADER.get(name)
    if algorithm is None:
        raise InvalidRequest(
            message=f"The algorithm type you specified in {name} header is invalid."
        )
    digest = _decode(text, _TABLE[algorithm].digest_bytes)
    if digest is None:
        raise InvalidRequest(message=f"Value for {name} header is invalid.")
    return algorithm, digest


def _parse_trailer_name(headers: Mapping[str, str], payload: Payload) -> str | None:
    """The trailer that will follow the body, if any (s3.md 3.2, 11)."""
    text = headers.get("x-amz-trailer")
    mode = payload.mode
    if text is None:
        if mode is PayloadMode.CHUNKED_SIGNED_TRAILER:
            raise MalformedTrailerError()
        return None
    name = text.lower()
    if name not in _BY_HEADER:
        raise InvalidRequest(
            message="The value specified in the x-amz-trailer header is not supported"
        )
    if mode not in (PayloadMode.CHUNKED_SIGNED_TRAILER, PayloadMode.CHUNKED_UNSIGNED_TRAILER):
        raise MalformedTrailerError()  # announced, and this kind of body cannot carry it
    return name


def parse_content_md5(text: str) -> bytes:
    """The digest in ``Content-MD5``. Raises: InvalidDigest."""
    digest = _decode(text, 16)
    if digest is None:
        raise InvalidDigest(text)
    return digest


def _decode(text: str, size_bytes: int) -> bytes | None:
    """Standard base64 of exactly ``size_bytes`` bytes, or ``None``."""
    try:
        digest = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error is one; so is text beyond ASCII
        return None
    # Re-encoding refuses what strict mode lets pass: bits behind the last byte that are not zero.
    if len(digest) != size_bytes or binascii.b2a_base64(digest, newline=False).decode() != text:
        return None
    return digest


def new_hasher(algorithm: ChecksumAlgorithm) -> Hasher:
    """A running hash of ``algorithm``."""
    return _TABLE[algorithm].new()


def checksum_headers(checksum: Checksum, composite_parts: int = 0) -> tuple[tuple[str, str], ...]:
    """The two response headers of an object's checksum. ``composite_parts``: of how many parts, if it is COMPOSITE."""
    name = f"{HEADER_PREFIX}{checksum.algorithm.value}"
    kind = COMPOSITE if composite_parts else FULL_OBJECT
    return ((name, checksum_text(checksum, composite_parts)), (TYPE_HEADER, kind))


def checksum_text(checksum: Checksum, composite_parts: int = 0) -> str:
    """The value of an object's checksum; of a COMPOSITE one with the number of parts (s3.md 8)."""
    text = b64encode(checksum.digest).decode()
    return f"{text}-{composite_parts}" if composite_parts else text


def checksum_header(checksum: Checksum) -> tuple[str, str]:
    """The response header of a part's checksum, which has no type."""
    return f"{HEADER_PREFIX}{checksum.algorithm.value}", b64encode(checksum.digest).decode()


def parse_object_checksum(name: str, text: str) -> Checksum | None:
    """The checksum in a header about a whole object; None for the headers that carry none. Raises: InvalidRequest.

    A COMPOSITE one may say of how many parts it is, as in answers.
    """
    if name in _NOT_DIGESTS:
        return None
    value, dash, count = text.rpartition("-")
    algorithm, digest = _parse_checksum(name, value if dash and count.isdigit() else text)
    return Checksum(algorithm=algorithm, digest=digest)


def parse_checksum_element(name: str, text: str) -> Checksum:
    """``<ChecksumCRC32>`` of a part, and the like. Raises: InvalidRequest."""
    header = f"{HEADER_PREFIX}{name.removeprefix('Checksum').lower()}"
    algorithm, digest = _parse_checksum(header, text)
    return Checksum(algorithm=algorithm, digest=digest)


class BodyDigests:
    """Computes what a body needs and no more: MD5, the checksum to store, SHA-256 of a signed payload."""

    __slots__ = ("_also", "_checksum", "_md5", "_plan", "_sha256")

    def __init__(self, plan: DigestPlan) -> None:
        self._plan = plan
        self._md5 = _md5()
        self._checksum = new_hasher(plan.algorithm)
        self._sha256: Hasher | None = None
        if plan.sha256 is not None:
            shared = plan.algorithm is ChecksumAlgorithm.SHA256
            self._sha256 = self._checksum if shared else hashlib.sha256()
        self._also = None if plan.also is None else new_hasher(plan.also)

    def update(self, data: Buffer) -> None:
        """Take the next bytes of the (decoded) body. Large buffers are hashed without the interpreter lock."""
        self._md5.update(data)
        self._checksum.update(data)
        if self._sha256 is not None and self._sha256 is not self._checksum:
            self._sha256.update(data)
        if self._also is not None:
            self._also.update(data)

    def finish(self, trailer_value: str | None = None) -> Digests:
        """Compare every promise with what came. ``trailer_value``: from the chunk decoder.

        Raises: XAmzContentSHA256Mismatch, BadDigest, InvalidRequest (a trailer that is no digest).
        """
        plan = self._plan
        if self._sha256 is not None and plan.sha256 is not None:
            computed = self._sha256.digest()
            if computed != plan.sha256:
                raise XAmzContentSHA256Mismatch(plan.sha256.hex(), computed.hex())
        md5 = self._md5.digest()
        if plan.md5 is not None and plan.md5 != md5:
            raise BadDigest(b64encode(plan.md5).decode(), b64encode(md5).decode())
        expected = plan.checksum
        if plan.trailer is not None:
            assert trailer_value is not None, "the decoder insists on the announced trailer"
            expected = _parse_checksum(plan.trailer, trailer_value)[1]
        digest = self._checksum.digest()
        if expected is not None and expected != digest:
            raise BadDigest(
                message=f"The {plan.algorithm.name} you specified did not match the calculated checksum."
            )
        also = None
        if self._also is not None and plan.also is not None:
            also = Checksum(algorithm=plan.also, digest=self._also.digest())
        checksum = Checksum(algorithm=plan.algorithm, digest=digest)
        return Digests(md5=md5, checksum=checksum, also=also)
