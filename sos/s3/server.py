"""The listening end of the S3 port: inherited sockets, TLS, deadlines, bounded connections, graceful drain."""

from __future__ import annotations

import asyncio
import resource
from typing import TYPE_CHECKING, Final, cast

from sos.limits import DRAIN_S_MAX, HEADERS_S_MAX
from sos.s3.connection import LINGER_S_MAX, Connection
from sos.s3.errors import SlowDown
from sos.s3.wire import render_head
from sos.s3.xml import DECLARATION, element
from sos.telemetry import log

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from sos.s3.connection import RequestHandler

_SWEEP_S: Final = 0.5  # deadlines are seconds: one timer for all connections instead of one each
_BACKLOG: Final = 1024
_CLIENTS_SHARE: Final = (
    2  # of the descriptors one in two: the others are for blobs and links to nodes
)
_CLIENTS_MAX: Final = 20_000  # an idle one costs 6 KiB
_REFUSED_MAX: Final = 16  # refusals under way; beyond that a newcomer is closed without a word
_LOG_S: Final = 10.0


class _Client(Connection):
    """Known to its server from the moment it is open: one whose TLS handshake fails never is."""

    __slots__ = ("_on_open",)

    def __init__(
        self,
        handler: RequestHandler,
        loop: asyncio.AbstractEventLoop,
        on_open: Callable[[Connection], None],
        on_close: Callable[[Connection], None],
    ) -> None:
        super().__init__(handler, loop, on_close)
        self._on_open = on_open

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._on_open(self)
        super().connection_made(transport)


class _Refusal(asyncio.Protocol):
    """A newcomer for whom no descriptors are left: 503, whatever it was going to ask."""

    def __init__(self, others: set[_Refusal]) -> None:
        self._others = others

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        if len(self._others) >= _REFUSED_MAX:
            transport.abort()
            return
        self._others.add(self)
        transport.write(_crowded())
        if transport.can_write_eof():  # then let it read the answer before the rest is torn down
            transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_S_MAX, transport.close)
        else:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._others.discard(self)


def _crowded() -> bytes:
    error = SlowDown(message="Too many connections are open. Please try again later.")
    text = element("Code", error.code) + element("Message", error.message)
    body = f"{DECLARATION}<Error>{text}</Error>".encode()
    headers = [
        *error.headers,
        ("Content-Type", "application/xml"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    ]
    return render_head(error.status, headers) + body


class HttpServer:
    """Accepts connections and hands their requests to ``handler`` until it is closed."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler
        self._connections: set[Connection] = set()
        self._refused: set[_Refusal] = set()
        self._crowded_logged_s = float("-inf")
        self._servers: list[asyncio.Server] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False
        self._sweep_handle: asyncio.TimerHandle | None = None

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Serve a listening socket that somebody else bound."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            self._make_connection,
            sock=listener,
            ssl=tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=HEADERS_S_MAX if tls is not None else None,
        )
        self._servers.append(server)
        if self._sweep_handle is None:
            self._sweep_handle = loop.call_later(_SWEEP_S, self._sweep)

    async def close(self, drain_s: float = DRAIN_S_MAX) -> None:
        """Accept nothing more, let requests under way be answered, cut off what is left after ``drain_s``."""
        for server in self._servers:
            server.close()
        self._is_draining = True
        for connection in list(self._connections):
            connection.start_draining()
        try:
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        tasks = [task for each in self._connections if (task := each.task) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connections(self) -> list[Connection]:
        """The connections that are open now."""
        return list(self._connections)

    def _make_connection(self) -> asyncio.Protocol:
        # Asked anew each time: the limit of a running process can be changed.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(self._connections) < min(limit // _CLIENTS_SHARE, _CLIENTS_MAX):
            loop = asyncio.get_running_loop()
            return _Client(self._handler, loop, self._remember, self._forget)
        now = asyncio.get_running_loop().time()
        if now - self._crowded_logged_s >= _LOG_S:
            self._crowded_logged_s = now
            log.warning("s3.crowded", connections=len(self._connections), descriptors_max=limit)
        return _Refusal(self._refused)

    def _remember(self, connection: Connection) -> None:
        self._connections.add(connection)
        self._idle.clear()
        if self._is_draining:
            connection.start_draining()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._idle.set()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            if connection.deadline is not None and connection.deadline <= now:
                connection.on_deadline(now)
        self._sweep_handle = loop.call_later(_SWEEP_S, self._sweep)
