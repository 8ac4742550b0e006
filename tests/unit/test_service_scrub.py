"""The scrub of one node over real blob files: what is found, put away, reported, and counted as made again."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from sos.blob.checking import Expected, ReplicaChecker, State, check_replica, groups
from sos.blob.files import BlobFiles, prepare_directories
from sos.blob.handshake import PeerAddress
from sos.blob.layout import blob_path
from sos.blob.threads import DiskThreads
from sos.catalog.model import (
    BlobId,
    BlobRecord,
    BucketRecord,
    Counters,
    MemberCopies,
    NodeId,
    OwedBlob,
)
from sos.checksum import crc64nvme
from sos.clock import SystemClock
from sos.disk import SystemDisk, SystemFile
from sos.errors import FatalStop, Unavailable
from sos.limits import KIB, MIB
from sos.service.access import CatalogAccess
from sos.service.members import MemberAddresses
from sos.service.scrub import Scrub
from sos.service.scrub_memory import Position, ScrubMemory

N1, N2 = NodeId("n1@0000000000000001"), NodeId("n2@0000000000000002")


_BUCKET = BucketRecord(name="bucket", created_ms=0, object_count=1, size_bytes=0, bucket_id=7)


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(16, "big"))


def body(number: int, size: int) -> bytes:
    return bytes([number]) * size


class Catalog:
    """The rows as this gateway sees them; its own view."""

    def __init__(self) -> None:
        self.rows: dict[BlobId, BlobRecord] = {}
        self.checked: list[bytes] = []
        self.is_rotten = False

    def peek(self, query: Callable[[Any], Any]) -> Any:
        return query(self)

    def blob(self, name: BlobId) -> BlobRecord | None:
        return self.rows.get(name)

    def blobs(self, after: bytes, limit: int) -> list[BlobRecord]:
        return [self.rows[name] for name in sorted(self.rows) if name > after][:limit]

    def owed(self, node: NodeId, after: bytes, limit: int) -> list[OwedBlob]:
        names = [b for b in sorted(self.rows) if node not in self.rows[b].holders and b > after]
        return [OwedBlob(blob=b, size_bytes=self.rows[b].size_bytes) for b in names[:limit]]

    def check_rows(self, after: bytes, limit: int) -> tuple[bytes | None, int]:
        """Three pages of records, the last of them damaged if ``is_rotten``."""
        self.checked.append(after)
        if self.is_rotten and after == b"\x02":
            raise Unavailable("the catalog of this node is damaged")  # as the access says it
        return (bytes([after[0] + 1 if after else 1]), 100) if after != b"\x02" else (None, 50)

    def buckets(self) -> list[BucketRecord]:
        return [_BUCKET]

    def objects_of(
        self, bucket_id: int, blobs: frozenset[BlobId], after: str, limit: int
    ) -> tuple[list[str], str | None]:
        assert bucket_id == _BUCKET.bucket_id
        return [f"object-{int.from_bytes(name)}" for name in sorted(blobs)], None

    def member_copies(self, node: NodeId) -> MemberCopies | None:
        return None

    def counters(self) -> Counters:
        return Counters(
            bucket_count=1,
            object_count=len(self.rows),
            size_bytes=0,
            blob_count=len(self.rows),
            blob_bytes=sum(row.size_bytes for row in self.rows.values()),
            forgotten_count=0,
            sweep_floor=0,
        )


class Members:
    def of(self, nodes: frozenset[NodeId]) -> tuple[PeerAddress, ...]:
        return tuple(PeerAddress(node=n, address="") for n in (N1, N2) if n in nodes)


def _die(error: FatalStop) -> None:
    raise AssertionError(error)


class Bed:
    """One node's scrub; ``repair`` stands for report and resync."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        prepare_directories(str(directory))
        self.files = BlobFiles(str(directory), on_fatal=_die)
        self.threads = DiskThreads(count=2, name="scrub", on_fatal=_die)
        self.catalog = Catalog()
        self.bodies: dict[BlobId, bytes] = {}
        self.lost: list[BlobId] = []
        self.on_lost: Callable[[BlobId], object] = self.drop_holder
        self.reports: list[dict[str, Any]] = []
        self.scrub = self.make()

    def make(self, **more: Any) -> Scrub:
        return Scrub(
            access=cast(CatalogAccess, self.catalog),
            members=cast(MemberAddresses, Members()),
            files=self.files,
            checker=ReplicaChecker(str(self.directory), self.threads),
            on_lost=self._lost,
            self_id=N1,
            clock=SystemClock(),
            memory=ScrubMemory(self.directory / "scrub", N1),
            **{"bytes_s": 1 << 40, "start_s": 0.0, "repair_s_max": 0.0, **more},
        )

    def _lost(self, name: BlobId) -> None:
        self.lost.append(name)
        self.on_lost(name)

    def path(self, number: int) -> Path:
        return Path(blob_path(str(self.directory), blob(number)))

    async def store(self, number: int, size: int, holders: tuple[NodeId, ...] = (N1, N2)) -> None:
        data = body(number, size)
        async with self.files.create(blob(number)) as sink:
            await sink.write(data)
            await sink.commit()
        self.bodies[blob(number)] = data
        self.catalog.rows[blob(number)] = BlobRecord(
            blob=blob(number),
            size_bytes=size,
            crc64=crc64nvme(data).to_bytes(8, "big"),
            reference_count=1,
            inline=False,
            holders=holders,
        )

    def drop_holder(self, name: BlobId) -> None:
        row = self.catalog.rows[name]
        self.catalog.rows[name] = replace(row, holders=tuple(h for h in row.holders if h != N1))

    def repair(self, name: BlobId) -> None:
        """What the report of the loss and the resync after it bring about."""
        asyncio.get_running_loop().create_task(
            self.store(int.from_bytes(name), len(self.bodies[name]))
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    def close(self) -> None:
        self.files.close()
        self.threads.close()


@pytest.fixture
def bed(tmp_path: Path) -> Any:
    made = Bed(tmp_path)
    yield made
    made.close()


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_every_kind_of_damage_is_found_put_away_and_made_again(bed: Bed) -> None:
    """Scenarios 47, 48: a flipped bit, a file cut short, a missing one, two swapped; the sound ones stay."""

    async def work() -> dict[str, Any]:
        for number in range(1, 9):
            await bed.store(number, 9 * MIB if number == 2 else 20 * KIB)
        _flip(bed.path(1), 100)
        os.truncate(bed.path(2), 5 * MIB)
        bed.path(3).unlink()
        third, fourth = bed.path(4).read_bytes(), bed.path(5).read_bytes()
        bed.path(4).write_bytes(fourth)
        bed.path(5).write_bytes(third)
        async with bed.files.create(
            blob(6)
        ) as sink:  # whole in itself, and not what the catalog names
            await sink.write(b"other bytes".ljust(20 * KIB))
            await sink.commit()
        bed.on_lost = bed.repair
        return await bed.make(repair_s_max=10.0).run_now(bed.reports.append)

    values = bed.run(work())

    assert sorted(bed.lost) == [blob(n) for n in (1, 2, 3, 4, 5, 6)]
    assert (values["found"], values["repaired"], values["unrepaired"]) == (6, 6, 0)
    assert values["damaged_blobs"] == 0
    assert values["last_pass_ms"] is not None
    assert len(list((bed.directory / "quarantine").iterdir())) == 5
    for name, row in bed.catalog.rows.items():
        expected = Expected(blob_id=name, size_bytes=row.size_bytes, crc64=row.crc64)
        checked = check_replica(SystemDisk(), str(bed.directory), expected)
        assert checked.state is State.SOUND


def test_a_blob_without_any_good_copy_is_listed_until_it_is_forgotten(bed: Bed) -> None:
    """Scenario 49: counted as damaged at once; off the list when nothing names it any more."""

    async def work() -> None:
        await bed.store(1, 20 * KIB, holders=(N1,))
        _flip(bed.path(1), 5)
        values = await bed.make(repair_s_max=10.0).run_now(bed.reports.append)
        assert (values["found"], values["unrepaired"], values["damaged_blobs"]) == (1, 1, 1)
        assert values["damaged"] == [blob(1).hex()]
        assert values["damaged_objects"] == ["bucket/object-1"]

    bed.run(work())


def test_a_restarted_gateway_knows_what_nobody_holds(bed: Bed) -> None:
    """The owed list shows a damaged blob: no pass over all blobs is needed, and no memory of it."""

    async def work() -> None:
        await bed.store(1, 20 * KIB, holders=())
        told = asyncio.Event()

        def report(values: dict[str, Any]) -> None:
            bed.reports.append(values)
            told.set()

        task = asyncio.create_task(bed.make(start_s=1000.0).run_paced(report))
        await told.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    bed.run(work())
    assert bed.reports[0]["damaged"] == [blob(1).hex()]


def test_what_is_not_counted_here_is_nobodys_loss(bed: Bed) -> None:
    """A copy on its way, and one forgotten between page and read, are not reported."""

    async def work() -> None:
        await bed.store(1, 20 * KIB, holders=(N2,))
        bed.path(1).unlink()
        await bed.store(2, 20 * KIB)
        bed.path(2).unlink()
        rows = dict(bed.catalog.rows)
        page = [rows[blob(1)], rows[blob(2)]]
        del bed.catalog.rows[blob(2)]
        bed.catalog.blobs = lambda after, limit: page  # type: ignore[method-assign]
        values = await bed.scrub.run_now(bed.reports.append)
        assert (values["last_blobs"], values["found"]) == (1, 0)

    bed.run(work())
    assert bed.lost == []


def test_the_paced_pass_goes_on_where_it_was_and_then_rests(bed: Bed) -> None:
    """A restart reads nothing twice; after a whole pass the next one waits a day."""

    async def work() -> None:
        for number in range(1, 5):
            await bed.store(number, 20 * KIB)
        memory = ScrubMemory(bed.directory / "scrub", N1)
        memory.save(Position(after=blob(2), blobs_done=2, bytes_done=40 * KIB), None)
        _flip(bed.path(1), 5)  # behind it: for the next pass
        _flip(bed.path(3), 5)
        task = asyncio.create_task(bed.make().run_paced(bed.reports.append))
        while memory.load()[1] is None:  # noqa: ASYNC110 - the file is what is waited for
            await asyncio.sleep(0)
        position, last_pass_ms = memory.load()
        assert (position, last_pass_ms is None) == (Position(), False)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    bed.run(work())
    assert bed.lost == [blob(3)]


def test_every_record_of_the_catalog_is_read_too(bed: Bed) -> None:
    """Issue 5, point 4: a small body that nobody reads rots in the catalog; the pass meets it, and does not call itself done."""
    bed.run(bed.scrub.run_now(bed.reports.append))
    assert bed.catalog.checked == [b"", b"\x01", b"\x02"]
    bed.catalog.is_rotten = True

    with pytest.raises(Unavailable):
        bed.run(bed.make().run_now(bed.reports.append))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"after": "zz"}', '{"after": ""}'])
