"""Blob files on a real disk: durable or nothing, verified or refused (design 9; faults 37, 40, 41, 47-49)."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sos import failpoints
from sos.blob.aligned import aligned_buffer
from sos.blob.files import BlobFiles, prepare_directories
from sos.blob.layout import QUARANTINE, TEMPORARY
from sos.blob.pins import PIN_S
from sos.blob.sink import StoredBlob
from sos.catalog.model import BlobId
from sos.checksum import crc64nvme
from sos.clock import ManualClock
from sos.disk import SystemDisk
from sos.errors import EXIT_DISK, Corruption, DiskFull, FatalStop, Unavailable
from sos.limits import BLOCK_BYTES, KIB, MIB

T = TypeVar("T")


def blob(number: int) -> BlobId:
    return BlobId(number.to_bytes(8, "big") + number.to_bytes(8, "little"))


def body(size: int, seed: int = 1) -> bytes:
    """Bytes that differ from block to block."""
    unit = b"".join((seed * 7919 + i).to_bytes(8, "big") for i in range(4099))
    return (unit * (size // len(unit) + 1))[:size]


class Bed:
    """One process's view of a blob directory."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        prepare_directories(str(path))
        self.fatal: list[FatalStop] = []
        options.setdefault("reserve_bytes", 0)
        self.files = BlobFiles(str(path), on_fatal=self.fatal.append, **options)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    def file(self, blob_id: BlobId) -> Path:
        return self.path / f"{blob_id[-1]:02x}" / blob_id.hex()

    def temporary(self) -> list[Path]:
        return [
            p for p in (self.path / TEMPORARY).rglob("*") if p.is_file() and p.suffix != ".lock"
        ]

    async def put(self, blob_id: BlobId, data: bytes, step: int = 200 * KIB) -> StoredBlob:
        async with self.files.create(blob_id) as sink:
            for start in range(0, len(data), step):
                await sink.write(data[start : start + step])
            return await sink.commit()

    async def get(self, blob_id: BlobId, start: int = 0, stop: int | None = None) -> bytes:
        async with await self.files.open(blob_id) as file:
            stop = file.size_bytes if stop is None else stop
            return b"".join([bytes(view) async for view in file.read(start, stop)])


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


SIZES = (0, 1, 17 * KIB, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 5)


@pytest.mark.parametrize("size", SIZES)
def test_what_was_stored_is_read(bed: Bed, size: int) -> None:
    """P7: every byte of every size comes back, with the length and checksum that the catalog will name."""
    data = body(size)

    stored = bed.run(bed.put(blob(1), data))

    assert stored.size_bytes == size
    assert stored.crc64 == crc64nvme(data).to_bytes(8, "big")
    assert bed.run(bed.get(blob(1))) == data
    assert bed.temporary() == []
    assert bed.file(blob(1)).stat().st_mode & 0o777 == 0o600


def test_aligned_pieces_take_the_direct_way(bed: Bed) -> None:
    """Large bodies go past the page cache where their memory allows it, and are the same bytes."""
    data = body(5 * MIB + 77)

    async def put() -> StoredBlob:
        async with bed.files.create(blob(1)) as sink:
            for start in range(0, len(data), 512 * KIB):
                part = data[start : start + 512 * KIB]
                piece = aligned_buffer(len(part))
                piece[:] = part
                await sink.write(piece, crc64nvme(piece))
            return await sink.commit()

    stored = bed.run(put())

    assert stored.crc64 == crc64nvme(data).to_bytes(8, "big")
    assert bed.run(bed.get(blob(1))) == data


