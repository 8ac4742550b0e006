"""Re-reads whole replicas from the disk: is each the blob that the catalog names, to the last byte?

Past the page cache: a copy that sits in memory would pass while its sectors rot. In slices, so that whoever paces
the reading decides before each one. Blocking; ``ReplicaChecker`` runs it in threads of its own, for a
re-read of a terabyte must not stand in the way of a request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sos.blob.format import file_bytes
from sos.blob.layout import blob_path
from sos.blob.reading import OpenedFile
from sos.blob.threads import DiskThreads
from sos.catalog.model import BlobId
from sos.checksum import combine_crc64nvme
from sos.disk import Disk, SystemDisk
from sos.errors import Corruption
from sos.limits import BLOCK_BYTES, MIB

SLICE_BYTES: Final = 4 * MIB  # read without a pause: 40 ms of a slow disk
_GROUP_MAX: Final = (
    64  # small replicas checked in one job of a thread: a job costs 0.1 ms by itself
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A blob as the catalog describes it."""

    blob_id: BlobId
    size_bytes: int
    crc64: bytes


class State(Enum):
    """What a replica was found to be."""

    SOUND = "sound"
    MISSING = "missing"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """One replica that was read to its end, or as far as it went. ``why`` is empty for a sound one."""

    expected: Expected
    state: State
    why: str = ""


def check_slices(
    disk: Disk, directory: str, expected: Expected, slice_bytes: int = SLICE_BYTES
) -> Generator[int, None, None]:
    """Read one replica, yielding how many bytes each slice had. Blocking.

    Raises: FileNotFoundError (not here), Corruption, Unavailable (no descriptors).
    """
    blob_id = expected.blob_id
    opened = OpenedFile(disk, blob_path(directory, blob_id), blob_id, from_disk=True)
    try:
        layout = opened.layout
        told = (layout.size_bytes, layout.crc64.to_bytes(8, "big"))
        if told != (expected.size_bytes, expected.crc64):
            raise Corruption(f"blob {blob_id.hex()}: not the bytes that the catalog names")
        whole, done = 0, 0
        for index in range(layout.block_count):
            count = len(opened.read_block(index))
            whole = combine_crc64nvme(whole, opened.table[index], count)
            done += count
            if done >= slice_bytes:
                yield done
                done = 0
        if whole != layout.crc64:
            raise Corruption(f"blob {blob_id.hex()}: the blocks are not the whole")
        yield done
    finally:
        if expected.size_bytes > BLOCK_BYTES:  # small ones are likely to be asked for
            opened.drop_cache()
        opened.close()


def check_replica(disk: Disk, directory: str, expected: Expected) -> Checked:
    """Read one replica to its end. Blocking. Raises: Unavailable (no descriptors)."""
    try:
        for _ in check_slices(disk, directory, expected):
            pass
    except FileNotFoundError:
        return Checked(expected=expected, state=State.MISSING, why="the file is missing")
    except Corruption as error:
        return Checked(expected=expected, state=State.DAMAGED, why=str(error))
    return Checked(expected=expected, state=State.SOUND)


class ReplicaChecker:
    """Checks replicas of one blob directory in threads of its own."""

    def __init__(self, directory: str, threads: DiskThreads, *, disk: Disk | None = None) -> None:
        self._directory = directory
        self._threads = threads
        self._disk = disk or SystemDisk()

    async def check(self, group: Sequence[Expected]) -> list[Checked]:
        """Each of ``group``, in one job. Raises: Unavailable (no descriptors)."""
        return await self._threads.submit(self._check_all, group)

    def _check_all(self, group: Sequence[Expected]) -> list[Checked]:
        return [check_replica(self._disk, self._directory, expected) for expected in group]

    async def slices(self, expected: Expected) -> AsyncGenerator[int, None]:
        """One replica in slices, as ``check_slices``: nothing is read before the next is asked for."""
        reading = check_slices(self._disk, self._directory, expected)
        try:
            while (count := await self._threads.submit(next, reading, None)) is not None:
                yield count
        finally:
            await self._threads.submit(reading.close)


def groups(records: Sequence[Expected]) -> Iterator[list[Expected]]:
    """``records`` in order, cut into what one job reads: many small ones, or one large one."""
    group: list[Expected] = []
    size_bytes = 0
    for record in records:
        group.append(record)
        size_bytes += file_bytes(record.size_bytes)
        if size_bytes >= SLICE_BYTES or len(group) >= _GROUP_MAX:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group
