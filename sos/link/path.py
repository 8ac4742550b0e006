"""The address of the link socket, for a data directory of any length."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

SOCKET_NAME: Final = "link.sock"


class LinkAddress:
    """DATA/link.sock, reached through an open descriptor of DATA: AF_UNIX paths end at 107 bytes."""

    def __init__(self, directory: str) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def _path(self) -> str:
        return f"/proc/self/fd/{self._descriptor}/{SOCKET_NAME}"

    def listen(self) -> socket.socket:
        """A listening socket, 0600; a socket file that a dead core left is replaced."""
        if os.path.lexists(self._path):
            os.unlink(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            listener.bind(self._path)
        finally:
            os.umask(mask)
        listener.listen(64)
        listener.setblocking(False)
        return listener

    def connect(self) -> socket.socket:
        """A connected socket. Raises: OSError when no core listens (now)."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(self._path)
        except OSError:
            connection.close()
            raise
        return connection

    def remove(self) -> None:
        """Take the socket file away: nobody listens any more. One that a dead core left stays for the next."""
        with suppress(OSError):
            os.unlink(self._path)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
