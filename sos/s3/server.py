"""The listening end of the S3 port: inherited sockets, TLS, deadlines, graceful drain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sos.limits import DRAIN_S_MAX, HEADERS_S_MAX
from sos.s3.connection import Connection

if TYPE_CHECKING:
    import socket
    import ssl

    from sos.s3.connection import RequestHandler

_SWEEP_S: Final = 0.5  # deadlines are seconds: one timer for all connections instead of one each
_BACKLOG: Final = 1024


class HttpServer:
    """Accepts connections and hands their requests to ``handler`` until it is closed."""

    def __init__(self, handler: RequestHandler) -> None:
        self._handler = handler
        self._connections: set[Connection] = set()
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

    def _make_connection(self) -> Connection:
        connection = Connection(self._handler, asyncio.get_running_loop(), self._forget)
        self._connections.add(connection)
        self._idle.clear()
        if self._is_draining:
            connection.start_draining()
        return connection

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
