"""Digests of bodies: what was promised, what is computed, whether it holds (s3.md 8, 11)."""

from __future__ import annotations

import hashlib
import zlib
from base64 import b64encode

import pytest

from sos.catalog.model import Checksum, ChecksumAlgorithm
from sos.s3.checksums import (
    BodyDigests,
    DigestPlan,
    Digests,
    checksum_headers,
    new_hasher,
    parse_algorithm,
    parse_digests,
)
from sos.s3.sigv4 import UNSIGNED, Payload, parse_payload
from tests.unit.s3_support import refusal

DATA = b"123456789"
CHECK = {  # of "123456789": the catalogue of CRCs, and hashlib
    ChecksumAlgorithm.CRC32: (0xCBF43926).to_bytes(4, "big"),
    ChecksumAlgorithm.CRC32C: (0xE3069283).to_bytes(4, "big"),
    ChecksumAlgorithm.CRC64NVME: (0xAE8B14860A799888).to_bytes(8, "big"),
    ChecksumAlgorithm.SHA1: hashlib.sha1(DATA).digest(),
    ChecksumAlgorithm.SHA256: hashlib.sha256(DATA).digest(),
}
SIGNED_TRAILER = parse_payload("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")
UNSIGNED_TRAILER = parse_payload("STREAMING-UNSIGNED-PAYLOAD-TRAILER")
SIGNED_CHUNKS = parse_payload("STREAMING-AWS4-HMAC-SHA256-PAYLOAD")


def b64(digest: bytes) -> str:
    return b64encode(digest).decode()


def compute(algorithm: ChecksumAlgorithm, data: bytes) -> bytes:
    hasher = new_hasher(algorithm)
    hasher.update(data)
    return hasher.digest()


def judge(
    headers: dict[str, str], payload: Payload = UNSIGNED, trailer: str | None = None
) -> Digests:
    digests = BodyDigests(parse_digests(headers, payload))
    digests.update(DATA[:4])
    digests.update(memoryview(DATA)[4:])
    return digests.finish(trailer)


@pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
def test_each_algorithm(algorithm: ChecksumAlgorithm) -> None:
    """Values are standard base64 of big-endian bytes; the one promised is verified and stored."""
    header = f"x-amz-checksum-{algorithm.value}"
    digests = judge({header: b64(CHECK[algorithm])})
    assert digests.checksum == Checksum(algorithm=algorithm, digest=CHECK[algorithm])
    assert compute(algorithm, DATA) == digests.checksum.digest
    wrong = bytes(len(CHECK[algorithm]))
    error = refusal(judge, {header: b64(wrong)})
    assert (error.status, error.code) == (400, "BadDigest")
    by_trailer = judge({"x-amz-trailer": header.upper()}, UNSIGNED_TRAILER, b64(CHECK[algorithm]))
    assert by_trailer == digests
    error = refusal(judge, {"x-amz-trailer": header}, UNSIGNED_TRAILER, b64(wrong))
    assert error.code == "BadDigest"
    assert parse_algorithm(algorithm.name.lower()) is algorithm


def test_crc32_is_zlibs() -> None:
    """The CRC32 that every client computes."""
    assert compute(ChecksumAlgorithm.CRC32, DATA) == zlib.crc32(DATA).to_bytes(4)


@pytest.mark.parametrize("payload", [UNSIGNED, UNSIGNED_TRAILER, SIGNED_CHUNKS])
def test_none_sent(payload: Payload) -> None:
    """Every object has a checksum: CRC64NVME if none was sent (UG: checking-object-integrity)."""
    digests = judge({}, payload)
    assert digests.checksum.algorithm is ChecksumAlgorithm.CRC64NVME
    assert digests.checksum.digest == CHECK[ChecksumAlgorithm.CRC64NVME]
    assert digests.etag == hashlib.md5(DATA).hexdigest()


def test_empty_body() -> None:
    """The ETag of an empty object is the MD5 of nothing."""
    digests = BodyDigests(DigestPlan(algorithm=ChecksumAlgorithm.CRC64NVME)).finish()
    assert digests.etag == "d41d8cd98f00b204e9800998ecf8427e"
    assert digests.checksum.digest == bytes(8)


def test_content_md5() -> None:
    """Section 11: not base64 of 16 bytes, or empty: InvalidDigest; right form, wrong value: BadDigest."""
    judge({"content-md5": b64(hashlib.md5(DATA).digest())})
    error = refusal(judge, {"content-md5": b64(bytes(16))})
    assert (error.status, error.code) == (400, "BadDigest")
    assert [name for name, _ in error.fields] == ["ExpectedDigest", "CalculatedDigest"]
    for text in ("", "x", b64(bytes(15)), hashlib.md5(DATA).hexdigest(), b64(bytes(16)) + "="):
        error = refusal(judge, {"content-md5": text})
        assert (error.status, error.code) == (400, "InvalidDigest")


