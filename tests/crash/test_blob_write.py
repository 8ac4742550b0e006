"""A blob write killed at every failpoint, and its power-loss states (faults 1, 2, 6-8; section 3.4)."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sos.blob.files import BlobFiles, prepare_directories
from sos.blob.group import SmallBlob
from sos.blob.layout import TEMPORARY
from sos.catalog.model import BlobId
from sos.checksum import crc64nvme
from sos.errors import Corruption, DiskFull
from sos.limits import MIB
from tests.faults.simdisk import NameChange, SimDisk

BLOB = BlobId(bytes(15) + b"\x07")
OLD = BlobId(bytes(15) + b"\x08")

_WRITER = """
import asyncio, sys
from sos import failpoints
from sos.blob.files import BlobFiles
from sos.catalog.model import BlobId

async def main() -> None:
    failpoints.arm(sys.argv[2], test_mode=True)
    files = BlobFiles(sys.argv[1], on_fatal=print, reserve_bytes=0)
    async with files.create(BlobId(bytes(15) + b"\\x07")) as sink:
        for number in range(int(sys.argv[3])):
            await sink.write(bytes([number]) * 300_000)
        await sink.commit()
    print("stored", flush=True)
    assert await files.drop(BlobId(bytes(15) + b"\\x07"))
    print("dropped", flush=True)