def test_a_torn_memory_is_a_fresh_start(tmp_path: Path, text: str) -> None:
    """The file is never synced: whatever a crash leaves of it costs a pass, no more."""
    path = tmp_path / "scrub"
    path.write_text(text)
    assert ScrubMemory(path, N1).load() == (Position(), None)


def test_another_incarnation_begins_anew(tmp_path: Path) -> None:
    """It came back because something here was damaged: nothing that was read before counts."""
    path = tmp_path / "scrub"
    ScrubMemory(path, N1).save(Position(after=blob(1)), 5)
    assert ScrubMemory(path, N1).load() == (Position(after=blob(1)), 5)
    assert ScrubMemory(path, N2).load() == (Position(), None)


def test_small_replicas_share_a_job_and_large_ones_do_not() -> None:
    """Nothing is left out, nothing doubled, and no group is much larger than a slice."""
    sizes = [20 * KIB] * 100 + [9 * MIB, 1, 9 * MIB] + [MIB] * 5
    expected = [
        Expected(blob_id=blob(n), size_bytes=size, crc64=b"") for n, size in enumerate(sizes)
    ]
    cut = list(groups(expected))
    assert [one for group in cut for one in group] == expected
    assert max(map(len, cut)) <= 64


class FailingDisk(SystemDisk):
    """Its files cannot be opened, or not be read."""

    def __init__(self, *, on_open: int = 0, on_read: int = 0) -> None:
        self._on_open, self._on_read = on_open, on_read

    def open(self, path: str, *, writable: bool = False) -> SystemFile:
        if self._on_open:
            raise OSError(self._on_open, os.strerror(self._on_open), path)
        return super().open(path, writable=writable)

    def _file(self, fd: int, path: str) -> SystemFile:
        return FailingFile(fd, path, self._on_read)


class FailingFile(SystemFile):
    __slots__ = ("_error",)

    def __init__(self, fd: int, path: str, error: int) -> None:
        super().__init__(fd, path)
        self._error = error

    def pread(self, count: int, offset: int) -> bytes:
        raise OSError(self._error, os.strerror(self._error))


def test_a_sector_that_cannot_be_read_is_damage(bed: Bed) -> None:
    """Scenario 41: EIO while reading a blob."""
    bed.run(bed.store(1, 20 * KIB))
    expected = Expected(blob_id=blob(1), size_bytes=20 * KIB, crc64=bytes(8))

    checked = check_replica(FailingDisk(on_read=errno.EIO), str(bed.directory), expected)

    assert checked.state is State.DAMAGED
    assert "Input/output error" in checked.why


def test_no_descriptors_are_no_damage(bed: Bed) -> None:
    """Scenario 44: a good copy is not put away because this process has too many files open."""
    bed.run(bed.store(1, 20 * KIB))
    expected = Expected(blob_id=blob(1), size_bytes=20 * KIB, crc64=bytes(8))

    with pytest.raises(Unavailable):
        check_replica(FailingDisk(on_open=errno.EMFILE), str(bed.directory), expected)
