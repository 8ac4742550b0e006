"""The highest boot number of each peer, remembered over restarts (protocols.md 1.3).

A peer whose number went down runs on an older state of its disk: it forgot votes and acknowledgements. What
is lost here, with the whole file or for want of space, is only that such a peer may not be noticed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Final

from sos.disk import Disk
from sos.errors import EXIT_DISK, DiskFull, FatalStop
from sos.levels import check_version
from sos.raft.api import NodeId
from sos.telemetry import log

BOOTS_NAME: Final = "peers"
_TEMPORARY_SUFFIX: Final = ".tmp"
_VERSION: Final = 1


class PeerBoots:
    """The numbers in one file of a data directory, and its only writer."""

    def __init__(self, disk: Disk, directory: str, boots: Mapping[NodeId, int]) -> None:
        self._disk = disk
        self._directory = directory
        self._boots = dict(boots)

    @classmethod
    def load(cls, disk: Disk, directory: str) -> PeerBoots:
        """What was remembered; nothing if there is no file or it fails its checks. Raises: FatalStop."""
        path = os.path.join(directory, BOOTS_NAME)
        if not disk.exists(path):
            return cls(disk, directory, {})
        try:
            file = disk.open(path)
            try:
                data = file.pread(file.size(), 0)
            finally:
                file.close()
        except OSError as error:
            raise FatalStop(f"{path}: {error}", exit_code=EXIT_DISK) from error
        boots = decode_boots(data)
        if boots is None:
            log.warning("transport.boots.damaged", path=path)
        return cls(disk, directory, boots or {})

    @property
    def highest(self) -> Mapping[NodeId, int]:
        return self._boots

    def saw(self, peer: NodeId, boot: int) -> None:
        """Remember ``boot`` if it is the highest of ``peer``; durable when this returns. Raises: FatalStop."""
        if boot <= self._boots.get(peer, 0):
            return
        boots = {**self._boots, peer: boot}
        try:
            self._write(boots)
        except DiskFull as error:
            # known while this process lives; to shut out peers is worse
            log.warning("transport.boots.unsaved", peer=peer, boot=boot, why=str(error))
        except OSError as error:
            raise FatalStop(f"{self._directory}: {error}", exit_code=EXIT_DISK) from error
        self._boots = boots

    def _write(self, boots: Mapping[NodeId, int]) -> None:
        path = os.path.join(self._directory, BOOTS_NAME)
        temporary = path + _TEMPORARY_SUFFIX
        if self._disk.exists(temporary):
            self._disk.unlink(temporary)
        file = self._disk.create(temporary)
        try:
            file.pwrite(encode_boots(boots), 0)
            file.fsync()
        finally:
            file.close()
        self._disk.rename(temporary, path)
        self._disk.fsync_directory(self._directory)


def encode_boots(boots: Mapping[NodeId, int]) -> bytes:
    """One line of JSON, one line with its CRC; a person may read it."""
    document = {"version": _VERSION, "boots": boots}
    body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"
    return body + f"{zlib.crc32(body):08x}\n".encode()


def decode_boots(data: bytes) -> dict[NodeId, int] | None:
    """None if the bytes fail their checks. Raises: MadeByNewer."""
    body, newline, check = data.partition(b"\n")
    body += newline
    if check != f"{zlib.crc32(body):08x}\n".encode():
        return None
    document = json.loads(body)
    check_version(f"the file {BOOTS_NAME!r}", document["version"], _VERSION)
    return {str(peer): int(boot) for peer, boot in document["boots"].items()}
