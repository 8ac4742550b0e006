"""The blobs of one node on its disk: durable write, verified read, scan, quarantine, drop.

Several gateway processes share the directory. Nothing is kept in memory that another process would have to know.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

from sos.blob.group import SmallBlob, read_together, store_together
from sos.blob.layout import (
    FAN_OUT,
    QUARANTINE,
    TEMPORARY,
    blob_directory,
    blob_id_of_name,
    blob_path,
    prepare_directories,
)
from sos.blob.pins import Pins
from sos.blob.reading import BlobFile, OpenedFile
from sos.blob.sink import BlobSink, Spool, StoredBlob
from sos.blob.threads import DiskThreads
from sos.catalog.model import BlobId
from sos.clock import Clock, IdSource, SystemClock, SystemIds
from sos.disk import Disk, Lock, SystemDisk
from sos.errors import Corruption, DiskFull, FatalStop, StartRefused
from sos.failpoints import hit
from sos.limits import BLOB_RESERVE_BYTES

__all__ = ["BlobFile", "BlobFiles", "BlobSink", "StoredBlob", "prepare_directories"]

THREADS: Final = 8  # waits for the disk, not for a core: a few more than cores keep it busy
BULK_THREADS: Final = 2  # one sync carries the files of others; more cost clients their p99
QUARANTINED_MAX: Final = 16  # bad copies kept for a person to look at
_ID_BYTES: Final = 16


class BlobFiles:
    """The blob directory as one process sees it. Construct it outside a running loop's hot path: it makes a lock file."""

    def __init__(
        self,
        directory: str,
        *,
        on_fatal: Callable[[FatalStop], None],
        disk: Disk | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        threads: int = THREADS,
        reserve_bytes: int = BLOB_RESERVE_BYTES,
    ) -> None:
        """``on_fatal`` is called from any thread. Raises: OSError if ``prepare_directories`` was never run."""
        self._directory = directory
        self._disk = disk or SystemDisk()
        self._ids = ids or SystemIds()
        self._reserve_bytes = reserve_bytes
        self._threads = DiskThreads(count=threads, name="blob", on_fatal=on_fatal)
        # Unlinking 5 GiB took 846 ms, a scan reads every name: neither may hold up reads and writes.
        self._slow = DiskThreads(count=1, name="blob-slow", on_fatal=on_fatal)
        # Of a resync: what clients write and read does not wait behind its syncs.
        self._bulk = DiskThreads(count=BULK_THREADS, name="blob-bulk", on_fatal=on_fatal)
        self._pins = Pins(directory, clock or SystemClock(), self._disk.exists)
        self._token, self._lock = self._claim_temporary_directory()
        self._spool = Spool(
            disk=self._disk,
            directory=directory,
            temporary_directory=f"{directory}/{TEMPORARY}/{self._token}",
            threads=self._threads,
            new_name=self._new_name,
            check_space=self._check_space,
        )
        self._scanned: _SortedIds | None = None

    def _claim_temporary_directory(self) -> tuple[str, Lock]:
        """A directory of this process alone. The lock is taken first: a directory without a held lock is a leftover."""
        token = self._new_name()
        path = f"{self._directory}/{TEMPORARY}/{token}"
        lock = self._disk.lock(path + ".lock")
        self._disk.mkdir(path)
        return token, lock

    def _new_name(self) -> str:
        return self._ids.random_bytes(8).hex()

    # --- write, read ------------------------------------------------------------------------------
    def create(self, blob_id: BlobId) -> BlobSink:
        """A sink for a new blob; nothing touches the disk before the first bytes do."""
        return BlobSink(self._spool, blob_id)

    async def open(
        self, blob_id: BlobId, *, size_bytes: int | None = None, crc64: bytes | None = None
    ) -> BlobFile:
        """The local replica, structure verified; ``size_bytes`` and ``crc64``: what the catalog says it must be.

        Raises: FileNotFoundError (not here), Corruption, Unavailable (no descriptors).
        """
        opened = await self._threads.submit(self._open, blob_id)
        file = BlobFile(opened, self._threads, blob_id)
        wrong_size = size_bytes is not None and file.size_bytes != size_bytes
        wrong_crc = crc64 is not None and file.crc64 != crc64
        if wrong_size or wrong_crc:
            file.close()
            raise Corruption(f"blob {blob_id.hex()}: not the bytes that the catalog names")
        return file

    def _open(self, blob_id: BlobId) -> OpenedFile:
        return OpenedFile(self._disk, blob_path(self._directory, blob_id), blob_id)

    async def exists(self, blob_id: BlobId) -> bool:
        """Whether a file of this name is durably here; says nothing of its bytes."""
        return await self._threads.submit(self._exists, blob_id)

    def _exists(self, blob_id: BlobId) -> bool:
        if not self._disk.exists(blob_path(self._directory, blob_id)):
            return False
        # A sibling may have died between its rename and its sync of the directory.
        self._disk.fsync_directory(blob_directory(self._directory, blob_id))
        return True

    # --- many small ones --------------------------------------------------------------------------
    async def absent(self, blob_ids: Sequence[BlobId]) -> list[BlobId]:
        """Those of which no file is here; says nothing of the bytes of the others."""
        return await self._threads.submit(
            lambda: [b for b in blob_ids if not self._disk.exists(blob_path(self._directory, b))]
        )

    async def read_small(self, blob_ids: Sequence[BlobId], *, bytes_max: int) -> list[SmallBlob]:
        """Those of ``blob_ids`` that are here, sound and not larger than ``bytes_max``, at most one block."""
        return await self._threads.submit(
            read_together, self._disk, self._directory, blob_ids, bytes_max=bytes_max
        )

    async def store_small(self, blobs: Sequence[SmallBlob]) -> None:
        """Store all of ``blobs``; when this returns each survives power loss. Raises: DiskFull, FatalStop, Unavailable."""
        job = self._bulk.submit(store_together, self._spool, blobs)
        try:
            await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait((job,))  # nobody looks for these files before they are whole or gone
            raise

    def _verify(self, blob_id: BlobId) -> StoredBlob:
        """Re-read the whole replica. Raises: FileNotFoundError, Corruption, Unavailable (no descriptors)."""
        opened = self._open(blob_id)
        try:
            opened.verify_all()
        finally:
            opened.close()
        return StoredBlob(
            blob_id=blob_id,
            size_bytes=opened.layout.size_bytes,
            crc64=opened.layout.crc64.to_bytes(8, "big"),
        )

    # --- quarantine, drop, pins -------------------------------------------------------------------
    async def quarantine(
        self, blob_id: BlobId, *, size_bytes: int | None = None, crc64: bytes | None = None
    ) -> bool:
        """Move a bad replica out of the way; ``False`` if it is gone or, read again in full, turns out sound.

        It is read again because a good copy may have replaced the bad one since, and then must stay.
        """
        return await self._slow.submit(self._quarantine, blob_id, size_bytes, crc64)

    def _quarantine(self, blob_id: BlobId, size_bytes: int | None, crc64: bytes | None) -> bool:
        try:
            found = self._verify(blob_id)
        except FileNotFoundError:
            return False
        except Corruption:
            found = None
        if (
            found is not None
            and size_bytes in (None, found.size_bytes)
            and crc64 in (None, found.crc64)
        ):
            return False
        directory = f"{self._directory}/{QUARANTINE}"
        kept = [name for name in self._disk.listing(directory) if "." in name]
        serial = 1 + max((int(name.split(".")[0]) for name in kept), default=0)
        try:
            self._disk.rename(
                blob_path(self._directory, blob_id), f"{directory}/{serial:08d}.{blob_id.hex()}"
            )
        except FileNotFoundError:
            return False
        for name in kept[: max(len(kept) + 1 - QUARANTINED_MAX, 0)]:
            self._unlink_if_there(f"{directory}/{name}")
        # The bad copy must not come back under its name after we reported it lost.
        self._disk.fsync_directory(blob_directory(self._directory, blob_id))
        return True

    async def drop(self, blob_id: BlobId) -> bool:
        """Unlink a blob that nothing names any more; ``False`` if a reader pins it. An absent one counts as dropped."""
        return await self._slow.submit(self._drop, blob_id)

    def _drop(self, blob_id: BlobId) -> bool:
        aside = f"{self._spool.temporary_directory}/{self._new_name()}"
        with self._pins.unpinned(blob_id) as unpinned:
            if not unpinned:
                return False
            hit("gc.before_unlink")
            try:
                self._disk.rename(blob_path(self._directory, blob_id), aside)
            except FileNotFoundError:
                return True
        self._disk.unlink(aside)  # slow for a large file, so outside the lock
        return True

    async def pin(self, blob_ids: list[BlobId]) -> list[BlobId]:
        """Those of ``blob_ids`` that are here, kept from ``drop`` for 30 s; renew every 5 s."""
        return await self._threads.submit(self._pins.pin, blob_ids)

    # --- scan -------------------------------------------------------------------------------------
    async def inventory(self, after: BlobId | None, limit: int) -> list[BlobId]:
        """The first ``limit`` ids above ``after`` in byte order; every one of them is durable by name.

        ``after=None`` scans the directories, later pages are cut from that scan: files that came or went since do not
        show. The scan is dropped with the last page.
        """
        return await self._slow.submit(self._inventory, after, limit)

    def _inventory(self, after: BlobId | None, limit: int) -> list[BlobId]:
        if after is None or self._scanned is None:
            self._scanned = self._scan()
        first = 0 if after is None else bisect_right(self._scanned, after)
        page = [self._scanned[i] for i in range(first, min(first + limit, len(self._scanned)))]
        if first + limit >= len(self._scanned):
            self._scanned = None
        return page

    def _scan(self) -> _SortedIds:
        """Directories hold ids by their last byte, so each contributes to every page: all are read at once."""
        found: list[bytes] = []
        for name in FAN_OUT:
            path = f"{self._directory}/{name}"
            self._disk.fsync_directory(path)
            for file_name in self._disk.listing(path):
                blob_id = blob_id_of_name(file_name)
                if blob_id is not None:
                    found.append(blob_id)
        found.sort()
        return _SortedIds(b"".join(found))

    # --- start, space, end ------------------------------------------------------------------------
    async def remove_leftovers(self) -> int:
        """Remove what dead processes left half written or half unlinked; how many files.

        Runs at every start of a gateway; what living siblings write is told by their locks. Also makes every name durable
        that a dead process renamed but did not sync.
        """
        return await self._slow.submit(self._remove_leftovers)

    def _remove_leftovers(self) -> int:
        removed = 0
        root = f"{self._directory}/{TEMPORARY}"
        for token in self._disk.listing(root):
            path = f"{root}/{token}"
            if token == self._token or not self._disk.is_directory(path):
                continue
            try:
                lock = self._disk.lock(path + ".lock")
            except StartRefused:
                continue  # its process lives
            removed += self._remove_temporary_directory(path, lock)
        for name in FAN_OUT:
            self._disk.fsync_directory(f"{self._directory}/{name}")
        self._pins.remove_expired()
        return removed

    def _remove_temporary_directory(self, path: str, lock: Lock) -> int:
        names = self._disk.listing(path)
        for name in names:
            self._disk.unlink(f"{path}/{name}")
        self._disk.rmdir(path)
        self._unlink_if_there(path + ".lock")
        lock.close()
        return len(names)

    def _unlink_if_there(self, path: str) -> None:
        if self._disk.exists(path):
            self._disk.unlink(path)

    def free_bytes(self) -> int:
        """Bytes that this process may still write, the reserve not counted."""
        space = os.statvfs(self._directory)
        return max(space.f_bavail * space.f_frsize - self._reserve_bytes, 0)

    def _check_space(self) -> None:
        """Refuse blobs long before the journal and the catalog on the same disk run out of room."""
        if self._reserve_bytes and self.free_bytes() == 0:
            raise DiskFull("disk nearly full: only the reserve is left")

    def close(self) -> None:
        """Wait for running work and leave no temporary directory behind. All sinks must be done."""
        self._threads.close()
        self._bulk.close()
        self._slow.close()
        self._remove_temporary_directory(self._spool.temporary_directory, self._lock)


class _SortedIds:
    """Ascending ids in one string of bytes: 16 bytes each instead of 57."""

    def __init__(self, joined: bytes) -> None:
        self._joined = joined

    def __len__(self) -> int:
        return len(self._joined) // _ID_BYTES

    def __getitem__(self, index: int) -> BlobId:
        return BlobId(self._joined[index * _ID_BYTES : (index + 1) * _ID_BYTES])
