"""A small HTTP/1.1 server for the admin listener: one request at a time per connection, small bodies.

Not aiohttp: importing it costs a core 0.3 s of CPU at its start and 15 MiB for ever, for six routes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from sos.telemetry import log

_HEAD_BYTES_MAX: Final = 16 * 1024
_BODY_BYTES_MAX: Final = 64 * 1024
_LENGTH_DIGITS_MAX: Final = 19  # int() refuses thousands of them with an error of its own
_REQUEST_S_MAX: Final = 10.0  # from the first byte of a head to the end of its body
_IDLE_S_MAX: Final = 60.0
_CONNECTIONS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``path`` as sent, without the query; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


class BadRequest(Exception):
    """The bytes are no request that this server takes: answered with ``status``, then closed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(slots=True, kw_only=True)
class _State:
    """What ``close`` needs of the running connections."""

    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    is_closing: bool = False


class HttpServer:
    """Serves ``handler`` on a listening socket."""

    def __init__(self, handler: Handler, *, listener: socket.socket) -> None:
        self._handler = handler
        self._listener = listener
        self._state = _State()

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._connected, sock=self._listener, limit=_HEAD_BYTES_MAX
        )

    async def close(self) -> None:
        """Stop listening and end every connection."""
        self._server.close()
        self._state.is_closing = True
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._state.tasks) >= _CONNECTIONS_MAX:
            writer.close()
            return
        self._state.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            return  # the client went away, or says nothing
        except asyncio.CancelledError:
            # Ended by ``close``. asyncio's streams (3.11) report a cancelled connection as a failed callback.
            if not self._state.is_closing:
                raise
        except Exception:  # noqa: BLE001 - a worker loop: a request's bug must not stop a core
            log.error("admin.request.bug", exc_info=True)
        finally:
            self._state.tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_open = True
        while is_open:
            try:
                request = await _read_request(reader)
            except BadRequest as error:
                writer.write(_encode(Response(status=error.status, body=b""), is_open=False))
                await writer.drain()
                return
            is_open = request.headers.get("connection", "").lower() != "close"
            response = await self._handler(request)
            is_head = request.method == "HEAD"
            writer.write(_encode(response, is_open=is_open, is_head=is_head))
            async with asyncio.timeout(_REQUEST_S_MAX):
                await writer.drain()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    """The next request. Raises: BadRequest, IncompleteReadError, TimeoutError."""
    async with asyncio.timeout(_IDLE_S_MAX):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise BadRequest(431) from error
    method, path, headers = _parse_head(head)
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        raise BadRequest(411)
    if not length.isascii() or not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX:
        raise BadRequest(400)
    if int(length) > _BODY_BYTES_MAX:
        raise BadRequest(413)
    async with asyncio.timeout(_REQUEST_S_MAX):
        body = await reader.readexactly(int(length))
    return Request(method=method, path=path, headers=headers, body=body)


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Raises: BadRequest."""
    try:
        lines = head.decode("ascii").split("\r\n")[:-2]
        method, target, version = lines[0].split(" ")
    except ValueError as error:
        raise BadRequest(400) from error
    if version not in ("HTTP/1.1", "HTTP/1.0") or not target.startswith("/"):
        raise BadRequest(400)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or name.lower() in headers:
            raise BadRequest(400)
        headers[name.lower()] = value.strip()
    if version == "HTTP/1.0":
        headers["connection"] = "close"
    return method, target.partition("?")[0], headers


def _encode(response: Response, *, is_open: bool, is_head: bool = False) -> bytes:
    reason = HTTPStatus(response.status).phrase
    lines = [
        f"HTTP/1.1 {response.status} {reason}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        f"Connection: {'keep-alive' if is_open else 'close'}",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    head = "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"
    return head if is_head else head + response.body
