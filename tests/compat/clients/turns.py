"""One endpoint for many nodes: each connection goes to the next node that takes it, as a simple balancer does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Sequence

_CHUNK = 256 * 1024


class Turns:
    """Forwards connections to ``ports`` on loopback in turn, in a thread of its own. Use as a context manager."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0
        self.connections = 0

    def __enter__(self) -> Turns:
        self._thread.start()
        start = asyncio.start_server(self._accept, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._ports:
            port = self._ports[next(self._turn) % len(self._ports)]
            try:
                onward = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            self.connections += 1
            await asyncio.gather(_copy(reader, onward[1]), _copy(onward[0], writer))
            return
        writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        if target.can_write_eof():
            target.write_eof()
    if source.at_eof():
        await asyncio.sleep(0)
    target.close()
