"""Streamed answers under a budget of memory: every byte in order, at full speed or by turns."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from sos.limits import BLOCK_BYTES, KIB, MIB
from sos.s3.connection import Connection
from sos.s3.request_body import ClientGone
from sos.s3.sending import AnswerSender


class Client:
    """Stands for a ``Connection``: takes ``takes_bytes`` at a time, then not before somebody waits for it to drain."""

    def __init__(self, takes_bytes: int) -> None:
        self.received = bytearray()
        self.most_queued = 0
        self.is_gone = False
        self._takes_bytes = takes_bytes
        self._queued = 0
        self._limit = 2 * MIB

    def limit_queue(self, bytes_max: int) -> None:
        self._limit = bytes_max

    def write(self, data: bytes | memoryview) -> None:
        self.received += data
        self._queued += len(data)
        self.most_queued = max(self.most_queued, self._queued)

    async def drain(self) -> None:
        await asyncio.sleep(0)
        if self.is_gone:
            raise ClientGone
        if self._queued >= self._limit:
            self._queued = 0

    async def drain_within(self, seconds: float) -> bool:
        assert seconds > 0
        if self.is_gone:
            raise ClientGone
        return self._queued <= self._takes_bytes


class Stream:
    """Blocks of known bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.restarts = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> memoryview:
        if self._position == len(self._data):
            raise StopAsyncIteration
        start = self._position
        self._position = min(len(self._data), (start // BLOCK_BYTES + 1) * BLOCK_BYTES)
        return memoryview(self._data)[start : self._position]

    async def restart(self, position: int) -> None:
        self._position = position
        self.restarts += 1

    async def aclose(self) -> None:
        pass


DATA = b"".join(number.to_bytes(4, "big") for number in range(3 * MIB // 4)) + b"end"


def send(sender: AnswerSender, *clients: Client) -> list[Stream]:
    streams = [Stream(DATA) for _ in clients]

    async def run() -> None:
        await asyncio.gather(
            *(
                sender.send(stream, len(DATA), cast(Connection, client))
                for stream, client in zip(streams, clients, strict=True)
            )
        )

    asyncio.run(run())
    return streams


def test_with_budget_blocks_go_out_whole() -> None:
    """P7: a client that keeps up costs no copies and no second read."""
    client = Client(takes_bytes=0)

    (stream,) = send(AnswerSender(), client)

    assert client.received == DATA
    assert stream.restarts == 0


@pytest.mark.parametrize("takes_bytes", [0, 64 * KIB, 300 * KIB, 100 * MIB])
def test_without_budget_every_byte_comes_once_and_in_order(takes_bytes: int) -> None:
    """P7, P18: by turns, from wherever the client stopped; it holds no more than it takes and one piece."""
    client = Client(takes_bytes)

    (stream,) = send(AnswerSender(budget_bytes=0), client)

    assert client.received == DATA
    assert client.most_queued <= takes_bytes + 64 * KIB
    assert (stream.restarts == 0) == (takes_bytes == 100 * MIB)


def test_more_streams_than_turns_all_end() -> None:
    """P17: no stream waits for ever for one whose client does not read: each gets its turn."""
    clients = [Client(takes_bytes=64 * KIB) for _ in range(50)]

    send(AnswerSender(budget_bytes=0), *clients)

    assert all(client.received == DATA for client in clients)


def test_a_share_comes_back_also_from_a_client_that_left() -> None:
    """P17, P18: the budget never shrinks: after lost clients the next one goes at full speed."""
    sender = AnswerSender(budget_bytes=5 * MIB)
    gone = Client(takes_bytes=0)
    gone.is_gone = True
    for _ in range(10):
        with pytest.raises(ClientGone):
            send(sender, gone)

    (stream,) = send(sender, Client(takes_bytes=0))

    assert stream.restarts == 0
