"""Reading objects that were uploaded in parts: which parts a range touches, and their bytes one after the other."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sos.blob.handshake import PeerAddress
    from sos.blob.pinning import Pinning
    from sos.catalog.model import BlobId, Checksum, NodeId, UploadId
    from sos.catalog.views import View


class Segment(NamedTuple):
    """A part of an object, as far as a range touches it: bytes ``[start, stop)`` of the part.

    ``data`` when they are in the catalog, else the blob and who holds it.
    """

    start: int
    stop: int
    data: bytes | None
    blob: BlobId | None
    size_bytes: int
    crc64: bytes
    holders: tuple[NodeId, ...]


class PartSpan(NamedTuple):
    """Where one part lies in its object, in bytes; ``checksum``: what the client sent with it."""

    start: int
    stop: int
    checksum: Checksum | None


def find_span(view: View, manifest: UploadId, number: int) -> PartSpan | None:
    """The part ``number`` of an object; None: it has none."""
    parts = view.manifest(manifest)
    if number not in parts.numbers:
        return None
    at = parts.numbers.index(number)
    record = view.part(manifest, number)
    return PartSpan(
        start=parts.ends[at - 1] if at else 0,
        stop=parts.ends[at],
        checksum=None if record is None else record.sent,
    )


def find_segments(view: View, manifest: UploadId, start: int, stop: int) -> list[Segment] | None:
    """What bytes ``[start, stop)`` of an object consist of; None: its parts are let go, the object is gone."""
    if not view.has_manifest(manifest):
        return None
    parts = view.manifest(manifest)
    segments: list[Segment] = []
    at = bisect_right(parts.ends, start)
    while at < len(parts.ends) and start < stop:
        begin = parts.ends[at - 1] if at else 0
        end = min(parts.ends[at], stop)
        if end > start:
            segment = _segment(view, manifest, parts.numbers[at], start - begin, end - begin)
            if segment is None:
                return None
            segments.append(segment)
        start = max(start, end)
        at += 1
    return segments


def _segment(view: View, manifest: UploadId, number: int, start: int, stop: int) -> Segment | None:
    part = view.part(manifest, number)
    if part is None or part.blob is None:
        return None
    if part.inline:
        data = view.inline_body(part.blob)
        return None if data is None else Segment(start, stop, data, None, len(data), b"", ())
    blob = view.blob(part.blob)
    if blob is None:
        return None
    return Segment(start, stop, None, part.blob, blob.size_bytes, blob.crc64, blob.holders)


class SourceStream(NamedTuple):
    """An open stream of a part's bytes."""

    chunks: AsyncIterator[memoryview]
    close: Callable[[], Awaitable[None]]


class PartsStream:
    """The bytes of segments in turn, as ``async for``; use it as ``async with``. One part is open at a time."""

    def __init__(
        self,
        segments: Sequence[Segment],
        open_one: Callable[[Segment, int], Awaitable[SourceStream]],
        pinning: Pinning,
    ) -> None:
        """``open_one``: a segment from a position in it on. ``pinning``: of all parts that will be read."""
        self._segments = segments
        self._open_one = open_one
        self._pinning = pinning
        self._at = 0  # the segment that is read
        self._current: SourceStream | None = None

    async def begin(self, position: int = 0) -> None:
        """Open the segment that holds ``position``: its first block is verified when this returns."""
        await self._close_current()
        self._at = 0
        for segment in self._segments:
            size_bytes = segment.stop - segment.start
            if position < size_bytes:
                self._current = await self._open_one(segment, position)
                return
            position -= size_bytes
            self._at += 1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> memoryview:
        """Raises: Unavailable, Corruption, when no holder can go on."""
        while self._current is not None:
            async for view in self._current.chunks:
                return view
            await self._close_current()
            self._at += 1
            if self._at < len(self._segments):
                self._current = await self._open_one(self._segments[self._at], 0)
        raise StopAsyncIteration

    async def restart(self, position: int) -> None:
        """Let go of what is in memory; the next piece begins ``position`` bytes into the range."""
        await self.begin(position)

    async def aclose(self) -> None:
        self._pinning.stop()
        await self._close_current()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _close_current(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            await current.close()


def copies_of(
    segments: Sequence[Segment], addresses: Callable[[frozenset[NodeId]], Sequence[PeerAddress]]
) -> list[tuple[BlobId, Sequence[PeerAddress]]]:
    """The blobs of ``segments`` and where their holders are."""
    return [
        (segment.blob, addresses(frozenset(segment.holders)))
        for segment in segments
        if segment.blob is not None
    ]
