"""What a node does by itself with its own blob files: unlink forgotten ones, sweep orphans.

Both follow from this node's applied catalog alone (design 9, protocols.md 4.4): a forgotten blob is never
named again, and a blob that is not named and lies below the sweep floor never will be.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from sos.catalog.model import BlobId
from sos.errors import Unavailable
from sos.telemetry import log

if TYPE_CHECKING:
    from sos.blob.files import BlobFiles
    from sos.catalog.model import ForgottenBlob
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.service.access import CatalogAccess

_PAGE: Final = 1000
_TURN_S: Final = 1.0
_SWEEP_PERIODS: Final = 10  # a sweep lists every directory: once in so many raises of the floor
_INDEX_BYTES: Final = 8  # a blob id starts with the applied index at which its upload began


class Upkeep:
    """Runs in gateway 0 only: two would unlink the same files."""

    def __init__(
        self,
        *,
        access: CatalogAccess,
        files: BlobFiles,
        clock: Clock,
        unlink_delay_s: float,
        sweep_period_s: float,
        remove_unread: Callable[[], Awaitable[None]],
    ) -> None:
        """``remove_unread``: frees the room of catalog copies that nobody fetches any more."""
        self._remove_unread = remove_unread
        self._access = access
        self._files = files
        self._clock = clock
        self._unlink_delay_s = unlink_delay_s
        self._sweep_s = sweep_period_s * _SWEEP_PERIODS
        self._turn_s = min(_TURN_S, max(unlink_delay_s, 0.05), max(self._sweep_s, 0.05))
        self._seen: deque[tuple[float, ForgottenBlob]] = deque()
        self._read_to: ForgottenBlob | None = None
        self._swept_floor = 0
        self._sweep_at_s = clock.monotonic()
        self.unlinked = 0
        self.swept = 0

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            await asyncio.sleep(self._turn_s)
            try:
                await self.unlink_forgotten()
                await self.sweep()
                await self._remove_unread()
            except Unavailable as error:
                log.warning("upkeep.paused", why=str(error))
            except OSError as error:  # garbage stays; what is named is not touched here
                log.error("upkeep.failed", why=str(error))

    async def unlink_forgotten(self) -> None:
        """Unlink what this node saw forgotten at least ``unlink_delay_s`` ago: readers on their way are done by then."""
        now = self._clock.monotonic()
        if len(self._seen) < _PAGE:
            page = self._access.peek(lambda view: view.forgotten(self._read_to, _PAGE))
            self._seen.extend((now, blob) for blob in page)
            if page:
                self._read_to = page[-1]
        pinned: list[tuple[float, ForgottenBlob]] = []
        while self._seen and now - self._seen[0][0] >= self._unlink_delay_s:
            entry = self._seen.popleft()
            if await self._files.drop(entry[1].blob):
                self.unlinked += 1
            else:
                pinned.append((now, entry[1]))  # by a reader: after another delay
        self._seen.extend(pinned)

    async def sweep(self) -> None:
        """Unlink files below the sweep floor of the applied state that no row names."""
        now = self._clock.monotonic()
        if now < self._sweep_at_s:
            return
        floor = self._access.peek(lambda view: view.sweep_floor())
        if floor <= self._swept_floor:
            return
        self._sweep_at_s = now + self._sweep_s
        limit = floor.to_bytes(_INDEX_BYTES, "big")
        after: BlobId | None = None
        while True:
            page = await self._files.inventory(after, _PAGE)
            below = [blob for blob in page if blob[:_INDEX_BYTES] < limit]
            for blob in self._access.peek(partial(_unnamed, blobs=below)):
                if await self._files.drop(blob):
                    self.swept += 1
                    log.info("upkeep.orphan.swept", blob=blob.hex())
            if len(page) < _PAGE or len(below) < len(page):
                break
            after = page[-1]
        self._swept_floor = floor


def _unnamed(view: View, blobs: list[BlobId]) -> list[BlobId]:
    return [blob for blob in blobs if view.blob(blob) is None]