asyncio.run(main())
"""


def _content(pieces: int) -> bytes:
    return b"".join(bytes([number]) * 300_000 for number in range(pieces))


async def _read(files: BlobFiles, blob_id: BlobId) -> bytes | None:
    try:
        async with await files.open(blob_id) as file:
            return b"".join([bytes(view) async for view in file.read(0, file.size_bytes)])
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("pieces", [1, 8])
@pytest.mark.parametrize(
    ("point", "is_whole"),
    [
        ("put.spool.created", False),
        ("put.spool.written", False),
        ("put.spool.synced", False),
        ("put.blob.renamed", True),
        ("put.blob.dirsynced", True),
        ("gc.before_unlink", True),
    ],
)
def test_killed_at_every_failpoint(tmp_path: Path, point: str, is_whole: bool, pieces: int) -> None:
    """P1, P14: after SIGKILL there is the whole blob or none, and the next start removes what was half written."""
    prepare_directories(str(tmp_path))

    killed = subprocess.run(
        [sys.executable, "-c", _WRITER, str(tmp_path), f"{point}=kill", str(pieces)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    files = BlobFiles(str(tmp_path), on_fatal=lambda _: None, reserve_bytes=0)
    leftovers = asyncio.run(files.remove_leftovers())
    content = asyncio.run(_read(files, BLOB))
    files.close()

    assert killed.returncode == -signal.SIGKILL
    assert (b"stored" in killed.stdout) == (point == "gc.before_unlink")
    assert leftovers == (0 if is_whole else 1)
    assert content == (_content(pieces) if is_whole else None)
    assert list((tmp_path / TEMPORARY).iterdir()) == []


@pytest.mark.parametrize("pieces", [1, 8])
def test_no_leftovers_without_a_kill(tmp_path: Path, pieces: int) -> None:
    """The control run of the test above: the writer itself stores, drops and leaves only its lock."""
    prepare_directories(str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, str(tmp_path), "", str(pieces)],
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.split() == [b"stored", b"dropped"]


class _Disk(SimDisk):
    """A rename across directories is two changes of names: syncing the target makes only the new name durable."""

    def rename(self, old: str, new: str) -> None:
        self.begin("rename", new)
        inode = self._file(old)
        self._change_name(NameChange(new, inode))
        self._change_name(NameChange(old, None))


def _simulated() -> SimDisk:
    disk = _Disk()
    disk.mkdir("/blobs")
    disk.fsync_directory("/")
    prepare_directories("/blobs", disk)
    return disk


def _files(disk: SimDisk) -> BlobFiles:
    return BlobFiles("/blobs", on_fatal=lambda _: None, disk=disk, reserve_bytes=0, threads=1)


async def _store(files: BlobFiles, blob_id: BlobId, content: bytes) -> None:
    async with files.create(blob_id) as sink:
        for start in range(0, len(content), 200_000):
            await sink.write(content[start : start + 200_000])
        await sink.commit()


@pytest.mark.parametrize("seed", range(15))
def test_power_loss_after_commit(seed: int) -> None:
    """P1: what ``commit`` returned survives a power cut that loses everything unsynced, torn as it likes."""
    rng = random.Random(seed)
    content = rng.randbytes(rng.choice([100, 700_000, 2 * MIB + 3]))
    disk = _simulated()
    asyncio.run(_store(_files(disk), BLOB, content))

    disk.power_loss(rng)

    assert asyncio.run(_read(_files(disk), BLOB)) == content


def _bundle(rng: random.Random) -> list[SmallBlob]:
    blobs = []
    for number in range(1, 9):  # two to a directory
        data = rng.randbytes(rng.choice([20_000, 90_000]))
        blob_id = BlobId(bytes(14) + bytes((number, number // 2)))
        blobs.append(SmallBlob(blob_id=blob_id, data=data, crc=crc64nvme(data)))
    return blobs


@pytest.mark.parametrize("seed", range(10))
def test_power_loss_after_a_bundle(seed: int) -> None:
    """P1, P12: each of the small blobs that a resync stored together survives a power cut, as one that came alone."""
    rng = random.Random(seed)
    blobs, disk = _bundle(rng), _simulated()
    asyncio.run(_files(disk).store_small(blobs))

    disk.power_loss(rng)

    after = _files(disk)
    assert [asyncio.run(_read(after, blob.blob_id)) for blob in blobs] == [b.data for b in blobs]


@pytest.mark.parametrize("seed", range(10))
def test_power_loss_in_a_bundle(seed: int) -> None:
    """P7: cut before its end, each blob of a bundle is whole, absent, or known as damaged."""
    rng = random.Random(seed)
    blobs, disk = _bundle(rng), _simulated()
    files, left = _files(disk), rng.randrange(70)

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise DiskFull(errno.ENOSPC, "the end")

    disk.on_change = count_down
    with suppress(DiskFull):
        asyncio.run(files.store_small(blobs))
    disk.on_change = None
    disk.power_loss(rng)
    after = _files(disk)

    for blob in blobs:
        with suppress(Corruption):
            assert asyncio.run(_read(after, blob.blob_id)) in (None, blob.data)


@pytest.mark.parametrize("sync", ["file", "directory"])
def test_power_loss_control(sync: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above sees what it is for: without the sync of the file, or of its directory, blobs are lost (M5, M6)."""
    lost = 0
    for seed in range(20):
        rng = random.Random(seed)
        content = rng.randbytes(5000)
        disk = _simulated()
        files = _files(disk)
        with monkeypatch.context() as patch:
            if sync == "directory":
                patch.setattr(disk, "fsync_directory", lambda path: None)
            else:
                file_type = type(disk.create("/blobs/probe"))
                patch.setattr(file_type, "fsync", lambda self: None)
            asyncio.run(_store(files, BLOB, content))
        disk.power_loss(rng)
        try:
            lost += asyncio.run(_read(_files(disk), BLOB)) != content
        except Corruption:
            lost += 1
    assert lost > 0


@pytest.mark.parametrize("seed", range(15))
def test_power_loss_at_any_call(seed: int) -> None:
    """P1, P7: cut at a random failing call, the new blob is whole, absent or known as damaged, and the old one is whole."""
    rng = random.Random(seed)
    old, new = rng.randbytes(3000), rng.randbytes(1_500_000)
    disk = _simulated()
    asyncio.run(_store(_files(disk), OLD, old))
    files = _files(disk)

    async def write_half() -> None:
        sink = files.create(BLOB)
        await sink.write(new)
        if rng.random() < 0.5:
            await sink.commit()

    asyncio.run(write_half())
    disk.power_loss(rng)
    after = _files(disk)
    try:
        found = asyncio.run(_read(after, BLOB))
    except Corruption:
        found = None

    assert found in (None, new)
    assert asyncio.run(_read(after, OLD)) == old
