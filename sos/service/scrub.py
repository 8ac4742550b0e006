"""Re-reads every replica that the catalog counts here, puts bad ones away, and sees that they are made again. Then
every record of the catalog: small bodies lie there. A damaged one ends the node, which comes back and is healed.

A bad or missing copy is reported lost, as a read that meets it does; then it is owed, and resync brings it back
from a good holder. Two ways: at a configured pace, for ever; and one pass as fast as the disk gives (`sos scrub
--now`). A blob whose last copy was lost is *damaged*: an error to readers, listed until somebody overwrites or
deletes what names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

from sos.blob.checking import SLICE_BYTES, Checked, Expected, State, groups
from sos.catalog.model import BlobId, BlobRecord
from sos.errors import Corruption, Unavailable
from sos.failpoints import hit
from sos.limits import (
    SCRUB_FILE_BYTES_MIN,
    SCRUB_PARALLEL,
    SCRUB_PERIOD_S,
    SCRUB_REPAIR_S_MAX,
    SCRUB_START_S,
)
from sos.service.damaged import Damaged
from sos.service.resync import Pace
from sos.service.scrub_memory import Position
from sos.telemetry import log

if TYPE_CHECKING:
    from sos.blob.checking import ReplicaChecker
    from sos.blob.files import BlobFiles
    from sos.catalog.model import NodeId, OwedBlob
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.service.access import CatalogAccess
    from sos.service.members import MemberAddresses
    from sos.service.scrub_memory import ScrubMemory

_PAGE: Final = 500  # rows decoded without an await
_LOOK_S: Final = 5.0
_REPORT_S: Final = 0.5
_SETTLE_S: Final = 0.25
_RETRY_S: Final = 60.0
_SAVE_S: Final = 10.0  # what a restart reads again at most, at the pace

Report = Callable[[dict[str, Any]], None]


class Scrub:
    """The scrub of one node; gateway 0 runs it."""

    def __init__(
        self,
        *,
        access: CatalogAccess,
        members: MemberAddresses,
        files: BlobFiles,
        checker: ReplicaChecker,
        on_lost: Callable[[BlobId], None],
        self_id: NodeId,
        clock: Clock,
        bytes_s: int,
        memory: ScrubMemory,
        start_s: float = SCRUB_START_S,
        repair_s_max: float = SCRUB_REPAIR_S_MAX,
    ) -> None:
        """``on_lost``: told of each copy that is gone; reports it until the catalog knows."""
        self._access = access
        self._files = files
        self._checker = checker
        self._on_lost = on_lost
        self._self_id = self_id
        self._clock = clock
        self._bytes_s = bytes_s
        self._memory = memory
        self._start_s = start_s
        self._repair_s_max = repair_s_max
        self._position, self._last_pass_ms = memory.load()  # of the paced pass
        self._running = "resting"
        self._now: Position | None = None  # of a pass that was asked for, while it runs
        self._is_free = asyncio.Event()
        self._is_free.set()
        self._rate_from = (0.0, 0)
        self._last = Position()  # of the pass that ended last here
        self._last_bytes_s: int | None = None
        self._found = 0
        self._repaired = 0
        self._open: dict[BlobId, Expected] = {}  # found bad here, not made again yet
        self._damaged = Damaged(access, members)
        self._owed_after = b""
        self._saved_at = clock.monotonic()

    # --- jobs -------------------------------------------------------------------------------------
    async def run_paced(self, report: Report) -> dict[str, Any]:
        """For ever; ends by cancellation."""
        watch = asyncio.get_running_loop().create_task(self._watch(report))
        try:
            await asyncio.sleep(self._start_s)
            while True:
                await self._rest()
                try:
                    await self._paced_pass()
                except Unavailable as error:
                    log.warning("scrub.paused", why=str(error))
                    await asyncio.sleep(_RETRY_S)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def run_now(self, report: Report) -> dict[str, Any]:
        """One pass as fast as the disk gives; waits until its finds are made again. Raises: Unavailable."""
        self._is_free.clear()
        self._now = position = Position()
        self._start_rate("now")
        telling = asyncio.get_running_loop().create_task(self._tell(report))
        try:
            await self._read_all(position, None)
            self._now = None
            self._passed(position)
            await self._wait_repaired()
        finally:
            self._now = None
            self._running = "resting"
            self._is_free.set()
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        return self.values()

    def values(self) -> dict[str, Any]:
        """What `sos scrub` and the status show: plain values."""
        position = self._now or self._position
        total = self._bytes_total()
        rate = self._rate(position)
        left = max(total - position.bytes_done, 0)
        damaged, objects = self._damaged.shown
        return {
            "running": self._running,
            "reads": "catalog" if position.is_in_catalog else "blobs",
            "last_pass_ms": self._last_pass_ms,
            "last_blobs": self._last.blobs_done,
            "last_bytes": self._last.bytes_done,
            "last_bytes_s": self._last_bytes_s,
            "last_found": self._last.found,
            "blobs_done": position.blobs_done,
            "bytes_done": position.bytes_done,
            "bytes_total": total,
            "bytes_s": rate,
            "eta_s": round(left / rate, 1) if rate and self._running != "resting" else None,
            "found": self._found,
            "repaired": self._repaired,
            "unrepaired": len(self._open),
            "damaged_blobs": len(self._damaged),
            "damaged": damaged,
            "damaged_objects": objects,
        }

    # --- a pass -----------------------------------------------------------------------------------
    async def _rest(self) -> None:
        """Until the next paced pass is due."""
        while True:
            await self._is_free.wait()
            if self._last_pass_ms is None or self._position != Position():
                return
            passed_s = (self._clock.wall_ms() - self._last_pass_ms) / 1000
            if not 0 <= passed_s < SCRUB_PERIOD_S:  # also when the clock went back
                return
            await asyncio.sleep(min(SCRUB_PERIOD_S - passed_s, _RETRY_S))

    async def _paced_pass(self) -> None:
        position = self._position
        self._start_rate("paced")
        try:
            await self._read_all(position, Pace(self._clock, self._bytes_s))
        finally:
            if self._running == "paced":
                self._running = "resting"
        if position is self._position:  # else a pass that was asked for made this one needless
            self._passed(position)

    def _passed(self, position: Position) -> None:
        self._last_bytes_s = self._rate(position)
        self._last_pass_ms = self._clock.wall_ms()
        self._last = position
        self._position = Position()
        self._save()
        log.info(
            "scrub.pass.done",
            blobs=position.blobs_done,
            bytes=position.bytes_done,
            found=position.found,
        )

    async def _read_all(self, position: Position, pace: Pace | None) -> None:
        """Every replica counted here, by id, then every record; from ``position`` on."""
        while await self._may_go_on(position, pace):
            if position.is_in_catalog:
                if not await self._check_records(position, pace):
                    return
                continue
            page = self._access.peek(_named_page(position.after))
            mine = [_expected(record) for record in page if self._self_id in record.holders]
            if pace is None:
                await self._read_fast(mine, position)
            else:
                await self._read_paced(mine, position, pace)
            position.is_in_catalog = len(page) < _PAGE
            position.after = b"" if position.is_in_catalog else page[-1].blob

    async def _may_go_on(self, position: Position, pace: Pace | None) -> bool:
        """For a paced pass: wait while one that was asked for runs; that one made it needless."""
        if pace is None:
            return True
        await self._is_free.wait()
        if position is not self._position:
            return False
        self._running = "paced"
        if self._clock.monotonic() - self._saved_at >= _SAVE_S:
            self._save()
        return True

    async def _check_records(self, position: Position, pace: Pace | None) -> bool:
        """Some records of the catalog; False behind the last. Raises: Unavailable: damaged, the core was told."""
        last, size_bytes = self._access.peek(lambda view: view.check_rows(position.after, _PAGE))
        if pace is not None:
            await pace.take(size_bytes)
        else:
            await asyncio.sleep(0)  # requests go first
        position.after = last or b""
        return last is not None

    async def _read_paced(self, mine: Sequence[Expected], position: Position, pace: Pace) -> None:
        for group in groups(mine):
            if not await self._may_go_on(position, pace):
                return
            if group[0].size_bytes > SLICE_BYTES:
                await self._take([await self._in_slices(group[0], pace)], position)
                group = group[1:]
            await pace.take(sum(max(one.size_bytes, SCRUB_FILE_BYTES_MIN) for one in group))
            await self._take(await self._checker.check(group), position)

    async def _read_fast(self, mine: Sequence[Expected], position: Position) -> None:
        queue = groups(mine)

        async def work() -> None:
            for group in queue:
                if group[0].size_bytes > SLICE_BYTES:
                    checked = [await self._in_slices(group[0], None)]
                    checked += await self._checker.check(group[1:])
                else:
                    checked = await self._checker.check(group)
                await self._take(checked, position)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(SCRUB_PARALLEL):
                    tasks.create_task(work())
        except* Unavailable as group_error:
            raise Unavailable(str(group_error.exceptions[0])) from group_error

    async def _in_slices(self, expected: Expected, pace: Pace | None) -> Checked:
        """A large replica: nothing may hold a disk for seconds."""
        if pace is not None:
            await pace.take(SLICE_BYTES)
        try:
            async with aclosing(self._checker.slices(expected)) as slices:
                async for count in slices:
                    if pace is not None:
                        await pace.take(count)
        except FileNotFoundError:
            return Checked(expected=expected, state=State.MISSING, why="the file is missing")
        except Corruption as error:
            return Checked(expected=expected, state=State.DAMAGED, why=str(error))
        return Checked(expected=expected, state=State.SOUND)

    async def _take(self, checked: Sequence[Checked], position: Position) -> None:
        for one in checked:
            position.blobs_done += 1
            position.bytes_done += one.expected.size_bytes
            if one.state is not State.SOUND and await self._lost(one):
                position.found += 1

    async def _lost(self, checked: Checked) -> bool:
        """Put a bad copy away and report it; False when it turns out that nothing is lost."""
        expected = checked.expected
        blob = expected.blob_id
        record = self._access.peek(lambda view: view.blob(blob))
        if record is None or self._self_id not in record.holders or blob in self._open:
            return False  # forgotten meanwhile, or found by a read that reported it
        hit("scrub.found")
        if checked.state is State.DAMAGED:
            is_gone = await self._files.quarantine(
                blob, size_bytes=expected.size_bytes, crc64=expected.crc64
            )
        else:
            is_gone = not await self._files.exists(blob)
        if not is_gone:
            return False
        log.error("scrub.replica.lost", blob=blob.hex(), state=checked.state.value, why=checked.why)
        hit("scrub.put_away")
        self._found += 1
        self._open[blob] = expected
        self._on_lost(blob)
        return True

    # --- what becomes of it -----------------------------------------------------------------------
    async def _wait_repaired(self) -> None:
        """Until every find is made again, forgotten, or known to be damaged everywhere; not for ever."""
        end = self._clock.monotonic() + self._repair_s_max
        while True:
            await self._settle()
            if all(blob in self._damaged for blob in self._open):
                await self._damaged.find_names()
                return
            if self._clock.monotonic() >= end:
                log.error("scrub.unrepaired", blobs=len(self._open))
                return
            await asyncio.sleep(_SETTLE_S)

    async def _settle(self) -> None:
        """Look what became of each find, and of what had no copy left."""
        for blob in {*self._open, *self._damaged.blobs}:
            record = self._access.peek(lambda view, blob=blob: view.blob(blob))  # type: ignore[misc]
            self._damaged.note(blob, record)
            expected = self._open.get(blob)
            if expected is None:
                continue
            if record is None:
                del self._open[blob]
            elif self._self_id in record.holders:
                checked = await self._checker.check([expected])
                if checked[0].state is State.SOUND and blob in self._open:  # two tasks look
                    del self._open[blob]
                    self._repaired += 1
                    log.info("scrub.replica.repaired", blob=blob.hex())

    async def _watch(self, report: Report) -> None:
        """Tell now and then; a blob that nobody holds is owed by every member, so the owed list shows it."""
        while True:
            try:
                page = self._access.peek(_owed_page(self._self_id, self._owed_after))
                for owed in page:
                    record = self._access.peek(lambda view, o=owed: view.blob(o.blob))  # type: ignore[misc]
                    self._damaged.note(owed.blob, record)
                self._owed_after = page[-1].blob if len(page) == _PAGE else b""
                if self._now is None:
                    await self._settle()
                await self._damaged.find_names()
                report(self.values())
            except Unavailable as error:
                log.info("scrub.unseen", why=str(error))
            await asyncio.sleep(_LOOK_S)

    async def _tell(self, report: Report) -> None:
        while True:
            with suppress(Unavailable):
                report(self.values())
            await asyncio.sleep(_REPORT_S)

    # --- figures ----------------------------------------------------------------------------------
    def _start_rate(self, running: str) -> None:
        self._running = running
        position = self._now or self._position
        self._rate_from = (self._clock.monotonic(), position.bytes_done)

    def _rate(self, position: Position) -> int | None:
        """Bytes a second of the running pass since it began here."""
        since, bytes_before = self._rate_from
        elapsed = self._clock.monotonic() - since
        if self._running == "resting" or elapsed <= 0:
            return None
        return int((position.bytes_done - bytes_before) / elapsed)

    def _bytes_total(self) -> int:
        def query(view: View) -> int:
            copies = view.member_copies(self._self_id)
            owed = 0 if copies is None else copies.bytes_owed
            return max(view.counters().blob_bytes - owed, 0)

        return self._access.peek(query)

    def _save(self) -> None:
        self._saved_at = self._clock.monotonic()
        self._memory.save(self._position, self._last_pass_ms)


def _expected(record: BlobRecord) -> Expected:
    return Expected(blob_id=record.blob, size_bytes=record.size_bytes, crc64=record.crc64)


def _named_page(after: bytes) -> Callable[[View], list[BlobRecord]]:
    return lambda view: view.blobs(after, _PAGE)


def _owed_page(node: NodeId, after: bytes) -> Callable[[View], list[OwedBlob]]:
    return lambda view: view.owed(node, after, _PAGE)
