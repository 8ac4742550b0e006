"""One TCP proxy per directed link between nodes, for cuts and stalls without root.

Peer addresses are configuration, so every node dials its peers through proxies of its own. A proxy can be silent (bytes
wait, as with a pulled cable), cut (connections reset, new ones refused), and it counts what it did: a fault that did
not fire is not a test. It cannot lose or reorder bytes inside a living connection; neither can TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field

_CHUNK = 256 * 1024


@dataclass(slots=True)
class LinkProxy:
    """Forwards one listening port to ``target_port`` on loopback."""

    target_port: int
    port: int = 0
    silent: bool = False
    hits: int = 0  # connections or chunks that a fault touched
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _speak: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self._speak.set()
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=_CHUNK
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        if self.silent:
            self.hits += 1
            await self._speak.wait()
        try:
            onward_reader, onward_writer = await asyncio.open_connection(
                "127.0.0.1", self.target_port, limit=_CHUNK
            )
        except OSError:
            self._drop(writer)
            return
        self._open.add(onward_writer)
        for source, sink in ((reader, onward_writer), (onward_reader, writer)):
            task = asyncio.create_task(self._pump(source, sink, (writer, onward_writer)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        try:
            while data := await source.read(_CHUNK):
                if self.silent:
                    self.hits += 1
                    await self._speak.wait()
                sink.write(data)
                await sink.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            for writer in pair:
                self._drop(writer)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        with contextlib.suppress(OSError, RuntimeError):
            writer.transport.abort()

    def silence(self) -> None:
        """From now on nothing passes, and nobody is told."""
        self.silent = True
        self._speak.clear()

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
        """May be called twice. What waited is reset, not delivered: TCP would have given up on it."""
        if self.silent:
            self.reset()
        self.silent = False
        self._speak.set()

    async def close(self) -> None:
        self.heal()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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

    def cut(self, source: str, target: str) -> None:
        """Silence one direction of dialling; a connection carries bytes both ways, so cut both for a full cut."""
        for (a, b, _), proxy in self.proxies.items():
            if (a, b) == (source, target):
                proxy.silence()

    def isolate(self, name: str) -> None:
        """As with a pulled cable: nothing to or from ``name``."""
        for (a, b, _), proxy in self.proxies.items():
            if name in (a, b):
                proxy.silence()

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()

    def hits(self) -> int:
        return sum(proxy.hits for proxy in self.proxies.values())

    async def close(self) -> None:
        for proxy in self.proxies.values():
            await proxy.close()
