"""What a node unlinks by itself: forgotten blobs after a while, orphans below the floor, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from sos.blob.files import BlobFiles
from sos.catalog.model import BlobId, ForgottenBlob
from sos.clock import ManualClock
from sos.service.access import CatalogAccess
from sos.service.upkeep import Upkeep


def blob(index: int, number: int = 0) -> BlobId:
    return BlobId(index.to_bytes(8, "big") + number.to_bytes(8, "big"))


@dataclass
class FakeCatalog:
    """A view whose rows the test sets."""

    named: set[BlobId] = field(default_factory=set)
    forgotten_rows: list[ForgottenBlob] = field(default_factory=list)
    floor: int = 0

    def peek(self, query: Callable[[Any], Any]) -> Any:
        return query(self)

    def blob(self, name: BlobId) -> object | None:
        return name if name in self.named else None

    def sweep_floor(self) -> int:
        return self.floor

    def forgotten(self, after: ForgottenBlob | None, limit: int) -> list[ForgottenBlob]:
        rows = [row for row in self.forgotten_rows if after is None or row > after]
        return rows[:limit]


@dataclass
class FakeFiles:
    """A directory in memory."""

    here: set[BlobId] = field(default_factory=set)
    pinned: set[BlobId] = field(default_factory=set)
    scans: int = 0

    async def drop(self, name: BlobId) -> bool:
        if name in self.pinned:
            return False
        self.here.discard(name)
        return True

    async def inventory(self, after: BlobId | None, limit: int) -> list[BlobId]:
        self.scans += after is None
        return sorted(b for b in self.here if after is None or b > after)[:limit]


async def _nothing() -> None:
    """No copies of the catalog here."""


class Bed:
    def __init__(self) -> None:
        self.catalog, self.files, self.clock = FakeCatalog(), FakeFiles(), ManualClock()
        self.upkeep = Upkeep(
            access=cast(CatalogAccess, self.catalog),
            files=cast(BlobFiles, self.files),
            clock=self.clock,
            unlink_delay_s=10.0,
            sweep_period_s=60.0,
            remove_unread=_nothing,
        )

    def unlink(self) -> None:
        asyncio.run(self.upkeep.unlink_forgotten())

    def sweep(self) -> None:
        asyncio.run(self.upkeep.sweep())


def test_a_forgotten_blob_stays_for_readers_on_their_way() -> None:
    """Design 9: unlinked no sooner than 10 s after this node applied that."""
    bed = Bed()
    bed.files.here = {blob(5)}
    bed.catalog.forgotten_rows = [ForgottenBlob(index=9, blob=blob(5))]
    bed.unlink()
    bed.clock.advance(9.9)
    bed.unlink()
    assert bed.files.here == {blob(5)}

    bed.clock.advance(0.2)
    bed.unlink()

    assert bed.files.here == set()
    assert bed.upkeep.unlinked == 1


def test_each_forgotten_blob_has_its_own_delay() -> None:
    """Design 9: what was forgotten later is unlinked later."""
    bed = Bed()
    bed.files.here = {blob(5), blob(6)}
    bed.catalog.forgotten_rows = [ForgottenBlob(index=9, blob=blob(5))]
    bed.unlink()
    bed.clock.advance(6)
    bed.catalog.forgotten_rows.append(ForgottenBlob(index=12, blob=blob(6)))
    bed.unlink()
    bed.clock.advance(5)

    bed.unlink()

    assert bed.files.here == {blob(6)}


def test_a_pinned_blob_is_tried_again_and_holds_up_nobody() -> None:
    """protocols.md 4.6: unlink skips pinned blobs."""
    bed = Bed()
    bed.files.here = {blob(5), blob(6)}
    bed.files.pinned = {blob(5)}
    bed.catalog.forgotten_rows = [ForgottenBlob(index=9, blob=b) for b in (blob(5), blob(6))]
    bed.unlink()
    bed.clock.advance(11)
    bed.unlink()
    assert bed.files.here == {blob(5)}

    bed.files.pinned.clear()
    bed.clock.advance(11)
    bed.unlink()

    assert bed.files.here == set()


def test_the_sweep_takes_unnamed_blobs_below_the_floor_alone() -> None:
    """protocols.md 4.4; P13: a named one never, one that may still be named never."""
    bed = Bed()
    orphan, named, young = blob(5), blob(6), blob(10)
    bed.files.here = {orphan, named, young}
    bed.catalog.named = {named}
    bed.catalog.floor = 10

    bed.sweep()

    assert bed.files.here == {named, young}
    assert bed.upkeep.swept == 1


def test_the_sweep_goes_through_all_pages() -> None:
    """P14: more orphans than a page holds."""
    bed = Bed()
    bed.files.here = {blob(index) for index in range(1, 2501)}
    bed.catalog.named = {blob(7), blob(2400)}
    bed.catalog.floor = 2450

    bed.sweep()

    kept = {blob(index) for index in range(2450, 2501)} | bed.catalog.named
    assert bed.files.here == kept


def test_no_sweep_without_a_higher_floor_or_before_its_time() -> None:
    """A sweep lists every directory: it runs once for a floor, and not with each raise of it."""
    bed = Bed()
    bed.catalog.floor = 3
    bed.sweep()
    bed.clock.advance(10_000)
    bed.sweep()
    assert bed.files.scans == 1
    bed.catalog.floor = 4
    bed.sweep()
    bed.catalog.floor = 5
    bed.sweep()

    assert bed.files.scans == 2
