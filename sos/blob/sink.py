"""One blob on its way to the disk: pieces in, a durable file out, or nothing at all."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self, runtime_checkable

from sos.blob.aligned import PAGE_BYTES, is_aligned
from sos.blob.format import BlockChecksums, Buffer, encode_tail
from sos.blob.layout import blob_directory, blob_path
from sos.blob.threads import DiskThreads
from sos.catalog.model import BlobId
from sos.disk import Disk, File
from sos.errors import EXIT_DISK, DiskFull, FatalStop, Unavailable
from sos.failpoints import hit
from sos.limits import MIB

FLUSH_BYTES: Final = 1 * MIB  # smaller bodies are written, synced and renamed in one thread job
QUEUED_BYTES_MAX: Final = 4 * MIB  # beyond that ``write`` waits for the disk
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob that is durable on this disk. ``crc64``: CRC64NVME of the whole, raw."""

    blob_id: BlobId
    size_bytes: int
    crc64: bytes


@runtime_checkable
class DirectDisk(Protocol):
    """A disk that can write past the page cache.

    A large body costs 0.15 instead of 0.5 to 2.9 s of CPU a GiB that way (three replicas of everything push each other out of
    the cache, and its pages must be found, copied to and written back), and its pace is even: 12 writers of 16 MiB kept
    1,100 MiB/s where the cache fell to 160.
    """

    def open_direct(self, path: str) -> File | None:
        """``None``: this file system cannot."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """What the sinks of one process share."""

    disk: Disk
    directory: str
    temporary_directory: str
    threads: DiskThreads
    new_name: Callable[[], str]
    check_space: Callable[[], None]  # raises DiskFull


class BlobSink:
    """Writes one blob. Use as ``async with``: leaving without ``commit`` removes everything, also after an error.

    Not for use by two tasks at once. Pieces are kept by reference until written: do not change a buffer after ``write``.
    """

    def __init__(self, spool: Spool, blob_id: BlobId) -> None:
        self._spool = spool
        self._blob_id = blob_id
        self._checksums = BlockChecksums()
        self._queued: list[Buffer] = []
        self._queued_bytes = 0
        self._job: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        # Used by one thread job at a time:
        self._file: File | None = None
        self._direct: File | None = None
        self._temporary = ""
        self._offset = 0
        self._final = ""  # set once the file has its name, if nothing had that name before
        self._kept = False

    @property
    def size_bytes(self) -> int:
        """Bytes taken so far."""
        return self._checksums.size_bytes

    @property
    def crc64(self) -> bytes:
        """CRC64NVME of the bytes taken so far, raw."""
        return self._checksums.crc64.to_bytes(8, "big")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._kept:
            await self.abort()

    async def write(self, data: Buffer, crc: int | None = None) -> None:
        """Take the next piece; returns while the disk still works, waits only when ``QUEUED_BYTES_MAX`` are behind.

        ``crc``: CRC64NVME of ``data`` if known, so that it need not be read again. Raises: DiskFull, FatalStop, Unavailable.
        """
        self._checksums.update(data, crc)
        self._queued.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes >= FLUSH_BYTES:
            self._start_flush()
        while self._queued_bytes > QUEUED_BYTES_MAX:
            assert self._job is not None
            await asyncio.wait((self._job,))
            self._start_flush()
        if self._error is not None:
            raise self._error

    async def commit(self) -> StoredBlob:
        """Close the blob; when this returns it survives power loss.

        Order: write, fsync(file), rename, fsync(directory). Raises: as ``write``; nothing is stored then.
        """
        await self._wait_for_job()
        if self._error is not None:
            raise self._error
        pieces, self._queued, self._queued_bytes = self._queued, [], 0
        self._job = self._spool.threads.submit(self._write_and_seal, pieces)
        # A cancelled caller leaves the thread running; ``abort`` waits for it and takes the file back.
        await asyncio.shield(self._job)
        self._job = None
        self._kept = True
        return StoredBlob(
            blob_id=self._blob_id,
            size_bytes=self._checksums.size_bytes,
            crc64=self.crc64,
        )

    async def abort(self) -> None:
        """Leave no trace of this blob. The id was never told to anyone as stored, so a renamed file may go too."""
        self._queued, self._queued_bytes = [], 0
        removal = asyncio.ensure_future(self._abort())
        try:
            await asyncio.shield(removal)
        except asyncio.CancelledError:
            await removal  # the file must go even if the caller is cancelled twice
            raise

    async def _abort(self) -> None:
        await self._wait_for_job()
        if self._file is not None:
            await self._spool.threads.submit(self._remove)

    async def _wait_for_job(self) -> None:
        """Until no thread works on this sink; an error of it is kept in ``_error``."""
        while self._job is not None:
            await asyncio.wait((self._job,))
            self._reap()

    def _start_flush(self) -> None:
        """Hand all queued pieces to a thread, unless one is at work: order on disk follows order of arrival."""
        if self._job is not None:
            if not self._job.done():
                return
            self._reap()
        pieces, self._queued, self._queued_bytes = self._queued, [], 0
        if self._error is None and pieces:
            self._job = self._spool.threads.submit(self._write_pieces, pieces)

    def _reap(self) -> None:
        assert self._job is not None
        if self._error is None:
            self._error = self._job.exception()
        self._job = None

    # --- in a thread ------------------------------------------------------------------------------
    def _write_pieces(self, pieces: list[Buffer]) -> None:
        try:
            self._append(pieces)
        except OSError as error:
            raise write_error(error, self._temporary) from error

    def _append(self, pieces: list[Buffer]) -> None:
        spool = self._spool
        spool.check_space()
        if self._file is None:
            self._temporary = f"{spool.temporary_directory}/{spool.new_name()}"
            self._file = spool.disk.create(self._temporary)
            hit("put.spool.created")
            # A body that fits into one block stays in the page cache: it is small and likely to be read soon.
            if sum(map(len, pieces)) >= FLUSH_BYTES and isinstance(spool.disk, DirectDisk):
                self._direct = spool.disk.open_direct(self._temporary)
        for piece in pieces:
            if self._direct is not None and self._offset % PAGE_BYTES == 0 and is_aligned(piece):
                self._write_direct(self._direct, piece)
            else:
                self._file.pwrite(piece, self._offset)
            self._offset += len(piece)

    def _write_direct(self, direct: File, piece: Buffer) -> None:
        assert self._file is not None
        try:
            direct.pwrite(piece, self._offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Some file systems open the file so and then refuse the write.
            direct.close()
            self._direct = None
            self._file.pwrite(piece, self._offset)

    def _close_files(self) -> None:
        for file in (self._file, self._direct):
            if file is not None:
                file.close()

    def _write_and_seal(self, pieces: list[Buffer]) -> None:
        disk, directory = self._spool.disk, self._spool.directory
        try:
            self._append(pieces)
            assert self._file is not None
            self._file.pwrite(encode_tail(self._blob_id, self._checksums), self._offset)
            hit("put.spool.written")
            self._file.fsync()
            hit("put.spool.synced")
            final = blob_path(directory, self._blob_id)
            replaces = disk.exists(final)  # a copy that was counted before must outlive our abort
            disk.rename(self._temporary, final)
            self._temporary = ""
            self._final = "" if replaces else final
            hit("put.blob.renamed")
            disk.fsync_directory(blob_directory(directory, self._blob_id))
            hit("put.blob.dirsynced")
        except OSError as error:
            raise write_error(error, self._temporary) from error
        finally:
            self._close_files()

    def _remove(self) -> None:
        self._close_files()
        name = self._temporary or self._final
        if name and self._spool.disk.exists(name):
            self._spool.disk.unlink(name)


def write_error(error: OSError, path: str) -> Exception:
    """What an OSError on the write path means: no space and no descriptors pass, anything else ends the process."""
    if isinstance(error, DiskFull):
        return error
    if error.errno in _OUT_OF_DESCRIPTORS:
        return Unavailable("out of file descriptors")
    return FatalStop(f"write of {path} failed: {error.strerror}", exit_code=EXIT_DISK)
