"""Keeps one peer connected: resolves its name off the loop, dials, waits longer after each failure.

The higher name of a pair dials at once when a connection is lost, the lower one a moment later: so that they
rarely cross, and a connection that only one side can make still comes up (pysyncobj.md, D11 and section 4).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Final

from sos.clock import IdSource
from sos.config import parse_address
from sos.limits import PEER_CONNECT_S_MAX, PEER_DEAD_S
from sos.raft.connection import Connection, Ended

_DELAY_S_MIN: Final = 0.05
_DELAY_S_MAX: Final = 1.0
_YIELD_S: Final = 0.02
_ADDRESSES_MAX: Final = 8


class Dialer:
    """One name and its address. ``connection(name)`` makes the protocol of an attempt."""

    def __init__(
        self,
        *,
        name: str,
        address: str,
        own_name: str,
        connection: Callable[[str], Connection],
        is_connected: Callable[[str], bool],
        failed: Callable[[str, Ended], None],
        ids: IdSource,
    ) -> None:
        self.name = name
        self.address = address
        self._target = parse_address(address)
        self._yields = own_name < name
        self._new_connection = connection
        self._is_connected = is_connected
        self._failed = failed
        self._ids = ids
        self._resolver = _Resolver(self._target.host, self._target.port)
        self._wake = asyncio.Event()
        self._attempts = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to dial."""
        self._task = loop.create_task(self._run())

    def lost(self) -> None:
        """The name may not be connected any more: look again."""
        self._wake.set()

    def cancel(self) -> None:
        """Dial no more."""
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Dial no more; returns when nothing runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay_s = 0.0
        while True:
            if self._is_connected(self.name):
                await self._pause(None)
                if self._yields:
                    await asyncio.sleep(_YIELD_S)
                delay_s = 0.0
                continue
            ended = await self._attempt()
            if ended is not None:
                self._failed(self.name, ended)
                delay_s = min(max(2 * delay_s, _DELAY_S_MIN), _DELAY_S_MAX)
                jitter = self._ids.random_bytes(1)[0] / 510  # 0 to 0.5
                await self._pause(delay_s * (1 - jitter))

    async def _pause(self, seconds: float | None) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _attempt(self) -> Ended | None:
        """Dial once. Returns None when the connection opened, else why not."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PEER_CONNECT_S_MAX):
                addresses = await self._resolver.addresses(loop)
                family, address = addresses[self._attempts % len(addresses)]
                self._attempts += 1
                sock = await _connect(loop, family, address)
        except TimeoutError:
            return Ended(f"not reachable: no answer within {PEER_CONNECT_S_MAX:g} s")
        except OSError as error:
            return Ended(f"not reachable: {error.strerror or error}")
        connection = self._new_connection(self.name)
        try:
            await loop.create_connection(lambda: connection, sock=sock)
        except OSError as error:
            sock.close()
            connection.close(Ended(f"not reachable: {error.strerror or error}"))
            return connection.ended
        await asyncio.wait({connection.settled}, timeout=PEER_DEAD_S)
        if not connection.settled.done():
            connection.close(Ended(f"it does not answer the handshake within {PEER_DEAD_S:g} s"))
        return None if connection.was_opened else connection.ended


async def _connect(
    loop: asyncio.AbstractEventLoop, family: socket.AddressFamily, address: tuple[str, int]
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


_Resolved = list[tuple[socket.AddressFamily, tuple[str, int]]]


class _Resolver:
    """Addresses of one host. A name is looked up in a thread of its own, one at a time.

    Not the loop's pool: a resolver that hangs would take its few threads away from everything else.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._running: asyncio.Future[_Resolved] | None = None

    async def addresses(self, loop: asyncio.AbstractEventLoop) -> _Resolved:
        """At least one address. Raises: OSError."""
        try:
            ip = ipaddress.ip_address(self._host)
        except ValueError:
            pass
        else:
            family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
            return [(family, (self._host, self._port))]
        if self._running is None or self._running.done():
            self._running = loop.create_future()
            # A failure that nobody waits for any more is no event of its own.
            self._running.add_done_callback(lambda done: done.cancelled() or done.exception())
            threading.Thread(target=self._look_up, args=(loop, self._running), daemon=True).start()
        return await asyncio.shield(self._running)

    def _look_up(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[_Resolved]) -> None:
        found: _Resolved = []
        failure: OSError | None = None
        try:
            for family, _, _, _, address in socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM
            )[:_ADDRESSES_MAX]:
                found.append((family, (str(address[0]), self._port)))
        except (OSError, UnicodeError) as error:
            failure = OSError(f"{self._host} has no address: {error}")
        try:
            loop.call_soon_threadsafe(_settle, answer, found, failure)
        except RuntimeError:
            return  # the loop was closed meanwhile


def _settle(answer: asyncio.Future[_Resolved], found: _Resolved, failure: OSError | None) -> None:
    if answer.done():
        return
    if failure is not None or not found:
        answer.set_exception(failure or OSError("no address"))
    else:
        answer.set_result(found)
