"""A returning member gets every blob it misses: the leader's gateway compares and asks, the member pulls.

The full comparison of the catalog's blob ids with the member's inventory is the truth; the list of owed
replicas in the catalog only saves time. The member reports its own copies (protocols.md 4.1) as they come, those
that it could not get too: after a full comparison the owed list is exact. A copy that is here is never pulled
again, so a kill of any side repeats at most what was under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sos.blob.bundle import WantedBlob
from sos.blob.format import BLOB_ID_BYTES
from sos.blob.peer import receive_ids, split_ids
from sos.catalog.model import BlobId, NodeId
from sos.checksum import crc64nvme
from sos.errors import Corruption, DiskFull, Unavailable
from sos.failpoints import hit
from sos.limits import (
    BLOCK_BYTES,
    RESYNC_BATCH_BLOBS,
    RESYNC_BATCH_BYTES,
    RESYNC_BUNDLE_BLOB_BYTES,
    RESYNC_BUNDLE_BLOBS,
    RESYNC_BYTES_S_MAX,
    RESYNC_PARALLEL,
    RESYNC_PARALLEL_BUNDLES,
    RESYNC_PARALLEL_LARGE,
)
from sos.telemetry import log

if TYPE_CHECKING:
    from sos.blob.bundle import BundleReader
    from sos.blob.exchange import PeerExchange
    from sos.blob.fetch import BlobReader
    from sos.blob.files import BlobFiles
    from sos.blob.handshake import PeerAddress
    from sos.blob.peer import PeerServer
    from sos.blob.peer_client import PeerClient
    from sos.catalog.model import BlobRecord, OwedBlob
    from sos.catalog.views import View
    from sos.clock import Clock
    from sos.service.access import CatalogAccess
    from sos.service.members import MemberAddresses
    from sos.telemetry import Metrics

ROUTE: Final = "/pull"
_PAGE: Final = 4096  # ids a page: 64 KiB on the wire
_SIGN_OF_LIFE_S: Final = 5.0  # a large blob takes longer than a peer waits for the next frame
_BATCHES_MAX: Final = (
    2  # asked for at a time: the next one is there when the last blobs of one are slow
)


class ReportingLink(Protocol):
    """What is needed of ``sos.link.CoreLink``."""

    async def report_holders(self, gained: Sequence[BlobId], lost: Sequence[BlobId]) -> None: ...


class Pulled(NamedTuple):
    """What became of one blob, as the catalog knows it by now. One that was forgotten counts as here."""

    blob: BlobId
    is_here: bool


class _Named(NamedTuple):
    """A blob in files, and who is listed for it."""

    record: BlobRecord
    holders: frozenset[NodeId]


class _Group(NamedTuple):
    """Blobs for one worker; with a ``source`` they are asked for together."""

    source: PeerAddress | None
    blobs: list[_Named]


Report = Callable[[dict[str, Any]], None]


# --- the member's side ----------------------------------------------------------------------------
class Puller:
    """Brings named blobs to this disk and reports them. Serves other gateways on the blob port."""

    def __init__(
        self,
        *,
        access: CatalogAccess,
        members: MemberAddresses,
        files: BlobFiles,
        reader: BlobReader,
        bundles: BundleReader,
        link: ReportingLink,
        clock: Clock,
        metrics: Metrics,
        bytes_s_max: int = RESYNC_BYTES_S_MAX,
    ) -> None:
        self._access = access
        self._members = members
        self._files = files
        self._reader = reader
        self._bundles = bundles
        self._link = link
        self._pulled_blobs = metrics.counter(
            "sos_resync_pulled_blobs", "Blobs that this node got from other holders to keep."
        )
        self._pulled_bytes = metrics.counter("sos_resync_pulled_bytes", "Bytes of these blobs.")
        self._pace = Pace(clock, bytes_s_max)
        self._slots = asyncio.Semaphore(RESYNC_PARALLEL)
        self._slots_of_large = asyncio.Semaphore(RESYNC_PARALLEL_LARGE)
        self._slots_of_bundles = asyncio.Semaphore(RESYNC_PARALLEL_BUNDLES)

    def serve(self, server: PeerServer) -> None:
        """Take requests of the leader's gateway on the blob port."""
        server.add_route("POST", ROUTE, self._pull_route)

    async def pull(self, blobs: Sequence[BlobId]) -> AsyncGenerator[list[Pulled], None]:
        """What became of each of ``blobs``, as it becomes certain; an empty list now and then: still at work.

        Ends early when a report was not committed: nothing is known of what was not told. Raises: Unavailable.
        """
        # After a barrier: whatever the asking leader saw in its catalog is in this one.
        wanted = await self._access.read(lambda view: _named(view, blobs))
        named = {record.blob for record, _ in wanted}
        yield [Pulled(blob, is_here=True) for blob in blobs if blob not in named]
        done: list[Pulled] = []
        changed = asyncio.Event()
        queue = iter(self._groups(wanted))
        workers = {
            asyncio.create_task(self._work(queue, done, changed)) for _ in range(RESYNC_PARALLEL)
        }
        try:
            while workers or done:
                if not done:
                    await _wait(changed, _SIGN_OF_LIFE_S)
                changed.clear()
                workers = _living(workers)
                finished, done[:] = done[:], []
                if finished and not await self._tell(finished):
                    return
                yield finished
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _groups(self, wanted: Sequence[_Named]) -> list[_Group]:
        """What is asked for together: small blobs of one holder, every other blob alone."""
        groups: list[_Group] = []
        open_ones: dict[NodeId, _Group] = {}
        # By directory, as files are spread: those of one bundle need few of these synced.
        for record, holders in sorted(wanted, key=lambda named: named.record.blob[-1]):
            source = None
            if record.size_bytes <= RESYNC_BUNDLE_BLOB_BYTES:
                source = self._bundles.source(record.blob, self._members.of(holders))
            group = None if source is None else open_ones.get(source.node)
            if group is None or len(group.blobs) >= RESYNC_BUNDLE_BLOBS:
                group = _Group(source, [])
                groups.append(group)
                if source is not None:
                    open_ones[source.node] = group
            group.blobs.append(_Named(record, holders))
        return groups

    async def _work(
        self, queue: Iterator[_Group], done: list[Pulled], changed: asyncio.Event
    ) -> None:
        try:
            for group in queue:
                here = await self._together(group)
                done += [Pulled(blob, is_here=True) for blob in here]
                changed.set()
                for record, holders in group.blobs:
                    if record.blob not in here:
                        done.append(Pulled(record.blob, await self._one(record, holders)))
                        changed.set()
        finally:
            changed.set()

    async def _together(self, group: _Group) -> frozenset[BlobId]:
        """Those of ``group`` that came in one bundle; the others must be pulled one by one."""
        if group.source is None or len(group.blobs) == 1:
            return frozenset()
        sizes = {record.blob: record.size_bytes for record, _ in group.blobs}
        async with self._slots_of_bundles:
            await self._pace.take(sum(sizes.values()))
            copied = await self._bundles.pull(
                group.source,
                [WantedBlob(r.blob, r.size_bytes, r.crc64) for r, _ in group.blobs],
            )
        self._pulled_blobs.add(len(copied))
        self._pulled_bytes.add(sum(sizes[blob] for blob in copied))
        return copied

    async def _one(self, record: BlobRecord, holders: frozenset[NodeId]) -> bool:
        """Whether a sound copy of the blob is here now."""
        slots = self._slots if record.size_bytes <= BLOCK_BYTES else self._slots_of_large
        async with slots:
            await self._pace.take(record.size_bytes)
            try:
                is_copied = await self._reader.pull(
                    blob_id=record.blob,
                    size_bytes=record.size_bytes,
                    crc64=record.crc64,
                    holders=self._members.of(holders),
                )
            except (Unavailable, Corruption, DiskFull) as error:
                log.warning("resync.blob.failed", blob=record.blob.hex(), why=str(error))
                return False
            if is_copied:
                self._pulled_blobs.add()
                self._pulled_bytes.add(record.size_bytes)
            return True

    async def _tell(self, finished: list[Pulled]) -> bool:
        """Report to the catalog; whether that was committed."""
        gained = [pulled.blob for pulled in finished if pulled.is_here]
        # Forgotten meanwhile: whoever unlinks forgotten blobs may have passed before the file was here.
        named = self._access.peek(lambda view: {b for b in gained if view.blob(b) is not None})
        for blob in gained:
            if blob not in named:
                await self._files.drop(blob)
        hit("resync.before_report")
        try:
            await self._link.report_holders(
                [blob for blob in gained if blob in named],
                [pulled.blob for pulled in finished if not pulled.is_here],
            )
        except Unavailable as error:
            log.warning("resync.unreported", blobs=len(finished), why=str(error))
            return False
        return True

    async def _pull_route(self, exchange: PeerExchange) -> None:
        received = await receive_ids(exchange, RESYNC_BATCH_BLOBS)
        if received is None:
            return
        async with aclosing(_as_pieces(self.pull(split_ids(received)))) as pieces:
            await exchange.answer_body(pieces)