def test_file_system_without_direct_io(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that opens for direct I/O and then refuses the write still stores the blob."""
    bed = Bed(tmp_path)
    real = os.open

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        # O_RDONLY makes each write fail; it stands for EINVAL, given below.
        return real(
            path, flags & ~(os.O_DIRECT | os.O_WRONLY) if flags & os.O_DIRECT else flags, mode
        )

    real_pwrite = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        try:
            return real_pwrite(fd, data, offset)
        except OSError as error:
            raise OSError(errno.EINVAL, "not aligned") from error

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "pwrite", pwrite)
    data = body(3 * MIB)

    async def put() -> None:
        async with bed.files.create(blob(1)) as sink:
            for start in range(0, len(data), MIB):
                piece = aligned_buffer(MIB)
                piece[:] = data[start : start + MIB]
                await sink.write(piece)
            await sink.commit()

    bed.run(put())

    assert bed.run(bed.get(blob(1))) == data


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (0, 0),
        (0, 1),
        (5, BLOCK_BYTES),
        (BLOCK_BYTES - 1, BLOCK_BYTES + 1),
        (BLOCK_BYTES, 2 * BLOCK_BYTES),
        (2 * BLOCK_BYTES + 3, 3 * BLOCK_BYTES + 5),
        (3 * BLOCK_BYTES + 4, 3 * BLOCK_BYTES + 5),
    ],
)
def test_ranges(bed: Bed, start: int, stop: int) -> None:
    """P7: a range is exactly its bytes."""
    data = body(3 * BLOCK_BYTES + 5)

    async def main() -> bytes:
        await bed.put(blob(1), data)
        return await bed.get(blob(1), start, stop)

    assert bed.run(main()) == data[start:stop]


def test_a_range_reads_only_its_blocks(bed: Bed) -> None:
    """Damage elsewhere does not cost a range its local copy; damage in its blocks does (mutant M55)."""
    data = body(3 * BLOCK_BYTES)
    bed.run(bed.put(blob(1), data))
    _flip(bed.file(blob(1)), 2 * BLOCK_BYTES + 10)

    assert bed.run(bed.get(blob(1), 0, 2 * BLOCK_BYTES)) == data[: 2 * BLOCK_BYTES]
    with pytest.raises(Corruption, match="block 2"):
        bed.run(bed.get(blob(1), BLOCK_BYTES, 3 * BLOCK_BYTES))


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("size", [1, 17 * KIB, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.6, 0.999999])
def test_flipped_bits_in_the_body(bed: Bed, size: int, where: float) -> None:
    """Fault 47: not one wrong byte leaves; the blocks before the bad one may."""
    data = body(size)
    bed.run(bed.put(blob(1), data))
    _flip(bed.file(blob(1)), int(where * size))

    async def read() -> bytes:
        got = b""
        try:
            async with await bed.files.open(blob(1)) as file:
                async for view in file.read(0, file.size_bytes):
                    got += bytes(view)
        except Corruption:
            return got
        raise AssertionError("damage went unnoticed")

    got = bed.run(read())

    assert data.startswith(got)
    assert bed.run(bed.files.quarantine(blob(1))), "read again in full it is bad, too"


@pytest.mark.parametrize("size", [1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
def test_flipped_bits_behind_the_body(bed: Bed, size: int) -> None:
    """Fault 47: table and footer are under checksums, so the file does not even open."""
    bed.run(bed.put(blob(1), body(size)))
    path = bed.file(blob(1))
    whole = path.read_bytes()
    for offset in range(size, len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(Corruption):
            bed.run(bed.get(blob(1)))


@pytest.mark.parametrize("size", [1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
def test_truncated_and_extended(bed: Bed, size: int) -> None:
    """Fault 48: a cut, empty or longer file is damage."""
    bed.run(bed.put(blob(1), body(size)))
    path = bed.file(blob(1))
    whole = path.read_bytes()
    cuts = {0, 1, size // 2, size, size + 1, len(whole) - 56, len(whole) - 1}
    for content in (*(whole[:cut] for cut in cuts), whole + b"x", b"\0" * len(whole)):
        path.write_bytes(content)
        with pytest.raises(Corruption):
            bed.run(bed.get(blob(1)))


def test_swapped_files(bed: Bed) -> None:
    """Fault 48: two sound files under each other's names are damage, also of one length."""
    one, two = blob(1), blob(257)
    bed.run(bed.put(one, body(1000, 1)))
    bed.run(bed.put(two, body(1000, 2)))
    first, second = bed.file(one).read_bytes(), bed.file(two).read_bytes()
    bed.file(one).write_bytes(second)
    bed.file(two).write_bytes(first)

    for blob_id in (one, two):
        with pytest.raises(Corruption, match="holds blob"):
            bed.run(bed.get(blob_id))


def test_missing_is_told_apart_from_damaged(bed: Bed) -> None:
    """Fault 48: a missing replica is "not here", which a peer answers as such."""
    with pytest.raises(FileNotFoundError):
        bed.run(bed.files.open(blob(1)))
    assert not bed.run(bed.files.exists(blob(1)))


def test_not_what_the_catalog_names(bed: Bed) -> None:
    """P7: a sound file with another length or checksum than the catalog has is damage."""
    stored = bed.run(bed.put(blob(1), b"bytes"))

    async def open_as(size: int, crc: bytes) -> None:
        async with await bed.files.open(blob(1), size_bytes=size, crc64=crc):
            pass

    bed.run(open_as(5, stored.crc64))
    for size, crc in ((6, stored.crc64), (5, bytes(8))):
        with pytest.raises(Corruption, match="catalog"):
            bed.run(open_as(size, crc))


def test_read_error_is_a_bad_copy(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 41: EIO while reading leads to another replica, not to the end of the process."""
    bed.run(bed.put(blob(1), body(3 * MIB)))

    def failing(fd: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(Corruption, match="cannot be read"):
        bed.run(bed.get(blob(1)))
    assert bed.fatal == []


def test_leaving_without_commit_keeps_nothing(bed: Bed) -> None:
    """Fault 63: a client that goes away in mid-body leaves no file, temporary or other."""

    async def main() -> None:
        with pytest.raises(ConnectionResetError):  # noqa: PT012 - the client is gone in the middle
            async with bed.files.create(blob(1)) as sink:
                for _ in range(8):
                    await sink.write(bytes(MIB))
                assert bed.temporary()
                raise ConnectionResetError
        assert not await bed.files.exists(blob(1))

    bed.run(main())
    assert bed.temporary() == []


@pytest.mark.parametrize("point", ["put.spool.written", "put.blob.renamed"])
def test_cancelled_during_commit_keeps_nothing(bed: Bed, tmp_path: Path, point: str) -> None:
    """Fault 63: the thread that syncs cannot be cancelled; what it finishes is taken back, as nobody was told of it."""
    flag = tmp_path / "paused"
    failpoints.arm(f"{point}=pause:{flag}", test_mode=True)

    async def main() -> None:
        task = asyncio.ensure_future(bed.put(blob(1), b"x" * 100))
        async with asyncio.timeout(10):
            while not flag.exists():  # noqa: ASYNC110 - the flag is a file
                await asyncio.sleep(0.001)
        task.cancel()
        flag.unlink()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await bed.files.exists(blob(1))

    try:
        bed.run(main())
    finally:
        failpoints.arm(None, test_mode=True)
    assert bed.temporary() == []


def test_abort_spares_an_older_copy(bed: Bed, tmp_path: Path) -> None:
    """P12: a copy that was counted before outlives an aborted second write of the same blob."""
    bed.run(bed.put(blob(1), b"bytes"))
    flag = tmp_path / "paused"
    failpoints.arm(f"put.blob.renamed=pause:{flag}", test_mode=True)

    async def main() -> bytes:
        task = asyncio.ensure_future(bed.put(blob(1), b"bytes"))
        async with asyncio.timeout(10):
            while not flag.exists():  # noqa: ASYNC110 - the flag is a file
                await asyncio.sleep(0.001)
        task.cancel()
        flag.unlink()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await bed.get(blob(1))

    try:
        assert bed.run(main()) == b"bytes"
    finally:
        failpoints.arm(None, test_mode=True)


@pytest.mark.parametrize("size", [100, 5 * MIB])
@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_io_error_ends_the_process(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, call: str, size: int
) -> None:
    """P19: EIO of a write or sync is fatal, told to the process at once, and nothing is stored."""

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(FatalStop):
        bed.run(bed.put(blob(1), body(size)))
    monkeypatch.undo()

    assert [stop.exit_code for stop in bed.fatal] == [EXIT_DISK]
    assert not bed.file(blob(1)).exists()
    assert bed.temporary() == []


def test_directory_sync_error_ends_the_process(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """P19: the name is not durable without the directory's sync, so its failure counts as much."""

    def failing(self: SystemDisk, path: str) -> None:
        raise FatalStop(f"sync of {path} failed", exit_code=EXIT_DISK)

    monkeypatch.setattr(SystemDisk, "fsync_directory", failing)
    with pytest.raises(FatalStop):
        bed.run(bed.put(blob(1), b"bytes"))
    assert len(bed.fatal) == 1


@pytest.mark.parametrize("size", [100, 5 * MIB])
def test_full_disk_is_told_apart(bed: Bed, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Fault 37: no space refuses this blob, and the process lives on."""

    def failing(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(DiskFull):
        bed.run(bed.put(blob(1), body(size)))
    monkeypatch.undo()

    assert bed.fatal == []
    assert bed.temporary() == []
    bed.run(bed.put(blob(1), b"space is back"))


def test_reserve_is_kept(tmp_path: Path) -> None:
    """Design 11: blobs are refused long before journal and catalog run out of disk."""
    bed = Bed(tmp_path, reserve_bytes=1 << 62)

    assert bed.files.free_bytes() == 0
    with pytest.raises(DiskFull):
        bed.run(bed.put(blob(1), b"bytes"))
    assert bed.temporary() == []


def test_quarantine(bed: Bed) -> None:
    """Design 6: a bad copy is put away and its name is free for a good one."""
    data = body(3 * MIB)
    bed.run(bed.put(blob(1), data))
    _flip(bed.file(blob(1)), 2 * MIB)

    assert bed.run(bed.files.quarantine(blob(1)))

    assert not bed.file(blob(1)).exists()
    assert [p.name.split(".")[1] for p in (bed.path / QUARANTINE).iterdir()] == [blob(1).hex()]
    assert not bed.run(bed.files.quarantine(blob(1)))
    bed.run(bed.put(blob(1), data))
    assert bed.run(bed.get(blob(1))) == data


def test_a_sound_copy_is_not_quarantined(bed: Bed) -> None:
    """A good copy may have replaced the bad one between the read and the quarantine: it stays."""
    stored = bed.run(bed.put(blob(1), b"good"))

    assert not bed.run(bed.files.quarantine(blob(1)))
    assert not bed.run(
        bed.files.quarantine(blob(1), size_bytes=stored.size_bytes, crc64=stored.crc64)
    )
    assert bed.run(bed.get(blob(1))) == b"good"
    assert bed.run(bed.files.quarantine(blob(1), size_bytes=4, crc64=bytes(8)))


def test_quarantine_is_bounded(bed: Bed) -> None:
    """P18: bad copies do not fill the disk."""
    for number in range(20):
        bed.file(blob(number)).write_bytes(b"rot")
        assert bed.run(bed.files.quarantine(blob(number)))

    names = sorted(p.name for p in (bed.path / QUARANTINE).iterdir())
    assert len(names) == 16
    assert names[-1].endswith(blob(19).hex())


def test_drop(bed: Bed) -> None:
    """Design 9: a dropped blob is gone; who has it open reads on; dropping twice is no error."""
    data = body(3 * MIB)

    async def main() -> bytes:
        await bed.put(blob(1), data)
        async with await bed.files.open(blob(1)) as file:
            assert await bed.files.drop(blob(1))
            assert not await bed.files.exists(blob(1))
            assert await bed.files.drop(blob(1))
            return b"".join([bytes(view) async for view in file.read(0, len(data))])

    assert bed.run(main()) == data
    assert bed.temporary() == []


def test_pins(tmp_path: Path) -> None:
    """Protocols 4.6: a pinned blob is not unlinked until the pin ends; a pin holds in every process of the node."""
    clock = ManualClock()
    bed = Bed(tmp_path, clock=clock)
    sibling = Bed(tmp_path, clock=clock)
    bed.run(bed.put(blob(1), b"bytes"))

    assert bed.run(bed.files.pin([blob(1), blob(2)])) == [blob(1)]
    assert not bed.run(sibling.files.drop(blob(1)))
    clock.advance(PIN_S - 1)
    assert not bed.run(sibling.files.drop(blob(1)))
    assert bed.run(sibling.files.pin([blob(1)])) == [blob(1)]
    clock.advance(PIN_S - 1)
    assert not bed.run(bed.files.drop(blob(1)))
    clock.advance(3)
    assert bed.run(bed.files.drop(blob(1)))


def test_pins_of_an_earlier_boot_do_not_hold(tmp_path: Path) -> None:
    """The monotonic clock starts again with the machine: an old pin must not hold for days."""
    Bed(tmp_path).run(Bed(tmp_path).put(blob(1), b"bytes"))
    before = Bed(tmp_path, clock=ManualClock(monotonic=1_000_000))
    before.run(before.files.pin([blob(1)]))
    after = Bed(tmp_path, clock=ManualClock(monotonic=10))

    assert after.run(after.files.drop(blob(1)))


def test_inventory(bed: Bed) -> None:
    """Design 10: pages in byte order of the id, joined, are exactly what is on the disk."""
    ids = [blob(number) for number in (5, 1, 300, 256, 77, 2**40)]

    async def main() -> list[BlobId]:
        for blob_id in ids:
            await bed.put(blob_id, b"x")
        bed.file(blob(1)).with_name("not a blob").write_bytes(b"")
        pages: list[BlobId] = []
        after = None
        while page := await bed.files.inventory(after, 4):
            pages += page
            after = page[-1]
        return pages

    assert bed.run(main()) == sorted(ids)
    assert bed.run(bed.files.inventory(max(ids), 4)) == []


def test_leftovers_of_dead_processes_go(bed: Bed) -> None:
    """P14: what a dead process was writing is removed; what a living sibling writes is not."""
    sibling = Bed(bed.path)
    dead = bed.path / TEMPORARY / "00000000deadbeef"
    dead.mkdir()
    (dead / "half").write_bytes(b"half a blob")
    (bed.path / TEMPORARY / "00000000deadbeef.lock").write_bytes(b"")

    async def main() -> None:
        async with sibling.files.create(blob(1)) as sink:
            for _ in range(8):
                await sink.write(bytes(MIB))
            assert await bed.files.remove_leftovers() == 1
            await sink.commit()

    bed.run(main())

    assert not dead.exists()
    assert bed.run(bed.get(blob(1))) == bytes(8 * MIB)
    assert bed.run(bed.files.remove_leftovers()) == 0


def test_close_leaves_nothing(bed: Bed) -> None:
    """P14: a process that ends in order leaves no temporary directory."""
    bed.run(bed.put(blob(1), b"x"))
    bed.files.close()
    assert list((bed.path / TEMPORARY).iterdir()) == []


def test_prepare_may_be_repeated(tmp_path: Path) -> None:
    """Fault 15: formation that crashed in the middle completes."""
    prepare_directories(str(tmp_path))
    (tmp_path / "7f").rmdir()
    prepare_directories(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 259


def test_out_of_descriptors_is_no_damage(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 44: EMFILE must neither quarantine a good copy nor end the process."""
    bed.run(bed.put(blob(1), b"x"))
    real = os.open

    def failing(path: str, flags: int, mode: int = 0o777) -> int:
        if blob(1).hex() in str(path) or "/tmp/" in str(path).removeprefix("/tmp"):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(Unavailable):
        bed.run(bed.get(blob(1)))
    with pytest.raises(Unavailable):
        bed.run(bed.put(blob(2), b"x"))
    assert bed.fatal == []
