"""Joins the request stream, the aws-chunked decoder and the digests: bytes out, verified when they end.

Nothing that depends on a body may be committed before its iteration ended without an exception.
Large blocks are hashed in a thread, because MD5 of 1 MiB would hold the loop for 2 ms; one block is hashed
while the next one is received. Memory: at most two blocks and what the connection queues.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sos.limits import BLOCK_BYTES, KIB
from sos.s3.checksums import BodyDigests
from sos.s3.chunked import AwsChunkedDecoder, ChunkSigning
from sos.s3.errors import (
    EntityTooLarge,
    IncompleteBody,
    MaxMessageLengthExceeded,
    RequestTimeout,
)
from sos.s3.request_body import BodyCut, BodyIdle
from sos.service.requests import UploadDigests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Executor

    from sos.s3.exchange import Exchange, RawBody
    from sos.s3.operations import BodyPlan

_INLINE_HASH_BYTES_MAX: Final = 64 * KIB  # a hop to a thread costs as much as hashing this


async def read_piece(raw: RawBody) -> bytes:
    """The next piece of a raw body, its failures told in S3's words.

    Raises: IncompleteBody, RequestTimeout.
    """
    try:
        return await raw.read()
    except BodyCut as error:
        raise IncompleteBody from error
    except BodyIdle as error:
        raise RequestTimeout(close=True) from error


class Upload:
    """The bytes of one upload; iterate once. ``expected_bytes``: what the client announced, if it did."""

    def __init__(
        self,
        exchange: Exchange,
        plan: BodyPlan,
        executor: Executor,
    ) -> None:
        self.expected_bytes = plan.size_bytes
        self._bytes_max = plan.bytes_max
        self._raw = exchange.raw_body
        self._running = BodyDigests(plan.digests)
        self._executor = executor
        self._decoder: AwsChunkedDecoder | None = None
        self._digests: UploadDigests | None = None
        if plan.is_chunked:
            assert plan.size_bytes is not None, "aws-chunked needs its decoded length"
            self._decoder = AwsChunkedDecoder(
                decoded_bytes=plan.size_bytes,
                trailer_name=plan.digests.trailer,
                signing=ChunkSigning.continue_from(exchange.verified),
            )

    def digests(self) -> UploadDigests:
        """What was computed; only after the iteration ended."""
        assert self._digests is not None, "the body was not read to its end"
        return self._digests

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Blocks of about BLOCK_BYTES, or what there is of a small body.

        Raises: IncompleteBody, RequestTimeout, ClientGone, EntityTooLarge, BadDigest,
        XAmzContentSHA256Mismatch and the errors of the chunk decoder.
        """
        running = self._running
        hashing: asyncio.Future[None] | None = None
        total = 0
        try:
            async for block in self._blocks():
                total += len(block)
                if total > self._bytes_max:
                    raise EntityTooLarge(str(total), str(self._bytes_max))
                if hashing is not None:
                    await hashing
                    hashing = None
                if len(block) <= _INLINE_HASH_BYTES_MAX:
                    running.update(block)
                else:
                    loop = asyncio.get_running_loop()
                    hashing = loop.run_in_executor(self._executor, running.update, block)
                yield block
        finally:
            if hashing is not None:
                await hashing
        self._verify()

    async def read_whole(self) -> bytes:
        """The bytes of a body that is known to be small: no generators, no threads. Raises: as iteration."""
        pieces: list[bytes | memoryview] = []
        while piece := await read_piece(self._raw):
            if self._decoder is None:
                pieces.append(piece)
            else:
                pieces += self._decoder.feed(piece)
        data = b"".join(pieces)
        self._running.update(data)
        self._verify()
        return data

    def _verify(self) -> None:
        trailer = self._decoder.finish() if self._decoder is not None else None
        verified = self._running.finish(trailer)
        self._digests = UploadDigests(verified.md5, verified.checksum, verified.also)

    async def _blocks(self) -> AsyncIterator[bytes]:
        """The decoded bytes, gathered so that a block costs one hop to a thread and one write."""
        pieces: list[bytes | memoryview] = []
        size = 0
        decoder = self._decoder
        while piece := await read_piece(self._raw):
            if decoder is None:
                pieces.append(piece)
                size += len(piece)
            else:
                views = decoder.feed(piece)
                pieces += views
                size += sum(map(len, views))
            if size >= BLOCK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        if size:
            only = pieces[0]
            yield only if len(pieces) == 1 and isinstance(only, bytes) else b"".join(pieces)


async def read_document(exchange: Exchange, plan: BodyPlan) -> bytes:
    """A whole request document, verified. Raises: MaxMessageLengthExceeded and what ``Upload`` raises."""
    running = BodyDigests(plan.digests)
    pieces: list[bytes] = []
    size = 0
    while piece := await read_piece(exchange.raw_body):
        size += len(piece)
        if size > plan.bytes_max:
            raise MaxMessageLengthExceeded
        running.update(piece)
        pieces.append(piece)
    running.finish()
    return b"".join(pieces)
