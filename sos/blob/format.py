"""The bytes of a blob file: body, block table, footer. Pure.

``body | table: CRC64NVME of each 1 MiB block (8 each) | footer (56)``

The footer's last checksum covers table, id, length and the checksum of the whole, so a file that is truncated, extended, stored
under another id or mixed from two writes shows before any byte of its body is trusted. Everything that describes the body stands
behind it: the length of a stream is not known when it begins, and the body's blocks lie at multiples of 1 MiB, as direct I/O
wants them. All integers are big-endian.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sos.catalog.model import BlobId
from sos.checksum import combine_crc64nvme, crc64nvme
from sos.errors import Corruption
from sos.limits import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview

FORMAT_VERSION: Final = 1
BLOB_ID_BYTES: Final = 16

# magic, version, reserved, block bytes, blob id, body bytes, CRC64 of the body, CRC64 of table and all fields before
_FOOTER: Final = struct.Struct(">8sHHI16sQQQ")
_MAGIC: Final = b"SOSBLOB\n"
FOOTER_BYTES: Final = _FOOTER.size
_SEAL_BYTES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobLayout:
    """What a footer says about its file."""

    size_bytes: int
    crc64: int

    @property
    def block_count(self) -> int:
        return block_count(self.size_bytes)

    @property
    def table_bytes(self) -> int:
        return 8 * self.block_count


def block_count(size_bytes: int) -> int:
    """How many blocks a body of ``size_bytes`` has; the last may be short, an empty body has none."""
    return -(-size_bytes // BLOCK_BYTES)


def block_size(size_bytes: int, index: int) -> int:
    """Length of block ``index`` of a body of ``size_bytes``."""
    return min(BLOCK_BYTES, size_bytes - index * BLOCK_BYTES)


def file_bytes(size_bytes: int) -> int:
    """Length of the whole file of a body of ``size_bytes``."""
    return size_bytes + 8 * block_count(size_bytes) + FOOTER_BYTES


class BlockChecksums:
    """Checksums of each block and of the whole, taken while the body streams by in pieces of any size."""

    __slots__ = ("_block", "_block_bytes", "_table", "_whole", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = 0
        self._table: array[int] = array("Q")
        self._whole = 0  # of all full blocks
        self._block = 0
        self._block_bytes = 0

    def update(self, data: Buffer, crc: int | None = None) -> None:
        """Take the next piece. ``crc``: its CRC64NVME if the caller has it; pieces inside one block are then not read again."""
        count = len(data)
        if crc is not None and self._block_bytes + count <= BLOCK_BYTES:
            self._add(crc, count)
            return
        view = memoryview(data)
        position = 0
        while position < count:
            step = min(count - position, BLOCK_BYTES - self._block_bytes)
            piece = view[position : position + step]
            self._add(crc64nvme(piece), step)
            position += step

    def _add(self, crc: int, count: int) -> None:
        if count == 0:
            return
        self._block = combine_crc64nvme(self._block, crc, count) if self._block_bytes else crc
        self._block_bytes += count
        self.size_bytes += count
        if self._block_bytes == BLOCK_BYTES:
            self._close_block()

    def _close_block(self) -> None:
        self._whole = combine_crc64nvme(self._whole, self._block, self._block_bytes)
        self._table.append(self._block)
        self._block = self._block_bytes = 0

    def finish(self) -> array[int]:
        """The table; call once, after the last piece. ``crc64`` and ``size_bytes`` are then final."""
        if self._block_bytes:
            self._close_block()
        return self._table

    @property
    def crc64(self) -> int:
        """CRC64NVME of everything taken so far."""
        if self._block_bytes:
            return combine_crc64nvme(self._whole, self._block, self._block_bytes)
        return self._whole


def encode_tail(blob_id: BlobId, checksums: BlockChecksums) -> bytes:
    """Table and footer that close the file whose body ``checksums`` saw."""
    assert len(blob_id) == BLOB_ID_BYTES
    table = _table_to_bytes(checksums.finish())
    fields = (
        _MAGIC,
        FORMAT_VERSION,
        0,
        BLOCK_BYTES,
        blob_id,
        checksums.size_bytes,
        checksums.crc64,
    )
    unsealed = _FOOTER.pack(*fields, 0)[:-_SEAL_BYTES]
    return table + unsealed + crc64nvme(unsealed, crc64nvme(table)).to_bytes(8, "big")


def decode_footer(footer: Buffer, blob_id: BlobId, actual_file_bytes: int) -> BlobLayout:
    """What ``footer`` says, once id and length agree with the file it was read from. Its seal is checked by ``decode_table``.

    Raises: Corruption.
    """
    if len(footer) != FOOTER_BYTES:
        raise Corruption(f"blob {blob_id.hex()}: the file is too short for a footer")
    magic, version, _, block_bytes, found_id, size_bytes, crc64, _ = _FOOTER.unpack(footer)
    if magic != _MAGIC:
        raise Corruption(f"blob {blob_id.hex()}: no footer at the end of the file")
    if (version, block_bytes) != (FORMAT_VERSION, BLOCK_BYTES):
        raise Corruption(
            f"blob {blob_id.hex()}: blob format {version} with blocks of {block_bytes}"
        )
    if found_id != blob_id:
        raise Corruption(f"blob {blob_id.hex()}: the file holds blob {found_id.hex()}")
    if file_bytes(size_bytes) != actual_file_bytes:
        raise Corruption(f"blob {blob_id.hex()}: the file has another length than its footer says")
    return BlobLayout(size_bytes=size_bytes, crc64=crc64)


def decode_table(table: Buffer, footer: Buffer, blob_id: BlobId) -> Sequence[int]:
    """The checksum of each block, once table and footer agree with each other. Raises: Corruption."""
    view = memoryview(footer)
    seal = int.from_bytes(view[-_SEAL_BYTES:], "big")
    if crc64nvme(view[:-_SEAL_BYTES], crc64nvme(table)) != seal:
        raise Corruption(f"blob {blob_id.hex()}: block table or footer is damaged")
    checksums = array("Q")
    checksums.frombytes(table)
    if sys.byteorder == "little":
        checksums.byteswap()
    return checksums


def _table_to_bytes(table: array[int]) -> bytes:
    if sys.byteorder == "little":
        table = table[:]
        table.byteswap()
    return table.tobytes()
