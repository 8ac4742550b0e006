"""One TCP proxy per directed link between nodes, for cuts and stalls without root.

Peer addresses are configuration, so every node dials its peers through proxies of its own. A proxy can be silent in
either direction (bytes wait, as with a pulled cable) or reset what is open, and it counts what it did: a fault that did
not fire is not a test. It cannot lose or reorder bytes inside a living connection; neither can TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

_CHUNK = 256 * 1024


class _Valve:
    """Lets bytes of one direction through, or makes them wait."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_shut(self) -> bool:
        return not self._open.is_set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        await self._open.wait()


@dataclass(slots=True)
class LinkProxy:
    """Forwards one listening port to ``target_port`` on loopback. Onward: from the side that dials to the target."""

    target_port: int
    port: int = 0
    hits: int = 0  # chunks and connections that a fault touched
    onward: _Valve = field(default_factory=_Valve)
    back: _Valve = field(default_factory=_Valve)
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _is_closed: bool = False

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=_CHUNK
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Known to ``close``, too: a connection that is being made then must not outlive the proxy."""
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)
        try:
            await self._join(reader, writer)
        finally:
            self._tasks.discard(own)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_closed:
            self._drop(writer)
            return
        self._open.add(writer)
        if self.onward.is_shut:
            self.hits += 1
            await self.onward.wait()
        try:
            target_reader, target_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port, limit=_CHUNK
            )
        except OSError:
            self._drop(writer)
            return
        self._open.add(target_writer)
        pair = (writer, target_writer)
        for pump in (
            self._pump(reader, target_writer, self.onward, pair),
            self._pump(target_reader, writer, self.back, pair),
        ):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        valve: _Valve,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(_CHUNK):
                if valve.is_shut:
                    self.hits += 1
                    await valve.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # the other end is gone: so is this one
        finally:
            if valve.is_shut:
                await valve.wait()  # silence also hides the end of a connection
            for writer in pair:
                self._drop(writer)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        with contextlib.suppress(OSError, RuntimeError):
            writer.transport.abort()

    def reset(self) -> None:
        """Every connection ends with RST."""
        for writer in list(self._open):
            raw = writer.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.hits += 1
            self._drop(writer)

    def heal(self) -> None:
        """May be called twice. What waited meanwhile is delivered late, as TCP would after a short cut."""
        self.onward.open()
        self.back.open()

    async def close(self) -> None:
        self.heal()
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        while self._tasks:  # one that is just joining may have begun two more
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for writer in list(self._open):
            self._drop(writer)


@dataclass(slots=True, kw_only=True)
class Links:
    """All directed links of a cluster: ``(from, to, service)`` with service "raft" or "blob"."""

    proxies: dict[tuple[str, str, str], LinkProxy] = field(default_factory=dict)

    async def add(self, source: str, target: str, service: str, target_port: int) -> int:
        """The port that ``source`` dials to reach ``target``'s ``service``."""
        proxy = LinkProxy(target_port=target_port)
        await proxy.start()
        self.proxies[source, target, service] = proxy
        return proxy.port

    def cut_one_way(self, source: str, target: str) -> None:
        """No byte from ``source`` reaches ``target`` any more, whoever dialled; the way back works."""
        for (a, b, _), proxy in self.proxies.items():
            if (a, b) == (source, target):
                proxy.onward.shut()
            elif (a, b) == (target, source):
                proxy.back.shut()

    def isolate(self, name: str) -> None:
        """As with a pulled cable: nothing to or from ``name``."""
        for (a, b, _), proxy in self.proxies.items():
            if name in (a, b):
                proxy.onward.shut()
                proxy.back.shut()

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()

    def hits(self) -> int:
        return sum(proxy.hits for proxy in self.proxies.values())

    async def close(self) -> None:
        for proxy in self.proxies.values():
            await proxy.close()