def _named(view: View, blobs: Sequence[BlobId]) -> list[_Named]:
    found = []
    for blob in blobs:
        record = view.blob(blob)
        if record is not None and not record.inline:
            found.append(_Named(record, frozenset(record.holders)))
    return found


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return


def _living(workers: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that still work; what ended one of the others rises."""
    for worker in workers:
        if worker.done():
            worker.result()
    return {worker for worker in workers if not worker.done()}


# --- the answer on the wire: 16 bytes of id and one of outcome, for each blob -----------------------
_OUTCOME_BYTES: Final = BLOB_ID_BYTES + 1


async def _as_pieces(
    outcomes: AsyncGenerator[list[Pulled], None],
) -> AsyncGenerator[tuple[bytes, int], None]:
    async with aclosing(outcomes):
        async for page in outcomes:
            piece = b"".join(pulled.blob + bytes((pulled.is_here,)) for pulled in page)
            yield piece, crc64nvme(piece)


def _outcomes(data: bytes | memoryview) -> list[Pulled]:
    """Raises: Unavailable for what is no list of outcomes."""
    if len(data) % _OUTCOME_BYTES:
        raise Unavailable("the member answered something else")
    data = bytes(data)
    return [
        Pulled(BlobId(data[at : at + BLOB_ID_BYTES]), data[at + BLOB_ID_BYTES] == 1)
        for at in range(0, len(data), _OUTCOME_BYTES)
    ]


class Pace:
    """Lets ``bytes_s`` through a second; a burst of one second is let through at once."""

    def __init__(self, clock: Clock, bytes_s: int) -> None:
        self._clock = clock
        self._bytes_s = bytes_s
        self._free_at = clock.monotonic() - 1.0

    def reserve(self, size_bytes: int) -> float:
        """Seconds to wait before ``size_bytes`` may go."""
        now = self._clock.monotonic()
        begin = max(self._free_at, now - 1.0)
        self._free_at = begin + size_bytes / self._bytes_s
        return max(begin - now, 0.0)

    async def take(self, size_bytes: int) -> None:
        """Wait for the turn of ``size_bytes``."""
        wait_s = self.reserve(size_bytes)
        if wait_s > 0:
            await asyncio.sleep(wait_s)


# --- the leader's side ----------------------------------------------------------------------------
@dataclass(slots=True)
class _Progress:
    """What the core is told while a resync runs."""

    report: Report
    blobs_done: int = 0
    bytes_done: int = 0
    blobs_total: int = 0
    bytes_total: int = 0
    failed: int = 0

    def values(self) -> dict[str, Any]:
        return {
            "blobs_done": self.blobs_done,
            "blobs_total": self.blobs_total,
            "bytes_done": self.bytes_done,
            "bytes_total": self.bytes_total,
            "failed": self.failed,
        }

    def count(self, sizes: dict[BlobId, int], outcomes: list[Pulled]) -> None:
        """Take outcomes off ``sizes``, which holds what was asked for and not answered yet."""
        for pulled in outcomes:
            size_bytes = sizes.pop(pulled.blob, None)
            if size_bytes is None:
                continue
            if pulled.is_here:
                self.blobs_done += 1
                self.bytes_done += size_bytes
            else:
                self.failed += 1
        self.blobs_total = max(self.blobs_total, self.blobs_done + self.failed)
        self.bytes_total = max(self.bytes_total, self.bytes_done)
        if outcomes:
            self.report(self.values())


class Resync:
    """Jobs of the leader's core: bring one member up to what the catalog names."""

    def __init__(
        self,
        *,
        access: CatalogAccess,
        members: MemberAddresses,
        files: BlobFiles,
        peers: PeerClient,
        puller: Puller,
        self_id: NodeId,
    ) -> None:
        self._access = access
        self._members = members
        self._files = files
        self._peers = peers
        self._puller = puller
        self._self_id = self_id

    async def run(self, node: NodeId, *, full: bool, report: Report) -> dict[str, Any]:
        """Compare in full, or go through the owed list. When it returns, the catalog's owed list says what is missing.

        ``failed`` among the values: how many blobs no holder could give. Raises: Unavailable: the member did not
        answer for every blob, and nothing is known of the rest.
        """
        found = self._members.of(frozenset((node,)))
        if not found:
            raise Unavailable(f"{node} is no member")
        progress = _Progress(report)
        copies = self._access.peek(lambda view: view.member_copies(node))
        if copies is not None:
            progress.blobs_total, progress.bytes_total = copies.blobs_owed, copies.bytes_owed
        missing = self._compare(found[0]) if full else self._owed(node)
        try:
            async with asyncio.TaskGroup() as group, aclosing(_batches(missing)) as batches:
                slots = asyncio.Semaphore(_BATCHES_MAX)
                async for batch in batches:
                    await slots.acquire()
                    asking = group.create_task(self._ask(found[0], batch, progress))
                    asking.add_done_callback(lambda _: slots.release())
        except ExceptionGroup as group_error:
            raise _first(group_error) from group_error
        return progress.values()

    async def _ask(
        self, member: PeerAddress, sizes: dict[BlobId, int], progress: _Progress
    ) -> None:
        async with aclosing(self._pulled(member, list(sizes))) as pages:
            async for outcomes in pages:
                progress.count(sizes, outcomes)
        if sizes:
            raise Unavailable(f"{member.node} did not say what became of {len(sizes)} blobs")

    async def _pulled(
        self, member: PeerAddress, blobs: list[BlobId]
    ) -> AsyncGenerator[list[Pulled], None]:
        if member.node == self._self_id:
            async with aclosing(self._puller.pull(blobs)) as pages:
                async for outcomes in pages:
                    yield outcomes
            return
        async with (
            self._peers.call(member, "POST", ROUTE, body=b"".join(blobs)) as answer,
            aclosing(answer.body()) as body,
        ):
            async for piece, _ in body:
                yield _outcomes(piece)

    # --- what is missing --------------------------------------------------------------------------
    async def _owed(self, node: NodeId) -> AsyncGenerator[tuple[BlobId, int], None]:
        after = b""
        while True:
            page = self._access.peek(_owed_page(node, after))
            for owed in page:
                yield owed.blob, owed.size_bytes
            if len(page) < _PAGE:
                return
            after = page[-1].blob

    async def _compare(self, member: PeerAddress) -> AsyncGenerator[tuple[BlobId, int], None]:
        """Blobs that the catalog names and the member lacks, or has without being listed as a holder."""
        present = self._inventory(member)
        current = await anext(present, None)
        after = b""
        while True:
            page = self._access.peek(_named_page(after))
            for record in page:
                while current is not None and current < record.blob:
                    current = await anext(present, None)  # not named: the sweep's business
                if current != record.blob or member.node not in record.holders:
                    yield record.blob, record.size_bytes
            if len(page) < _PAGE:
                return
            after = page[-1].blob

    async def _inventory(self, member: PeerAddress) -> AsyncIterator[BlobId]:
        after: BlobId | None = None
        while True:
            if member.node == self._self_id:
                page = await self._files.inventory(after, _PAGE)
            else:
                page = await self._peers.inventory(member, after, _PAGE)
            for blob in page:
                if after is not None and blob <= after:  # a merge with it could go on for ever
                    raise Unavailable(f"the inventory of {member.node} does not ascend")
                after = blob
                yield blob
            if len(page) < _PAGE:
                return


async def _batches(
    missing: AsyncGenerator[tuple[BlobId, int], None],
) -> AsyncGenerator[dict[BlobId, int], None]:
    """Blobs with their sizes, as many as are asked for in one message."""
    batch: dict[BlobId, int] = {}
    batch_bytes = 0
    async with aclosing(missing):
        async for blob, size_bytes in missing:
            batch[blob] = size_bytes
            batch_bytes += size_bytes
            if len(batch) >= RESYNC_BATCH_BLOBS or batch_bytes >= RESYNC_BATCH_BYTES:
                yield batch
                batch, batch_bytes = {}, 0
    if batch:
        yield batch


def _owed_page(node: NodeId, after: bytes) -> Callable[[View], list[OwedBlob]]:
    return lambda view: view.owed(node, after, _PAGE)


def _named_page(after: bytes) -> Callable[[View], list[BlobRecord]]:
    return lambda view: view.blobs(after, _PAGE)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """One error that stands for all; a bug of ours stays one."""
    expected, others = group.split((Unavailable, Corruption))
    rest: ExceptionGroup[Exception] | None = others or expected
    assert rest is not None
    error: Exception = rest
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
