"""Bytes of one object on their way into another: an upload whose sender is this cluster."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Protocol

from sos.catalog.model import Checksum
from sos.service.requests import UploadDigests

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from concurrent.futures import Executor

    from sos.catalog.model import ChecksumAlgorithm


class RunningHash(Protocol):
    """What ``hashlib`` objects offer."""

    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class Copier:
    """Makes bodies of bytes that are read here."""

    def __init__(
        self, new_hash: Callable[[ChecksumAlgorithm], RunningHash], executor: Executor
    ) -> None:
        self._new_hash = new_hash
        self._executor = executor

    def body(
        self, chunks: AsyncIterator[memoryview], size_bytes: int, algorithm: ChecksumAlgorithm
    ) -> CopiedBody:
        """An ``UploadBody`` of ``size_bytes`` bytes with a checksum of ``algorithm``."""
        return CopiedBody(chunks, size_bytes, algorithm, self._new_hash(algorithm), self._executor)


class CopiedBody:
    """``sos.service.requests.UploadBody`` over verified bytes."""

    def __init__(
        self,
        chunks: AsyncIterator[memoryview],
        size_bytes: int,
        algorithm: ChecksumAlgorithm,
        running: RunningHash,
        executor: Executor,
    ) -> None:
        self.expected_bytes = size_bytes
        self._chunks = chunks
        self._algorithm = algorithm
        self._running = running
        self._md5 = hashlib.md5(usedforsecurity=False)  # S3's ETag; no security rests on it
        self._executor = executor

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        async for view in self._chunks:
            chunk = bytes(view)
            await loop.run_in_executor(self._executor, self._update, chunk)
            yield chunk

    async def read_whole(self) -> bytes:
        """Only for a body that is known to be small."""
        return b"".join([chunk async for chunk in self])

    def digests(self) -> UploadDigests:
        """After the iteration ended."""
        checksum = Checksum(algorithm=self._algorithm, digest=self._running.digest())
        return UploadDigests(md5=self._md5.digest(), checksum=checksum)

    def _update(self, chunk: bytes) -> None:
        self._md5.update(chunk)
        self._running.update(chunk)


async def one_piece(data: bytes) -> AsyncGenerator[memoryview, None]:
    """Bytes that are in memory, as a stream."""
    yield memoryview(data)
