"""Accepts connections from a listening socket that it does not own, and never stops for want of descriptors.

Not the loop's own server: uvloop closes that for ever on one EMFILE (as PySyncObj's does, pysyncobj.md section 4).
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from sos.raft.connection import Connection, Ended
from sos.telemetry import log

_ACCEPTS_PER_TURN: Final = 64
_PAUSE_S: Final = 0.1
_SHORT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Listener:
    """``connection()`` makes the protocol of an accepted socket."""

    def __init__(self, sock: socket.socket, connection: Callable[[], Connection]) -> None:
        self._socket = sock
        self._new_connection = connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: dict[asyncio.Task[None], socket.socket] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._is_short = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._socket.setblocking(False)
        loop.add_reader(self._socket, self._accept)

    async def stop(self) -> None:
        """Accept no more; the socket stays open."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        loop.remove_reader(self._socket)
        if self._pause is not None:
            self._pause.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        if self._loop is None:
            return
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _SHORT_OF:
                    self._wait_for_descriptors(error)
                    return
                continue  # the client is gone already
            self._is_short = False
            sock.setblocking(False)
            task = self._loop.create_task(self._adopt(sock))
            self._tasks[task] = sock
            task.add_done_callback(self._adopted)

    async def _adopt(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection = self._new_connection()
        try:
            await loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            sock.close()
            connection.close(Ended(f"connection lost: {error}"))

    def _adopted(self, task: asyncio.Task[None]) -> None:
        sock = self._tasks.pop(task)
        if task.cancelled():
            sock.close()  # it may have been cancelled before its first step

    def _wait_for_descriptors(self, error: OSError) -> None:
        """Let others close some first; the clients wait in the backlog."""
        assert self._loop is not None
        if not self._is_short:
            self._is_short = True
            log.error("transport.accept.paused", why=str(error))
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._loop is not None:
            self._loop.add_reader(self._socket, self._accept)
