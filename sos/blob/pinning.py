"""Keeps a blob at its holders for as long as a slow reader takes (protocols.md 4.6).

An open file outlives its name, so a stream from one source needs no pin. It needs one when it has to go on from
another holder, where the file of a blob that was forgotten meanwhile may be gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from sos.blob.files import BlobFiles
from sos.blob.handshake import PeerAddress
from sos.blob.peer_client import PeerClient
from sos.blob.pins import PIN_S
from sos.catalog.model import BlobId, NodeId
from sos.errors import Unavailable
from sos.limits import UNLINK_DELAY_S

# A forgotten blob's file stays for UNLINK_DELAY_S anyway: most reads have ended before any pin is needed.
PIN_AFTER_S: Final = 5.0
RENEW_S: Final = 5.0

assert PIN_AFTER_S < UNLINK_DELAY_S
assert RENEW_S * 2 < PIN_S


class Pinning:
    """Pins of one stream, from ``PIN_AFTER_S`` after its start until ``stop``. A holder that is away is asked again."""

    def __init__(
        self,
        files: BlobFiles,
        peers: PeerClient,
        *,
        self_id: NodeId,
        copies: Sequence[tuple[BlobId, Sequence[PeerAddress]]],
    ) -> None:
        """``copies``: blobs that will be read, and who holds each."""
        self._files = files
        self._peers = peers
        self._self_id = self_id
        self._held_by: dict[PeerAddress, list[BlobId]] = {}
        for blob_id, holders in copies:
            for holder in holders:
                self._held_by.setdefault(holder, []).append(blob_id)
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(PIN_AFTER_S, self._begin)

    def stop(self) -> None:
        """Renew no more; the last pins expire by themselves."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        while True:
            await asyncio.gather(
                *(self._pin_at(holder, blob_ids) for holder, blob_ids in self._held_by.items())
            )
            await asyncio.sleep(RENEW_S)

    async def _pin_at(self, holder: PeerAddress, blob_ids: list[BlobId]) -> None:
        if holder.node == self._self_id:
            await self._files.pin(blob_ids)
            return
        if self._peers.is_down(holder.node):
            return
        try:
            await self._peers.pin(holder, blob_ids)
        except Unavailable:
            return  # nor can the stream go on from there
