"""A blob file opened for reading: no byte leaves before the checksum of its block was found right."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol, runtime_checkable

from sos.blob.format import (
    FOOTER_BYTES,
    BlobLayout,
    block_size,
    decode_footer,
    decode_table,
    file_bytes,
)
from sos.blob.threads import DiskThreads
from sos.catalog.model import BlobId
from sos.checksum import combine_crc64nvme, crc64nvme
from sos.disk import Disk, File
from sos.errors import Corruption, Unavailable
from sos.limits import BLOCK_BYTES, KIB

WHOLE_FILE_BYTES_MAX: Final = file_bytes(
    BLOCK_BYTES
)  # one block: read by one call, in the job that opens
_TAIL_BYTES: Final = 8 * KIB  # read first: table and footer of up to 1 GiB
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


@runtime_checkable
class CachedFile(Protocol):
    """A file whose pages may lie in memory."""

    def drop_cache(self) -> None: ...


class OpenedFile:
    """The blocking half: an open, structurally sound blob file. Its methods run in threads."""

    __slots__ = ("_blob_id", "_file", "_table", "layout", "only_block")

    def __init__(self, disk: Disk, path: str, blob_id: BlobId, *, from_disk: bool = False) -> None:
        """``from_disk``: what lies in the page cache does not count; a scrub asks for the sectors.

        Raises: FileNotFoundError, Corruption, Unavailable (no descriptors).
        """
        self._blob_id = blob_id
        self.only_block: memoryview | None = None  # the body of a file of one block, verified
        try:
            self._file: File = disk.open(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise read_error(error, blob_id) from error
        try:
            if from_disk:
                self.drop_cache()
            self._read_structure()
        except OSError as error:
            self._file.close()
            raise read_error(error, blob_id) from error
        except BaseException:
            self._file.close()
            raise

    def _read_structure(self) -> None:
        size = self._file.size()
        start = 0 if size <= WHOLE_FILE_BYTES_MAX else size - _TAIL_BYTES
        tail = memoryview(self._file.pread(size - start, start))
        self.layout = decode_footer(tail[-FOOTER_BYTES:], self._blob_id, start + len(tail))
        table_start = self.layout.size_bytes - start
        if table_start < 0:  # a table of more than 1,000 blocks
            table_bytes = self.layout.table_bytes
            table = memoryview(self._file.pread(table_bytes, self.layout.size_bytes))
        else:
            table = tail[table_start:-FOOTER_BYTES]
        self._table = decode_table(table, tail[-FOOTER_BYTES:], self._blob_id)
        if start == 0:
            self._file.close()
            self.only_block = tail[:table_start]
            if self._table and crc64nvme(self.only_block) != self._table[0]:
                raise Corruption(f"blob {self._blob_id.hex()}: block 0 fails its checksum")

    @property
    def table(self) -> Sequence[int]:
        return self._table

    def read_block(self, index: int) -> memoryview:
        """Block ``index``, verified. Raises: Corruption."""
        if self.only_block is not None:
            assert index == 0
            return self.only_block
        wanted = block_size(self.layout.size_bytes, index)
        try:
            data = memoryview(self._file.pread(wanted, index * BLOCK_BYTES))
        except OSError as error:
            raise read_error(error, self._blob_id) from error
        if len(data) != wanted:
            raise Corruption(f"blob {self._blob_id.hex()}: block {index} is cut short")
        if crc64nvme(data) != self._table[index]:
            raise Corruption(f"blob {self._blob_id.hex()}: block {index} fails its checksum")
        return data

    def verify_all(self) -> None:
        """Read every block, and check that the blocks make up the whole. Raises: Corruption."""
        whole = 0
        for index in range(self.layout.block_count):
            count = len(self.read_block(index))
            whole = combine_crc64nvme(whole, self._table[index], count)
        if whole != self.layout.crc64:
            raise Corruption(f"blob {self._blob_id.hex()}: the blocks are not the whole")

    def drop_cache(self) -> None:
        """Take the file out of memory; needless where a disk has none, as that of a test."""
        if isinstance(self._file, CachedFile):
            self._file.drop_cache()

    def close(self) -> None:
        self._file.close()


class BlobFile:
    """An open replica. It stays readable after ``drop``; close it, or use it as ``async with``."""

    __slots__ = ("_opened", "_threads", "blob_id", "block_count", "crc64", "size_bytes")

    def __init__(self, opened: OpenedFile, threads: DiskThreads, blob_id: BlobId) -> None:
        self._opened = opened
        self._threads = threads
        self.blob_id = blob_id
        layout: BlobLayout = opened.layout
        self.size_bytes = layout.size_bytes
        self.crc64 = layout.crc64.to_bytes(8, "big")
        self.block_count = layout.block_count

    async def __aenter__(self) -> BlobFile:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def block_crc(self, index: int) -> int:
        """CRC64NVME of block ``index`` as the sound table tells it."""
        return self._opened.table[index]

    def start_read(self, index: int) -> asyncio.Future[memoryview]:
        """Begin to read and verify block ``index`` in a thread."""
        return self._threads.submit(self._opened.read_block, index)

    async def read_block(self, index: int) -> memoryview:
        """Block ``index``, verified. Raises: Corruption."""
        if self._opened.only_block is not None:
            return self._opened.only_block
        return await self.start_read(index)

    async def read_blocks(self, first: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """Whole verified blocks ``[first, stop)``, the next one read while this one is used. Raises: Corruption."""
        if first >= stop:
            return
        if self._opened.only_block is not None:
            yield self._opened.only_block
            return
        ahead = self.start_read(first)
        try:
            for index in range(first + 1, stop):
                block = await ahead
                ahead = self.start_read(index)
                yield block
            yield await ahead
        finally:
            ahead.cancel()

    async def read(self, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """Verified bytes of ``[start, stop)``; only the blocks that it touches are read. Raises: Corruption."""
        assert 0 <= start <= stop <= self.size_bytes
        if start == stop:
            return
        position = start - start % BLOCK_BYTES
        blocks = self.read_blocks(position // BLOCK_BYTES, -(-stop // BLOCK_BYTES))
        try:
            async for block in blocks:
                yield block[max(start - position, 0) : stop - position]
                position += len(block)
        finally:
            await blocks.aclose()

    def close(self) -> None:
        """Give the descriptor back; a read under way ends by itself."""
        self._opened.close()


def read_error(error: OSError, blob_id: BlobId) -> Exception:
    """What an OSError on the read path means: this copy is bad, except when only descriptors ran out."""
    if error.errno in _OUT_OF_DESCRIPTORS:
        return Unavailable("out of file descriptors")
    return Corruption(f"blob {blob_id.hex()}: cannot be read: {error.strerror}")
