"""Feature levels: what this build applies, and how it tells what a newer one wrote. Pure.

A command, or a behaviour of the state machine, has the level of the release that brought it. All members must apply
the same, so the leader proposes a command only when the lowest level among the members reaches it; from the first
such command on the catalog carries that level, and a build below it neither starts on it nor is admitted. Until then
a cluster may go back to the release before. The same holds for a file or record whose new form an older release
would read wrongly: its writer changes over with the level. Rules: docs/on-disk-format.md, "Versions".
"""

from __future__ import annotations

from typing import Final

from sos.errors import MadeByNewer

FIRST: Final = 1  # of every release that does not tell its own
SECOND: Final = 2  # multipart uploads, versions, tags, bucket settings, limited keys and accounts
LEVEL: Final = SECOND  # the highest this build applies
UNKNOWN: Final = 1 << 16  # of what this build does not know: above every level there is


def check_level(what: str, level: int) -> None:
    """Raises: MadeByNewer, if this build does not apply ``level``."""
    if level > LEVEL:
        shown = "unknown to this one" if level >= UNKNOWN else f"feature level {level}"
        raise MadeByNewer(what, shown)


def check_version(what: str, version: object, known: int) -> None:
    """A file's version, after its checksum was found right. Raises: MadeByNewer."""
    if isinstance(version, int) and version > known:
        raise MadeByNewer(what, f"version {version}")
