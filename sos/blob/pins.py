"""Pins: a reader asks a holder to keep blobs for a while (protocols.md 4.6).

Pins are shared by the gateway processes of a node, so they are files: empty, named by the blob id, with the end of the pin on
the machine's monotonic clock as their modification time. They are not made durable: after a reboot that clock starts again,
and a pin that ends later than ``PIN_S`` from now cannot be one of this boot.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sos.blob.layout import PINS, blob_id_of_name, blob_path
from sos.catalog.model import BlobId
from sos.clock import Clock
from sos.disk import FILE_MODE

PIN_S: Final = 30.0  # renewed every 5 s by the reader
_NS: Final = 1_000_000_000


class Pins:
    """All methods block shortly; they run in threads."""

    def __init__(self, directory: str, clock: Clock, exists: Callable[[str], bool]) -> None:
        self._directory = directory
        self._clock = clock
        self._exists = exists

    def pin(self, blob_ids: list[BlobId]) -> list[BlobId]:
        """Keep those of ``blob_ids`` that are here from being dropped for ``PIN_S``; returns them."""
        with self._locked():
            end_ns = int((self._clock.monotonic() + PIN_S) * _NS)
            present = [b for b in blob_ids if self._exists(blob_path(self._directory, b))]
            for blob_id in present:
                path = self._path(blob_id)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE))
                os.utime(path, ns=(end_ns, end_ns))
        return present

    @contextmanager
    def unpinned(self, blob_id: BlobId) -> Iterator[bool]:
        """Whether nobody pins ``blob_id``; while the block runs nobody can begin to."""
        with self._locked():
            yield not self._is_pinned(self._path(blob_id))

    def remove_expired(self) -> None:
        """Remove the files of pins that ended."""
        with self._locked():
            for name in os.listdir(f"{self._directory}/{PINS}"):
                blob_id = blob_id_of_name(name)
                if blob_id is not None and not self._is_pinned(self._path(blob_id)):
                    with suppress(FileNotFoundError):
                        os.unlink(self._path(blob_id))

    def _is_pinned(self, path: str) -> bool:
        try:
            end_s = os.stat(path).st_mtime_ns / _NS
        except FileNotFoundError:
            return False
        return 0 <= end_s - self._clock.monotonic() <= PIN_S + 1

    def _path(self, blob_id: BlobId) -> str:
        return f"{self._directory}/{PINS}/{blob_id.hex()}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes and threads of this node: a pin and a drop never cross."""
        fd = os.open(
            f"{self._directory}/{PINS}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, FILE_MODE
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
