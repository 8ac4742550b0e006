"""The highest boot number of each peer, remembered over restarts (protocols.md 1.3).

A peer whose number went down runs on an older state of its disk: it forgot votes and acknowledgements. What
is lost here, with the whole file or for want of space, is only that such a peer may not be noticed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from sos.disk import Disk
from sos.errors import EXIT_DISK, DiskFull, FatalStop
from sos.levels import check_version
from sos.raft.api import NodeId
from sos.raft.small_files import decode_document, encode_document, read_file, write_file
from sos.telemetry import log

BOOTS_NAME: Final = "peers"
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
        try:
            data = read_file(disk, path)
        except OSError as error:
            raise FatalStop(f"{path}: {error}", exit_code=EXIT_DISK) from error
        if data is None:
            return cls(disk, directory, {})
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
            write_file(self._disk, self._directory, BOOTS_NAME, encode_boots(boots))
        except DiskFull as error:
            # known while this process lives; to shut out peers is worse
            log.warning("transport.boots.unsaved", peer=peer, boot=boot, why=str(error))
        except OSError as error:
            raise FatalStop(f"{self._directory}: {error}", exit_code=EXIT_DISK) from error
        self._boots = boots


def encode_boots(boots: Mapping[NodeId, int]) -> bytes:
    """One line of JSON, one line with its CRC; a person may read it."""
    return encode_document({"version": _VERSION, "boots": boots})


def decode_boots(data: bytes) -> dict[NodeId, int] | None:
    """None if the bytes fail their checks. Raises: MadeByNewer."""
    document = decode_document(data)
    if document is None:
        return None
    check_version(f"the file {BOOTS_NAME!r}", document["version"], _VERSION)
    return {str(peer): int(boot) for peer, boot in document["boots"].items()}
