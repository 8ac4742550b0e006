"""Puts bad local replicas away behind the back of the request that found them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sos.blob.files import BlobFiles
from sos.catalog.model import BlobId
from sos.errors import FatalStop, Unavailable
from sos.telemetry import log


class BadCopies:
    """Quarantines what is reported, each blob once at a time, and tells ``on_lost`` when a copy is really gone."""

    def __init__(self, files: BlobFiles, on_lost: Callable[[BlobId], None]) -> None:
        self._files = files
        self._on_lost = on_lost
        self._tasks: dict[BlobId, asyncio.Task[None]] = {}

    def report(
        self, blob_id: BlobId, *, size_bytes: int | None = None, crc64: bytes | None = None
    ) -> None:
        """A read of the local copy failed its checks. Re-reads it in the background: the answer must not wait for that."""
        if blob_id not in self._tasks:
            task = asyncio.ensure_future(self._put_away(blob_id, size_bytes, crc64))
            self._tasks[blob_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(blob_id, None))

    async def _put_away(self, blob_id: BlobId, size_bytes: int | None, crc64: bytes | None) -> None:
        try:
            moved = await self._files.quarantine(blob_id, size_bytes=size_bytes, crc64=crc64)
        except (Unavailable, FatalStop):
            return  # no descriptors: the next reader reports it again; or the process ends
        if moved:
            log.error("blob.quarantined", blob=blob_id.hex())
            self._on_lost(blob_id)

    async def close(self) -> None:
        """Wait for what was reported."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks.values()))
