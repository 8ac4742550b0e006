"""Many small blobs at once on one disk, in one thread job: what they wait for is shared, what each is promised is not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from sos.blob.format import BlockChecksums, Buffer, encode_tail
from sos.blob.layout import blob_directory, blob_path
from sos.blob.reading import OpenedFile
from sos.blob.sink import Spool, write_error
from sos.catalog.model import BlobId
from sos.disk import Disk, File
from sos.errors import Corruption, Unavailable
from sos.failpoints import hit


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallBlob:
    """All bytes of a blob. ``crc``: CRC64NVME of them."""

    blob_id: BlobId
    data: Buffer
    crc: int


def store_together(spool: Spool, blobs: Sequence[SmallBlob]) -> None:
    """Store all of ``blobs``; when this returns each of them survives power loss.

    Each in the order of ``BlobSink.commit``: write, fsync(file), rename, fsync(directory). The first sync of a file
    carries most of the others, which are written by then, and so for the directories. A copy that is whole when an
    error ends this stays: nobody was told of it, and a comparison finds it. Raises: DiskFull, FatalStop, Unavailable.
    """
    disk = spool.disk
    written: list[tuple[BlobId, str, File]] = []
    moved = 0
    try:
        spool.check_space()
        for blob in blobs:
            path = f"{spool.temporary_directory}/{spool.new_name()}"
            file = disk.create(path)
            written.append((blob.blob_id, path, file))
            checksums = BlockChecksums()
            checksums.update(blob.data, blob.crc)
            file.pwrite(blob.data, 0)
            file.pwrite(encode_tail(blob.blob_id, checksums), len(blob.data))
        for _, _, file in written:
            file.fsync()
        hit("resync.bundle.synced")
        for blob_id, path, _ in written:
            disk.rename(path, blob_path(spool.directory, blob_id))
            moved += 1
        hit("resync.bundle.renamed")
        for directory in {blob_directory(spool.directory, blob.blob_id) for blob in blobs}:
            disk.fsync_directory(directory)
    except OSError as error:
        raise write_error(error, spool.temporary_directory) from error
    finally:
        for _, _, file in written:
            file.close()
        for _, path, _ in written[moved:]:
            with suppress(OSError):  # else the next start removes it
                disk.unlink(path)


def read_together(
    disk: Disk, directory: str, blob_ids: Sequence[BlobId], *, bytes_max: int
) -> list[SmallBlob]:
    """Those of ``blob_ids`` that are here, sound, and not larger than ``bytes_max`` (at most one block)."""
    found = []
    for blob_id in blob_ids:
        try:
            opened = OpenedFile(disk, blob_path(directory, blob_id), blob_id)
        except (FileNotFoundError, Corruption, Unavailable):
            continue  # who asks for this one alone is told the reason
        try:
            data = opened.only_block
            if data is not None and 0 < len(data) <= bytes_max:
                found.append(SmallBlob(blob_id=blob_id, data=data, crc=opened.table[0]))
        finally:
            opened.close()
    return found