def test_signed_sha256() -> None:
    """Section 11: body and signed SHA-256 differ -> 400 XAmzContentSHA256Mismatch."""
    judge({}, parse_payload(hashlib.sha256(DATA).hexdigest()))
    both = {"x-amz-checksum-sha256": b64(hashlib.sha256(DATA).digest())}
    judge(both, parse_payload(hashlib.sha256(DATA).hexdigest()))
    error = refusal(judge, {}, parse_payload("0" * 64))
    assert (error.status, error.code) == (400, "XAmzContentSHA256Mismatch")
    assert error.fields == (
        ("ClientComputedContentSHA256", "0" * 64),
        ("S3ComputedContentSHA256", hashlib.sha256(DATA).hexdigest()),
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-crc32": ""},
        {"x-amz-checksum-crc32": "x"},
        {"x-amz-checksum-crc32": b64(bytes(5))},
        {"x-amz-checksum-crc32": "AAAAA==="},
        {"x-amz-checksum-crc32": "AAAAAB=="},  # stray bits
        {"x-amz-checksum-crc32": "AA AAAA=="},
        {"x-amz-checksum-md4": "AAAA"},
        {"x-amz-checksum-sha512": b64(bytes(64))},
        {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-crc32c": "AAAAAA=="},
        {"x-amz-checksum-crc32": "", "x-amz-checksum-crc32c": ""},
        {"x-amz-sdk-checksum-algorithm": "CRC32"},
        {"x-amz-sdk-checksum-algorithm": "MD4", "x-amz-checksum-crc32": "AAAAAA=="},
    ],
)
def test_bad_checksum_headers(headers: dict[str, str]) -> None:
    """Section 11: not base64, wrong length, two headers (even empty), unknown algorithm -> 400 InvalidRequest."""
    error = refusal(parse_digests, headers, UNSIGNED)
    assert (error.status, error.code) == (400, "InvalidRequest")


def test_header_and_trailer() -> None:
    """Section 11: a header and a trailer -> 400 InvalidRequest; an unknown trailer name too."""
    both = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-trailer": "x-amz-checksum-crc32c"}
    assert refusal(parse_digests, both, UNSIGNED_TRAILER).code == "InvalidRequest"
    unknown = {"x-amz-trailer": "x-custom"}
    assert refusal(parse_digests, unknown, UNSIGNED_TRAILER).code == "InvalidRequest"


def test_trailers_and_modes() -> None:
    """Section 11: ``x-amz-trailer`` missing with the signed trailer token, or announced where none can follow."""
    assert refusal(parse_digests, {}, SIGNED_TRAILER).code == "MalformedTrailerError"
    announced = {"x-amz-trailer": "x-amz-checksum-crc32"}
    for payload in (UNSIGNED, SIGNED_CHUNKS):
        assert refusal(parse_digests, announced, payload).code == "MalformedTrailerError"
    sdk = announced | {"x-amz-sdk-checksum-algorithm": "CRC64NVME"}
    plan = parse_digests(sdk, SIGNED_TRAILER)  # the value really sent decides (seen)
    assert (plan.algorithm, plan.trailer) == (ChecksumAlgorithm.CRC32, "x-amz-checksum-crc32")
    assert plan.is_promised


def test_trailer_that_is_no_digest() -> None:
    """A trailer's value is judged like a header's."""
    announced = {"x-amz-trailer": "x-amz-checksum-crc32"}
    assert refusal(judge, announced, UNSIGNED_TRAILER, "zz").code == "InvalidRequest"


def test_headers_that_are_no_digests() -> None:
    """``-algorithm``, ``-type`` and ``-mode`` share the prefix and carry no value."""
    headers = {"x-amz-checksum-algorithm": "SHA1", "x-amz-checksum-type": "FULL_OBJECT"}
    plan = parse_digests(headers | {"x-amz-checksum-mode": "ENABLED"}, UNSIGNED)
    assert plan == DigestPlan(algorithm=ChecksumAlgorithm.CRC64NVME)
    assert not plan.is_promised


def test_response_headers() -> None:
    """8: the checksum's header and its type."""
    checksum = Checksum(algorithm=ChecksumAlgorithm.CRC32, digest=bytes(4))
    assert checksum_headers(checksum) == (
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("x-amz-checksum-type", "FULL_OBJECT"),
    )
