"""Blob files for any body, any cut into pieces, any range, any damage (design 9)."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sos.blob.files import BlobFiles, prepare_directories
from sos.blob.format import BlockChecksums, encode_tail
from sos.catalog.model import BlobId
from sos.checksum import crc64nvme
from sos.errors import Corruption
from sos.limits import BLOCK_BYTES

BLOB = BlobId(bytes(range(16)))
SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(BLOCK_BYTES - 2, BLOCK_BYTES + 2),
    st.integers(2 * BLOCK_BYTES - 2, 2 * BLOCK_BYTES + 2),
)
UNIT = b"".join(i.to_bytes(4, "big") for i in range(BLOCK_BYTES))


@settings(max_examples=60, deadline=None)
@given(
    size=SIZES, cuts=st.lists(st.integers(0, 2 * BLOCK_BYTES + 2), max_size=6), known=st.booleans()
)
def test_pieces_do_not_matter(size: int, cuts: list[int], known: bool) -> None:
    """The table depends on the bytes, not on how they came, nor on whether their checksums were given along."""
    body = UNIT[:size]
    borders = sorted({0, size, *(cut for cut in cuts if cut < size)})
    whole, pieces = BlockChecksums(), BlockChecksums()

    whole.update(body)
    for start, stop in pairwise(borders):
        piece = memoryview(body)[start:stop]
        pieces.update(piece, crc64nvme(piece) if known else None)

    assert pieces.crc64 == whole.crc64 == crc64nvme(body)
    assert encode_tail(BLOB, pieces) == encode_tail(BLOB, whole)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[BlobFiles, Path]:
    directory = tmp_path_factory.mktemp("blobs")
    prepare_directories(str(directory))
    return BlobFiles(str(directory), on_fatal=lambda _: None, reserve_bytes=0), directory


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=SIZES, data=st.data())
def test_any_range_and_any_damage(
    files: tuple[BlobFiles, Path], size: int, data: st.DataObject
) -> None:
    """P7: a range is its bytes or an error, for any range, before and after any byte of the file changed."""
    blob_files, directory = files
    body = UNIT[:size]
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))

    async def put() -> None:
        async with blob_files.create(BLOB) as sink:
            await sink.write(body)
            await sink.commit()

    async def get() -> bytes | None:
        try:
            async with await blob_files.open(BLOB) as file:
                return b"".join([bytes(view) async for view in file.read(start, stop)])
        except Corruption:
            return None

    asyncio.run(put())
    assert asyncio.run(get()) == body[start:stop]

    path = directory / f"{BLOB[-1]:02x}" / BLOB.hex()
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert asyncio.run(get()) in (None, body[start:stop])
