"""The core's end of the link: one connection per gateway process."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol, cast

from sos.catalog.model import BlobId
from sos.link.path import LinkAddress
from sos.link.protocol import (
    VERSION,
    Answer,
    Barrier,
    FrameBuffer,
    Job,
    Kind,
    NodeState,
    ProtocolError,
    check_blob_ids,
    check_operations,
    encode_frame,
    encode_state,
)


class LinkHandler(Protocol):
    """What the core does with frames; called on the loop, must not block."""

    def on_gateway(self, connection: Connection) -> None:
        """A gateway said hello; its number is ``connection.gateway``."""

    def on_gateway_lost(self, connection: Connection) -> None: ...

    def on_operations(
        self, connection: Connection, operations: list[tuple[bytes, int, bytes]]
    ) -> None:
        """(request id, first index, command) each; every one must be answered some time."""

    def on_barrier(self, connection: Connection, round_number: int) -> None: ...

    def on_holders(
        self,
        connection: Connection,
        report: int,
        gained: tuple[BlobId, ...],
        lost: tuple[BlobId, ...],
    ) -> None: ...

    def on_job_progress(
        self, connection: Connection, job_id: int, values: dict[str, Any]
    ) -> None: ...

    def on_job_done(
        self, connection: Connection, job_id: int, is_done: bool, values: dict[str, Any]
    ) -> None: ...

    def on_damage(self, connection: Connection, text: str) -> None: ...

    def on_metrics(self, connection: Connection, scrape: int, samples: list[Any]) -> None: ...


class Connection(asyncio.Protocol):
    """One gateway. Answers of one loop turn leave in one frame."""

    def __init__(self, server: LinkServer, handler: LinkHandler) -> None:
        self.gateway = -1  # until its hello
        self.takes_jobs = False
        self.is_serving = False
        self._server = server
        self._handler = handler
        self._buffer = FrameBuffer()
        self._answers: list[tuple[bytes, int, bytes]] = []
        self._transport: asyncio.Transport | None = None

    # --- to the gateway ---------------------------------------------------------------------------
    def answer(self, request_id: bytes, answer: Answer, payload: bytes = b"") -> None:
        """Answer one operation (after the hello; a lost connection swallows it)."""
        if not self._answers:
            self._server.loop.call_soon(self._flush)
        self._answers.append((request_id, int(answer), payload))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        # 1,000 answers of a DeleteObjects have a few KiB each: far below the frame's cap.
        for start in range(0, len(answers), 1000):
            rows = answers[start : start + 1000]
            self.send(encode_frame(Kind.RESULTS, self._server.applied_index, rows))

    def pass_barrier(self, round_number: int, barrier: Barrier) -> None:
        self.send(
            encode_frame(Kind.BARRIER_PASSED, round_number, barrier.generation, barrier.index)
        )

    def fail_barrier(self, round_number: int) -> None:
        self.send(encode_frame(Kind.BARRIER_FAILED, round_number))

    def answer_holders(self, report: int, is_committed: bool) -> None:
        self.send(encode_frame(Kind.HOLDERS_ANSWER, report, is_committed))

    def send_job(self, job: Job) -> None:
        self.send(encode_frame(Kind.JOB, job.job_id, job.kind, job.arguments))

    def request_metrics(self, scrape: int) -> None:
        self.send(encode_frame(Kind.METRICS_REQUEST, scrape))

    def send(self, frame: bytes) -> None:
        """Send one frame, or drop it when the gateway is gone."""
        if self._transport is not None:
            self._transport.write(frame)

    # --- from the gateway -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none of its subclasses
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._buffer.feed(data)
            for fields in frames:
                self._received(fields)
        except ProtocolError:
            self.hang_up()

    def _received(self, fields: list[Any]) -> None:
        kind, count = fields[0], len(fields)
        if self.gateway < 0:
            self._greet(fields)
        elif kind == Kind.PROPOSE and count == 2:
            self._handler.on_operations(self, check_operations(fields[1]))
        elif kind == Kind.BARRIER and count == 2 and type(fields[1]) is int:
            self._handler.on_barrier(self, fields[1])
        elif kind == Kind.HOLDERS and count == 4 and type(fields[1]) is int:
            gained, lost = check_blob_ids(fields[2]), check_blob_ids(fields[3])
            self._handler.on_holders(self, fields[1], gained, lost)
        elif kind == Kind.JOB_PROGRESS and count == 3 and type(fields[2]) is dict:
            self._handler.on_job_progress(self, fields[1], fields[2])
        elif kind == Kind.JOB_DONE and count == 4 and type(fields[3]) is dict:
            self._handler.on_job_done(self, fields[1], fields[2] is True, fields[3])
        elif kind == Kind.DAMAGE and count == 2:
            self._handler.on_damage(self, str(fields[1]))
        elif kind == Kind.SERVING and count == 1:
            self.is_serving = True
        elif kind == Kind.TAKES_JOBS and count == 1:
            self.takes_jobs = True
        elif kind == Kind.METRICS and count == 3 and type(fields[2]) is list:
            self._handler.on_metrics(self, fields[1], fields[2])
        else:
            raise ProtocolError(f"unknown frame of kind {kind}")

    def _greet(self, fields: list[Any]) -> None:
        if len(fields) != 4 or fields[:2] != [Kind.HELLO, VERSION] or type(fields[2]) is not int:
            raise ProtocolError("no hello of this version")
        if fields[3] != self._server.token:
            raise ProtocolError("a gateway of another supervisor")
        self.gateway = fields[2]
        self.send(encode_state(self._server.state))
        self._server.connections.add(self)
        self._handler.on_gateway(self)

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self in self._server.connections:
            self._server.connections.discard(self)
            self._handler.on_gateway_lost(self)


class LinkServer:
    """Listens on DATA/link.sock and keeps every gateway's picture of this node current."""

    def __init__(self, *, directory: str, token: str, handler: LinkHandler) -> None:
        self.token = token
        self.connections: set[Connection] = set()
        self.state = NodeState()
        self.applied_index = 0  # rides on every frame of results
        self._handler = handler
        self._address = LinkAddress(directory)
        self._listener: socket.socket | None = None

    async def start(self) -> None:
        """Listen; a gateway that is early retries until then."""
        self.loop = asyncio.get_running_loop()
        self._listener = self._address.listen()
        self._server = await self.loop.create_server(
            lambda: Connection(self, self._handler), sock=self._listener
        )

    def push_state(self, state: NodeState) -> None:
        """Make ``state`` the picture of every gateway, present and future."""
        self.state = state
        self.applied_index = max(self.applied_index, state.applied_index)
        frame = encode_state(state)
        for connection in self.connections:
            connection.send(frame)

    @property
    def is_serving(self) -> bool:
        """Whether some gateway answers S3 requests."""
        return any(connection.is_serving for connection in self.connections)

    def first_gateway(self) -> Connection | None:
        """The connection of gateway 0, once it takes jobs."""
        ready = (c for c in self.connections if c.gateway == 0 and c.takes_jobs)
        return next(ready, None)

    async def close(self) -> None:
        """Stop listening and hang up."""
        if self._listener is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.hang_up()
        self._address.remove()
        self._address.close()
