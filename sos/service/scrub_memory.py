"""How far a scrub is, and the file that remembers it over restarts of a gateway."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from sos.catalog.model import NodeId

_VERSION: Final = 1  # of a file that has none, too


@dataclass(slots=True, kw_only=True)
class Position:
    """How far a pass is."""

    is_in_catalog: bool = False  # behind all blobs: ``after`` is a database key
    after: bytes = b""
    blobs_done: int = 0
    bytes_done: int = 0
    found: int = 0


class ScrubMemory:
    """Where the paced pass was, over restarts: a hint beside the blobs, written in place and never synced."""

    def __init__(self, path: Path, node: NodeId) -> None:
        """``node``: one that came back as another incarnation had damage, and reads everything anew."""
        self._path = path
        self._node = node

    def load(self) -> tuple[Position, int | None]:
        """Position and the end of the last pass in ms; a fresh start for a file that is torn, absent or newer."""
        try:
            document = json.loads(self._path.read_text())
            if document.get("version", _VERSION) > _VERSION:
                return Position(), None
            if document["node"] != self._node:
                return Position(), None
            last = document["last_pass_ms"]
            position = Position(
                is_in_catalog=bool(document["is_in_catalog"]),
                after=bytes.fromhex(document["after"]),
                blobs_done=int(document["blobs_done"]),
                bytes_done=int(document["bytes_done"]),
                found=int(document["found"]),
            )
            return position, None if last is None else int(last)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Position(), None

    def save(self, position: Position, last_pass_ms: int | None) -> None:
        document = {
            "node": self._node,
            "version": _VERSION,
            "is_in_catalog": position.is_in_catalog,
            "after": position.after.hex(),
            "blobs_done": position.blobs_done,
            "bytes_done": position.bytes_done,
            "found": position.found,
            "last_pass_ms": last_pass_ms,
        }
        with suppress(OSError):  # a full disk: the pass begins again after a restart
            self._path.write_text(json.dumps(document))
