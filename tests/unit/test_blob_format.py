"""The bytes of a blob file (design 9): every damage shows before a byte is trusted."""

from __future__ import annotations

import pytest

from sos.blob.format import (
    FOOTER_BYTES,
    BlockChecksums,
    block_count,
    block_size,
    decode_footer,
    decode_table,
    encode_tail,
    file_bytes,
)
from sos.catalog.model import BlobId
from sos.checksum import crc64nvme
from sos.errors import Corruption
from sos.limits import BLOCK_BYTES

BLOB = BlobId(bytes(range(16)))
OTHER = BlobId(bytes(range(1, 17)))


def _tail(body: bytes, blob_id: BlobId = BLOB) -> bytes:
    checksums = BlockChecksums()
    checksums.update(body)
    return encode_tail(blob_id, checksums)


def _decode(tail: bytes, size: int, blob_id: BlobId = BLOB) -> list[int]:
    footer = tail[-FOOTER_BYTES:]
    layout = decode_footer(footer, blob_id, size + len(tail))
    return list(decode_table(tail[: layout.table_bytes], footer, blob_id))


@pytest.mark.parametrize(
    ("size", "blocks"),
    [(0, 0), (1, 1), (BLOCK_BYTES, 1), (BLOCK_BYTES + 1, 2), (5 * BLOCK_BYTES, 5)],
)
def test_sizes(size: int, blocks: int) -> None:
    """Design 9: a blob is cut into blocks of 1 MiB, the last may be short."""
    assert block_count(size) == blocks
    assert sum(block_size(size, i) for i in range(blocks)) == size
    assert file_bytes(size) == size + 8 * blocks + FOOTER_BYTES


def test_golden_bytes() -> None:
    """On-disk format 1 never changes: a later version must go on reading files of this one."""
    tail = _tail(b"SOS" * 5)

    assert tail.hex() == (
        "2868f56cb2731067534f53424c4f420a0001000000100000000102030405060708090a0b0c0d0e0f"
        "000000000000000f2868f56cb27310670a458260f947437f"
    )
    assert int.from_bytes(tail[-8:], "big") == crc64nvme(tail[8:-8], crc64nvme(tail[:8]))


def test_round_trip() -> None:
    """What was written is read back: the checksum of each block and of the whole."""
    body = bytes(BLOCK_BYTES) + b"x" * 100

    table = _decode(_tail(body), len(body))

    assert table == [crc64nvme(body[:BLOCK_BYTES]), crc64nvme(body[BLOCK_BYTES:])]
    layout = decode_footer(_tail(body)[-FOOTER_BYTES:], BLOB, file_bytes(len(body)))
    assert layout.crc64 == crc64nvme(body)


def test_every_bit_of_the_tail_is_under_a_checksum() -> None:
    """Fault 48: no single flipped bit of table or footer passes."""
    tail = _tail(b"body" * 1000)
    for bit in range(8 * len(tail)):
        damaged = bytearray(tail)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Corruption):
            _decode(bytes(damaged), 4000)


def test_misplaced_file_shows() -> None:
    """Fault 48: a sound file under another id is damage, for the id is under the checksum."""
    with pytest.raises(Corruption, match="holds blob"):
        _decode(_tail(b"body"), 4, blob_id=OTHER)


@pytest.mark.parametrize("difference", [-1, 1, 8, -4])
def test_wrong_length_shows(difference: int) -> None:
    """Fault 48: a file that is longer or shorter than its footer says is damage."""
    tail = _tail(b"body")
    with pytest.raises(Corruption, match="length"):
        decode_footer(tail[-FOOTER_BYTES:], BLOB, 4 + len(tail) + difference)


def test_short_footer_shows() -> None:
    """Fault 48: a file without room for a footer is damage, not a crash."""
    with pytest.raises(Corruption):
        decode_footer(b"x" * (FOOTER_BYTES - 1), BLOB, FOOTER_BYTES - 1)
